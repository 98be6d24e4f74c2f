"""How the page looks and reads: accessibility, languages, phone, keyboard; and that nobody sees another's photo."""

import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from served import ROOT, ToyInspector, free_port, toy_site, write_plate

from anomaly import errors, ui
from anomaly.accounts import Desk
from anomaly.history import History
from anomaly.ui import theme

playwright = pytest.importorskip("playwright.sync_api")

WORDS = json.loads(theme.WORDS.read_text(encoding="utf-8"))
LANGUAGES = {"zh-CN", "ms"}
PLACEHOLDER = re.compile(r"{\w+}")
GRADIO_SAYS = {  # entries for words that are not ours
    "Click to Access Webcam",
    "Upload file",
    "Capture from camera",
    "Paste from clipboard",
    "Remove this file",
    "Click to upload or drop files",
    "common.upload",
    "File(s) exceed the maximum allowed size of {n} Mb: {file}",
    "Connection to the server was lost. Attempting reconnection...",
    "No space left on device",  # and these of the system
    "Permission denied",
    "Drop File Here",
    "- or -",
    "Click to Upload",
    "number input for {label}",
    "range slider for {label}",
}
DATA = re.compile(
    r"Gray plate|Other plate|plain plate|dark spot|\w+\.png|\d+ ms|plate has no threshold for blind.*"
    r"|\b(good|toy|twin|blind|mahalanobis|unet|fused)\b|UTC, supervisor"
    r"|\b(ZIP|JPEG|AUROC|AUPRO|Dice|ROC|Kolmogorov|Smirnov)\b"  # the same in every language
)
TOKEN = "a-token-of-the-tests"
AXE = "axe_playwright_python"  # the package that carries the script
SOURCES = "all => all.map(one => one.src)"
SCREENS = {"light": (1400, "light"), "dark": (1400, "dark"), "phone": (390, "light"), "dark phone": (390, "dark")}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page around a toy inspector, served in this process."""
    folder = tmp_path_factory.mktemp("site")
    site = toy_site(ToyInspector(folder / "runs" / "examples"), History(folder / "record"))
    app = ui.build_app(site, Desk(token=TOKEN))
    ui._launch(app, "127.0.0.1", free_port(), [])
    yield app
    app.close(verbose=False)


@pytest.fixture
def visit(app, browser):
    """Open the page as a new person: visit(width=…, color_scheme=…, locale=…)."""
    contexts = []

    def open_page(width=1400, color_scheme="light", locale="en-US", staff=False):
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=color_scheme, locale=locale, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.goto(f"{app.local_url}?token={TOKEN}" if staff else app.local_url)
        page.locator("#product input").first.wait_for()
        playwright.expect(page.get_by_role("tab")).to_have_count(len(ui.TABS) if staff else 2)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def spotted(tmp_path) -> Path:
    return write_plate(tmp_path / "spotted.png", spot=0)


def inspect(page, path: Path) -> None:
    page.locator("#product label").first.click()
    page.locator("#photo input[type=file]").set_input_files(path)
    page.locator("#verdict .reading").wait_for()


def compare(page, path: Path) -> None:
    page.get_by_role("tab").nth(1).click()
    page.locator("#compare-product label").first.click()
    page.locator("#compare-photo input[type=file]").set_input_files(path)
    playwright.expect(page.locator("#ranking tbody tr")).to_have_count(2)


def violations(page) -> list[str]:
    """What axe-core finds serious or critical on the page as it stands, with the place of each."""
    page.add_script_tag(path=Path(find_spec(AXE).origin).with_name("axe.min.js"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("screen", SCREENS)
def test_no_tab_has_a_serious_accessibility_violation(visit, spotted, screen):
    width, scheme = SCREENS[screen]
    page = visit(width, scheme, staff=True)
    inspect(page, spotted)
    page.get_by_role("button", name="Why?").click()
    page.locator("#why img").first.wait_for()
    compare(page, spotted)
    found = {}
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(1000)  # what a tab asks the server for is there
        found[tab.text_content()] = violations(page)
    assert found and not any(found.values()), json.dumps(found, indent=1)


def test_the_accessibility_check_would_notice(visit):
    page = visit()
    page.evaluate(
        "document.querySelector('#masthead').innerHTML += '<img src=\"data:,\"><p style=\"color:#999\">dim</p>'"
    )
    assert {said.split(":")[0] for said in violations(page)} == {"image-alt", "color-contrast"}


def test_every_tab_fits_a_phone(visit, spotted):
    page = visit(width=390, staff=True)
    inspect(page, spotted)
    compare(page, write_plate(spotted.with_name("bright.png"), gray=200))  # one product refuses it, in a long sentence
    table = page.locator("#ranking table").bounding_box()
    assert table["x"] >= 0 and table["x"] + table["width"] <= 390
    for tab in page.get_by_role("tab").all():
        box = tab.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 44, tab.text_content()
        tab.click()
        page.wait_for_timeout(1000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab.text_content()


def test_the_keyboard_is_always_seen(visit, spotted):
    """Whatever the Tab key reaches has a ring of three pixels, on itself or round it."""
    ring = """() => {
      const thick = node => parseFloat(getComputedStyle(node).outlineWidth) >= 3
        && getComputedStyle(node).outlineStyle !== 'none';
      let node = document.activeElement;
      if (node === document.body) return null;
      const name = node.outerHTML.slice(0, 120), hidden = getComputedStyle(node).opacity === '0';
      for (let up = node; up && up !== document.body; up = up.parentElement)
        if (thick(up) && !(hidden && up === node)) return '';
      return name;
    }"""
    page = visit()
    inspect(page, spotted)
    compare(page, spotted)
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.keyboard.press("Shift+Tab")
        reached = 0
        for _ in range(60):
            page.keyboard.press("Tab")
            bare = page.evaluate(ring)
            assert not bare, f"{tab.text_content()}: {bare}"
            reached += bare is not None
        assert reached > 10


def sources() -> str:
    """Every text of the program, one a line: placeholders of f-strings as {}, and the script as it is."""
    found = [theme.SCRIPT.read_text(encoding="utf-8")]
    for path in (ROOT / "anomaly").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                found.append("".join(parts))
    return "\n".join(found)


def test_every_entry_of_the_catalogue_is_whole():
    for english, translations in WORDS.items():
        assert translations.keys() == LANGUAGES, english
        for said in translations.values():
            assert said and sorted(PLACEHOLDER.findall(said)) == sorted(PLACEHOLDER.findall(english)), english
            # A translation that is a key, too, would be translated again.
            assert said == english or said not in WORDS, english


def test_every_entry_of_the_catalogue_is_used():
    """A sentence that was reworded in the program would stay English, with its translation left behind."""
    text = sources()
    unused = [key for key in WORDS.keys() - GRADIO_SAYS if PLACEHOLDER.sub("{}", key) not in text]
    assert unused == []


ROOMS = ("archives", "handlers/batch", "handlers/photos", "handlers/tune", "handlers/desk", "history/photos")
ROOMS += ("lessons", "teaching", "thresholds/ledger")


@pytest.mark.parametrize("room", ROOMS)
def test_what_refuses_bad_input_is_translated(room):
    """Problem and remedy of every error that is raised here, given in place or as a variable."""

    def template(node) -> str:
        parts = [node] if isinstance(node, ast.Constant) else getattr(node, "values", [])
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    nodes = list(ast.walk(ast.parse((ROOT / "anomaly" / f"{room}.py").read_text(encoding="utf-8"))))
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    problems = [node.value for node in assigned if getattr(node.targets[0], "id", "") == "problem"]
    said = set()
    for call in nodes:
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in kinds:
            for given in call.args:
                said |= set(map(template, problems if getattr(given, "id", "") == "problem" else [given]))
    said.discard("")  # words of other places
    assert said and said <= {PLACEHOLDER.sub("{}", key) for key in WORDS}


@pytest.mark.parametrize(("locale", "word"), [("zh-CN", "异常"), ("ms-MY", "ANOMALI")])
def test_the_page_speaks_the_language_of_the_browser(visit, spotted, locale, word):
    page = visit(locale=locale)
    inspect(page, spotted)
    playwright.expect(page.locator("#verdict h2")).to_have_text(word)
    assert page.evaluate("document.documentElement.lang") in locale
    limit = page.get_by_role("slider")
    limit.press("End")
    trial = WORDS["Trial at {percent}% of the stored limit."][page.evaluate("document.documentElement.lang")]
    playwright.expect(page.locator("#verdict .trial")).to_contain_text(trial.split("{percent}")[0].strip())


def test_no_english_is_left_on_a_translated_page(visit, spotted):
    ours = """() => {
      const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (parent.closest('[translate="no"], script, style, code') || !parent.checkVisibility()) continue;
        found.push(node.nodeValue);
      }
      for (const name of ["alt", "aria-label", "aria-valuetext", "placeholder", "title"])
        for (const node of document.querySelectorAll(`[${name}]:not([translate="no"])`))
          if (node.checkVisibility()) found.push(node.getAttribute(name));
      return found;
    }"""
    page = visit(locale="zh-CN", staff=True)
    for gray, said in ((200, "Another product"), (255, "Unknown product")):
        page.locator("#product label").first.click()
        page.locator("#photo input[type=file]").set_input_files(write_plate(spotted.with_name("part.png"), gray=gray))
        playwright.expect(page.locator("#verdict h2")).to_have_text(WORDS[said]["zh-CN"])
        playwright.expect(page.locator("#verdict img")).to_be_visible()
        english = {text for text in page.evaluate(ours) if re.search("[A-Za-z]{2}", DATA.sub("", text))}
        assert not english, f"{said}: {english}"
    inspect(page, spotted)
    page.locator("#ask").click()
    page.locator("#why img").first.wait_for()
    compare(page, spotted)
    for name in (room.TITLE for room in ui.TABS):
        page.get_by_role("tab", name=WORDS[name]["zh-CN"]).click()
        page.wait_for_timeout(1000)  # what a tab asks the server for is there
        english = {text for text in page.evaluate(ours) if re.search("[A-Za-z]{2}", DATA.sub("", text))}
        assert not english, f"{name}: {english}"


def test_a_language_is_chosen_and_kept(visit):
    page = visit()
    page.get_by_label("Language").select_option("中文")
    playwright.expect(page.get_by_role("tab").first).to_have_text("检测")
    page.reload()
    playwright.expect(page.get_by_role("tab").first).to_have_text("检测")
    assert page.evaluate("navigator.language") == "zh-CN"  # gradio's own words follow
    page.get_by_label("Language").select_option("English")
    playwright.expect(page.get_by_role("tab").first).to_have_text("Inspect")


def test_the_verdict_is_told_by_word_and_shape(visit, spotted):
    page = visit()
    inspect(page, spotted)
    shape = page.locator("#verdict svg.icon path").first.get_attribute("d")
    size = page.locator("#verdict h2").evaluate("word => parseFloat(getComputedStyle(word).fontSize)")
    assert size >= 64  # 17 mm on a common screen, so about half a degree from two metres
    page.get_by_role("slider").press("End")
    playwright.expect(page.locator("#verdict h2")).to_have_text("OK")
    assert page.locator("#verdict svg.icon path").first.get_attribute("d") != shape


def test_two_browsers_do_not_see_each_others_images(visit, tmp_path):
    """Each page holds the pictures of its own photo alone, in both tabs, and knows no address of the other's."""
    pages = [visit(), visit()]
    photos = [write_plate(tmp_path / "hers.png", spot=0), write_plate(tmp_path / "his.png", spot=20)]
    traffic = [[], []]
    for page, photo, urls in zip(pages, photos, traffic):
        page.on("response", lambda response, urls=urls: urls.append(response.url))
        inspect(page, photo)
    for page, photo in zip(pages, photos):
        compare(page, photo)
    for page, photo, other in zip(pages, photos, photos[::-1]):
        pictures = page.locator("#panels img, #sides img")
        assert pictures.count() >= 6
        for alt in pictures.evaluate_all("all => all.map(one => one.alt)"):
            assert photo.name in alt
        assert other.name not in page.content()
    originals = [page.locator("#panels img, #sides img[alt^=Photo]").evaluate_all(SOURCES) for page in pages]
    assert not set(originals[0]) & set(originals[1])
    for urls, photo in zip(traffic, photos):
        files = [url for url in urls if "file=" in url]
        # The one that uploaded it alone is told the address, which holds the digest of the photo.
        assert files and all(re.search(rf"/[0-9a-f]{{64}}/{photo.name}$", url) for url in files)


def test_the_pictures_of_the_readme_are_drawn_by_the_script():
    script = ast.parse((ROOT / "docs" / "screenshots.py").read_text(encoding="utf-8"))
    drawn = next(
        ast.unparse(node.value)
        for node in script.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PICTURES"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(docs/(\w+)\.png\)", readme)
    assert shown and all(f"'{name}':" in drawn for name in shown)
