"""From nothing to a dashboard, as a person goes: teach a product from a ZIP, tune, save, batch, review, look."""

import json
import zipfile
from pathlib import Path

import pytest
from served import running_app

from anomaly import synthetic
from anomaly.accounts import SUPERVISOR, set_password

playwright = pytest.importorskip("playwright.sync_api")
PASSWORD = "seven brass gears"
WAIT = 60_000  # milliseconds: a product is taught on the way


def zipped(path: Path, photos: list[Path]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for photo in photos:
            archive.write(photo, f"{photo.parent.name}_{photo.name}")
    return path


def test_a_new_product_goes_all_the_way(tmp_path, browser):
    synthetic.write_product(tmp_path / "toys", "leather", train=24, test=4, size=128, seed=3)
    toys = tmp_path / "toys" / "leather"
    good = zipped(tmp_path / "good.zip", sorted((toys / "train" / "good").iterdir()))
    parts = zipped(tmp_path / "parts.zip", sorted((toys / "test").rglob("*.png")))
    set_password(tmp_path / "people.json", "anna", role=SUPERVISOR, password=PASSWORD)
    places = {"--runs": "runs", "--thresholds": "threshold.json", "--record": "record", "--auth-file": "people.json"}
    options = [text for option, name in places.items() for text in (option, str(tmp_path / name))]
    with running_app(*options) as (address, _):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(WAIT)
        expect = playwright.expect
        expect.set_options(timeout=WAIT)
        page.goto(address)
        expect(page.get_by_role("tab")).to_have_text(["Inspect", "Compare"])  # a visitor
        page.get_by_text("Sign in").first.click()
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.locator("#account form button").click()
        expect(page.get_by_role("tab", name="Teach")).to_be_visible()

        page.get_by_role("tab", name="Teach").click()
        page.locator("#teach-files input[type=file]").set_input_files(good)
        expect(page.locator("#teach-chosen")).to_contain_text("24 of 24 photos will be learned from")
        page.locator("#teach-name input, #teach-name textarea").fill("Leather strap")
        page.get_by_role("checkbox", name="unet").uncheck()
        page.locator("#teach-start").click()
        expect(page.locator("#teach-outcome")).to_contain_text("false alarms")
        (name,) = [place.name for place in (tmp_path / "runs").iterdir() if not place.name.startswith((".", "_"))]

        page.get_by_role("tab", name="Tune").click()
        page.locator("#tune-product").get_by_label("Leather strap").check()
        fail = page.locator("#tune-fail input[type=number]")
        expect(fail).to_be_visible()
        limit = float(fail.input_value())
        fail.fill(str(round(limit * 1.5, 3)))
        expect(page.locator("#tune-said h2")).not_to_contain_text(f"FAIL {limit:.4g} ")
        page.get_by_label("Your name").fill("Anna")
        page.get_by_label("Reason").fill("first week")
        page.locator("#tune-store").click()
        expect(page.locator("#tune-versions")).to_contain_text("first week")
        stored = json.loads((tmp_path / "threshold.json").read_text())["categories"][name]["detectors"]["mahalanobis"]
        assert stored["fail"] == pytest.approx(1.5 * limit, rel=0.01) and stored["set_by"] == "Anna"

        page.get_by_role("tab", name="Batch").click()
        page.locator("#batch-product").get_by_text("Leather strap").click()
        page.locator("#batch-files input[type=file]").set_input_files(parts)
        page.locator("#batch-start").click()
        expect(page.locator("#batch-downloads")).to_be_visible()
        expect(page.locator("#batch-found")).to_contain_text("8")

        page.get_by_role("tab", name="Review").click()
        part = page.locator("#review-part")
        expect(part.locator("img").first).to_be_visible()
        page.keyboard.press("d")
        expect(page.locator("#review-agreement")).to_contain_text("1")

        page.get_by_role("tab", name="Dashboard").click()
        expect(page.locator("#dashboard-record")).to_contain_text("8")
