"""Draws the pictures of the README from the running app: `python docs/screenshots.py`.

Starts the app with the shipped products, walks it in Debian's chromium, and writes docs/*.png. With names of pictures
as arguments it draws these alone. The Chinese one needs a font that has Chinese (Debian: fonts-wqy-microhei).
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from served import CHROMIUM, CHROMIUM_ARGS, running_app  # noqa: E402 - found by the line above

PRODUCT, EXAMPLE = "Leather", "cut_000.jpg"


def inspect(page: Page) -> None:
    page.locator("#product label", has_text=PRODUCT).click()
    page.locator(f'#examples button[aria-label*="{EXAMPLE}"]').click()
    page.locator("#verdict .reading").wait_for()
    page.locator("#heatmap img").wait_for()


def compare(page: Page) -> None:
    inspect(page)
    page.get_by_role("tab").nth(1).click()
    page.locator("#take-inspected").click()
    page.locator("#ranking tbody tr").nth(5).wait_for()


# Each picture: width and height in CSS pixels, light or dark, language, and the way to what it shows.
PICTURES = {
    "screenshot": (1280, 1040, "light", "en", inspect),
    "compare": (1280, 900, "dark", "en", compare),
    "phone": (390, 844, "light", "zh-CN", inspect),
}


def draw(browser, address: str, name: str) -> None:
    width, height, scheme, language, walk = PICTURES[name]
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale=language, reduced_motion="reduce"
    )
    page.set_default_timeout(60_000)
    page.goto(address)
    page.locator("#product input").first.wait_for()
    walk(page)
    page.mouse.move(0, 0)  # no button may look as if it were touched
    if width < 500:
        page.locator("#verdict").evaluate("verdict => verdict.scrollIntoView()")
    page.wait_for_timeout(600)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    # A palette halves the bytes; dithered, since the colour bar would fall into steps.
    palette = picture.quantize(256, kmeans=1)
    picture = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(ROOT / "docs" / f"{name}.png", optimize=True)
    page.close()


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as record, running_app("--record", record) as (address, _):
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
            for name in names or PICTURES:
                draw(browser, address, name)
                print(f"docs/{name}.png", flush=True)
            browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
