"""The Teach tab as a person meets it: a ZIP of photos, a product, a second version of it, and the way back."""

import zipfile

import pytest
from conftest import SMALL, plate
from served import launched

from anomaly import detectors, runs
from anomaly.accounts import SUPERVISOR, Person
from anomaly.handlers import teach as verbs
from anomaly.handlers.session import Site
from anomaly.history import History
from anomaly.images import write_image
from anomaly.inspection import Inspector
from anomaly.ui import teach

playwright = pytest.importorskip("playwright.sync_api")
WAIT = 60_000  # milliseconds: two cores may be busy with other tests


@pytest.fixture
def site(tmp_path):
    folder, book = tmp_path / "runs", tmp_path / "threshold.json"
    return Site(folder, book, Inspector(runs=folder, thresholds=book), History(tmp_path / "record"))


@pytest.fixture
def page(site, monkeypatch, browser):
    """The tab of a supervisor, with detectors as small as can be."""
    create = detectors.create
    monkeypatch.setattr(verbs.detectors, "create", lambda name, **given: create(name, **given | SMALL))
    app = launched(site, Person("ann", SUPERVISOR), teach)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(WAIT)
    page.goto(app.local_url)
    yield page
    page.close()
    app.close(verbose=False)


def packed(path, numbers, extra=()):
    folder = path.parent / path.stem
    folder.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for number in [*numbers, *extra]:
            write_image(folder / f"{number:03d}.png", plate(number % 100))
            archive.write(folder / f"{number:03d}.png", f"{number:03d}.png")
    return path


def test_a_product_is_taught_from_a_zip_refitted_and_brought_back(page, site, tmp_path):
    expect = playwright.expect
    page.locator("#teach-files input[type=file]").set_input_files(packed(tmp_path / "good.zip", range(14), extra=[103]))
    total = page.locator("#teach-sum")
    expect(total).to_contain_text("14 of 15 photos will be learned from", timeout=WAIT)
    odd = page.get_by_role("button", name="Keep the photo 103.png")
    expect(page.locator("#teach-photos .odd")).to_contain_text("The same file as 003.png")
    odd.click()
    expect(total).to_contain_text("15 of 15")
    odd.press("Enter")
    expect(total).to_contain_text("14 of 15")

    page.get_by_text("Region of interest").click()
    page.get_by_label("left, percent").fill("25")
    page.get_by_label("left, percent").press("Tab")
    expect(page.locator("#teach .box")).to_be_visible()
    expect(page.get_by_label("width, percent")).to_have_value("75")
    page.get_by_label("Name", exact=True).fill("Blue plate")
    page.get_by_label("unet").uncheck()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#teach-outcome h3").first).to_have_text("Blue plate is learned", timeout=WAIT)
    expect(page.locator("#teach-outcome")).to_contain_text("n = 3 held-out good parts")
    expect(page.locator("#teach-outcome svg.histogram rect.bar")).not_to_have_count(0)
    first = runs.open_run(site.runs, "blue_plate", "mahalanobis")
    assert first.region == (0.25, 0.0, 0.75, 1.0)

    page.reload()
    page.locator("#teach-product").get_by_label("Blue plate").check()
    expect(page.locator("#teach-facts")).to_contain_text("14 photos of its training are kept")
    more = packed(tmp_path / "more.zip", range(20, 26))
    page.locator("#teach-files input[type=file]").set_input_files(more)
    expect(total).to_contain_text("6 of 6", timeout=WAIT)
    page.get_by_role("button", name="Train a new version").click()
    table = page.locator("#teach-outcome .versions")
    expect(table).to_contain_text("False alarms among them", timeout=WAIT)
    assert runs.open_run(site.runs, "blue_plate", "mahalanobis").weights_sha256 == first.weights_sha256
    table.get_by_role("button", name="Use this version").click()
    photos = page.locator("#teach-versions tr", has_text="in use").locator("td").nth(2)
    expect(photos).to_have_text("20", timeout=WAIT)
    page.locator("#teach-versions").get_by_role("button", name="Use this version").click()
    expect(photos).to_have_text("14", timeout=WAIT)
    assert runs.open_run(site.runs, "blue_plate", "mahalanobis").weights_sha256 == first.weights_sha256


def test_a_training_is_seen_by_who_comes_later_and_a_cancelled_one_leaves_nothing(page, site, tmp_path, monkeypatch):
    monkeypatch.setitem(SMALL, "epochs", 500)
    page.locator("#teach-files input[type=file]").set_input_files(packed(tmp_path / "good.zip", range(12)))
    page.get_by_label("Name", exact=True).fill("Plate")
    page.get_by_label("mahalanobis").uncheck()
    page.get_by_role("button", name="Teach", exact=True).click()
    page.locator("#teach-live svg polyline").first.wait_for(state="attached")
    page.reload()
    expect = playwright.expect
    expect(page.locator("#teach-live h3")).to_have_text("Plate · unet", timeout=WAIT)
    expect(page.locator("#teach-repairs img")).not_to_have_count(0)
    assert page.locator("#teach-repairs img").evaluate_all("all => all.every(one => one.naturalWidth == 64)")
    page.get_by_role("button", name="Cancel, keep nothing").click()
    expect(page.locator("#teach-live h3")).to_have_text("Cancelled", timeout=WAIT)
    assert runs.names(site.runs) == {} and not list(site.runs.iterdir())


def test_refusals_are_said_and_the_page_goes_on(page, tmp_path):
    expect = playwright.expect
    (tmp_path / "fake.zip").write_bytes(b"PK\x03\x04 no zip at all")
    page.locator("#teach-files input[type=file]").set_input_files(tmp_path / "fake.zip")
    expect(page.locator("#teach-live .refused")).to_contain_text("fake.zip is no ZIP file", timeout=WAIT)
    page.locator("#teach-files").get_by_role("button", name="Clear").click()
    page.locator("#teach-files input[type=file]").set_input_files(packed(tmp_path / "good.zip", range(12)))
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.locator("#teach-live .refused")).to_contain_text("The product has no name", timeout=WAIT)
    expect(page.locator("#teach-sum")).to_contain_text("12 of 12")
