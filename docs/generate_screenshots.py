"""Take the pictures of the report in docs/: python docs/generate_screenshots.py RUN, with a run of phantoms.

Needs Chromium, and Playwright as the tests have it. Only phantoms may be shown: make them with cmnet demo.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.chromium import CHROMIUM, FLAGS

FOLDER = Path(__file__).parent
WIDTHS = (1440, 390)

# Parts of a page that are shown, from the top of one element to the bottom of another.
_PARTS = {"": ("header", "#player"), "-figures": (".sections", "section:has(.bullseyes)")}
_COLOURS = 255


def main(run: Path) -> None:
    """Take all pictures.

    Args:
        run: A run folder of phantoms that has a report.
    """
    subject = max(run.joinpath("report").glob("sub-phantom-*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for width in WIDTHS:
            view = {"width": width, "height": 900}
            context = browser.new_context(viewport=view, offline=True, color_scheme="light", reduced_motion="reduce")
            page = context.new_page()
            page.goto(subject.absolute().as_uri())
            _prepare(page)
            for part, (first, last) in _PARTS.items():
                _save(page, FOLDER / f"report-subject{part}-{width}.png", first, last)


def _prepare(page: Page) -> None:
    """The beating heart at end-systole, with arrows and colours."""
    page.wait_for_selector("#player:not([hidden])")
    page.click("#to-es")
    for switch in ("#displacement", "#arrows"):
        page.check(switch)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _save(page: Page, out: Path, first: str, last: str) -> None:
    top, bottom = (page.locator(place).first.bounding_box() for place in (first, last))
    assert top is not None
    assert bottom is not None
    drawn = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    cut = drawn.crop((0, max(0, int(top["y"]) - 12), drawn.width, int(bottom["y"] + bottom["height"]) + 24))
    few = cut.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
