"""The app as a person meets it: the real program, its shipped runs, and a real browser."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from served import ROOT, START_SECONDS, running_app

from anomaly.inspection import Inspector

playwright = pytest.importorskip("playwright.sync_api")

WAIT = 60_000  # milliseconds: the first inspection loads a model, and two cores may be busy with other tests

# Pixels in which two pictures of the page differ clearly: the heat and its outline.
CHANGED = """() => {
  const pixels = id => {
    const image = document.querySelector(id + ' img'), canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const a = pixels('#original'), b = pixels('#heatmap');
  let changed = 0;
  for (let i = 0; i < a.length; i += 4)
    if (Math.abs(a[i] - b[i]) + Math.abs(a[i + 1] - b[i + 1]) + Math.abs(a[i + 2] - b[i + 2]) > 120) changed++;
  return changed;
}"""


class Part:
    """A shipped example that the active detector of its category calls an anomaly, and a good one beside it."""

    def __init__(self):
        self.inspector = Inspector(runs=ROOT / "runs", thresholds=ROOT / "threshold.json")
        for info in self.inspector.categories():
            good = [path for path in info.examples if path.name.startswith("good")]
            for path in info.examples:
                if path in good or not good:
                    continue
                found = self.inspector.inspect(path, category=info.name)
                if found.verdict == "ANOMALY" and found.regions:
                    self.info, self.path, self.good, self.found = info, path, good[0], found
                    return
        pytest.fail("no shipped example is an anomaly with a region")


@pytest.fixture(scope="module")
def part():
    return Part()


@pytest.fixture(scope="module")
def served():
    with running_app() as (address, seconds):
        yield address, seconds


@pytest.fixture
def visit(served, browser):
    """Open the page as a new person; any request that leaves this machine fails the test."""
    address, _ = served
    contexts, requests = [], []

    def open_page(width=1440, height=900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.locator("#product input").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def choose(page, title: str) -> None:
    page.get_by_role("radio", name=title, exact=True).check()
    page.locator("#photo input[type=file]").wait_for(state="attached")


def upload(page, path: Path) -> None:
    page.locator("#photo input[type=file]").set_input_files(path)


def expect_verdict(page, word: str, name: str) -> None:
    playwright.expect(page.locator("#verdict h2")).to_have_text(word, timeout=WAIT)
    playwright.expect(page.locator("#verdict")).to_contain_text(name)


def test_the_page_answers_in_time(served):
    _, seconds = served
    assert seconds < START_SECONDS


def test_nothing_can_be_uploaded_before_a_product_is_chosen(visit):
    page = visit()
    assert page.locator("#product input:checked").count() == 0
    assert page.locator("input[type=file]").count() == 0
    playwright.expect(page.locator("#hint")).to_have_text("Choose a product first.")
    drop = "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), bubbles: true}))"
    page.evaluate(drop.replace("new DataTransfer()", _CARRIER))
    playwright.expect(page.locator("#verdict h2")).to_have_text("Choose a product")


_CARRIER = (
    "(() => { const d = new DataTransfer(); d.items.add(new File(['x'], 'x.png', {type: 'image/png'})); return d; })()"
)


def test_an_operator_finds_the_defect_and_tries_another_limit(visit, part):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.path)
    expect_verdict(page, "ANOMALY", part.path.name)
    playwright.expect(page.locator("#verdict")).to_contain_text(part.info.title)
    playwright.expect(page.get_by_role("meter")).to_have_attribute(
        "aria-valuetext", f"{part.found.level:.2f} times the limit"
    )
    playwright.expect(page.locator("#regions tbody tr").first).to_contain_text(str(part.found.regions[0].box[2]))
    outlined = page.evaluate(CHANGED)
    assert outlined > 50

    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    playwright.expect(page.locator("#verdict .trial")).to_contain_text("Nothing is saved")
    slider.press("End")
    expect_verdict(page, "OK", part.path.name)
    playwright.expect(page.locator("#verdict .trial")).to_contain_text("ANOMALY")
    assert page.evaluate(CHANGED) < outlined

    page.get_by_role("button", name="Reset to stored limit").click()
    expect_verdict(page, "ANOMALY", part.path.name)
    playwright.expect(page.locator("#verdict .trial")).to_have_count(0)
    playwright.expect(slider).to_have_value("100")
    assert page.evaluate(CHANGED) == outlined


def test_a_detector_without_reconstruction_says_so(visit, part):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.path)
    page.locator("#heatmap img").wait_for()
    for name in part.info.detectors:
        page.get_by_role("radio", name=name, exact=True).check()
        playwright.expect(page.locator("#regions .facts")).to_contain_text(name, timeout=WAIT)
        drawn = page.locator("#reconstruction img").count() == 1
        said = "makes no reconstruction" in page.locator("#reconstruction").inner_text()
        assert drawn != said
        if name == "mahalanobis":
            assert said


def test_why_shows_the_place_beside_a_good_one(visit, part):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.path)
    expect_verdict(page, "ANOMALY", part.path.name)
    page.get_by_role("button", name="Why?").click()
    pictures = page.locator(".why img")
    playwright.expect(pictures).to_have_count(2, timeout=WAIT)
    assert pictures.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 8)")
    shares = [int(text.rstrip("%")) for text in page.locator(".why td:last-child").all_inner_texts()]
    assert sum(shares) in (99, 100, 101)
    playwright.expect(page.get_by_role("button", name="Why?")).to_have_count(0)
    upload(page, part.path)
    playwright.expect(pictures).to_have_count(0)


def test_an_example_is_inspected_by_a_click(visit, part):
    page = visit()
    choose(page, part.info.title)
    page.get_by_role("button", name=f"Inspect the example {part.path.name}").click()
    expect_verdict(page, "ANOMALY", part.path.name)


def test_many_quick_clicks_end_with_the_last_one(visit, part):
    page = visit()
    choose(page, part.info.title)
    buttons = page.locator("#examples button[data-index]")
    count = buttons.count()
    for index in range(count):
        buttons.nth(index).click()
    last = part.info.examples[count - 1].name
    playwright.expect(page.locator("#verdict .reading")).to_be_visible(timeout=WAIT)
    playwright.expect(page.locator("#verdict")).to_contain_text(last, timeout=WAIT)


def test_a_damaged_photo_leaves_no_verdict_and_the_page_goes_on(visit, part, tmp_path):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.good)
    playwright.expect(page.locator("#verdict .reading")).to_be_visible()
    broken = tmp_path / "broken.png"
    broken.write_bytes(part.path.read_bytes()[:200])
    upload(page, broken)
    playwright.expect(page.locator("#verdict h2")).to_have_text("Not inspected")
    playwright.expect(page.locator("#verdict")).to_contain_text("broken.png")
    assert page.locator("#original img").count() == 0
    upload(page, part.path)
    expect_verdict(page, "ANOMALY", part.path.name)


def test_two_people_do_not_see_each_other(visit, part):
    first, second = visit(), visit()
    for page, path in ((first, part.path), (second, part.good)):
        choose(page, part.info.title)
        upload(page, path)
        playwright.expect(page.locator("#verdict .reading")).to_be_visible()
    second.get_by_role("slider").press("End")
    playwright.expect(second.locator("#verdict .trial")).to_be_visible()
    first.get_by_role("slider").press("ArrowLeft")
    expect_verdict(first, "ANOMALY", part.path.name)
    playwright.expect(second.locator("#verdict")).to_contain_text(part.good.name)


def test_a_phone_shows_all_without_scrolling_sideways(visit, part):
    page = visit(390, 844)
    choose(page, part.info.title)
    upload(page, part.path)
    expect_verdict(page, "ANOMALY", part.path.name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    word = page.locator("#verdict h2").bounding_box()
    assert word["x"] + word["width"] <= 390
    playwright.expect(page.locator("#verdict h2")).to_be_in_viewport()


def test_the_keyboard_alone_is_enough(visit, part):
    page = visit()
    titles = [info.title for info in part.inspector.categories()]
    for _ in range(20):  # the language, the tabs
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "radio":
            break
    page.keyboard.press("Space")
    for _ in range(titles.index(part.info.title)):
        page.keyboard.press("ArrowDown")
    playwright.expect(page.get_by_role("radio", name=part.info.title, exact=True)).to_be_checked()
    wanted = page.get_by_role("button", name=f"Inspect the example {part.path.name}")
    wanted.wait_for()
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect_verdict(page, "ANOMALY", part.path.name)


def test_pictures_open_at_full_size_and_flip(visit, part):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.path)
    page.get_by_role("button", name="Enlarge: Heatmap").click()
    viewer = page.get_by_role("dialog")
    playwright.expect(viewer.get_by_role("heading")).to_have_text("Heatmap")
    page.keyboard.press("ArrowRight")
    playwright.expect(viewer.get_by_role("heading")).to_have_text("Original")
    page.keyboard.press("Escape")
    playwright.expect(viewer).to_be_hidden()


def test_every_picture_says_what_it_shows(visit, part):
    page = visit()
    choose(page, part.info.title)
    upload(page, part.path)
    page.locator("#heatmap img").wait_for()
    alts = page.locator("#panels img").evaluate_all("images => images.map(image => image.alt)")
    assert len(alts) >= 2
    assert all(part.path.name in alt for alt in alts)


def test_a_script_gets_the_score_of_the_library(visit, part, served):
    request = visit().request
    address, _ = served
    buffer = {"name": part.path.name, "mimeType": "image/png", "buffer": part.path.read_bytes()}
    stored = request.post(f"{address}/gradio_api/upload", multipart={"files": buffer}).json()[0]
    image = {"path": stored, "orig_name": part.path.name, "meta": {"_type": "gradio.FileData"}}
    call = request.post(f"{address}/gradio_api/call/inspect", data={"data": [part.info.name, image, None]}).json()
    answer = request.get(f"{address}/gradio_api/call/inspect/{call['event_id']}").text()
    found = json.loads(answer.split("data: ", 1)[1].splitlines()[0])[0]
    assert found["score"] == pytest.approx(part.found.score, abs=1e-6)
    assert found["verdict"] == "ANOMALY"
