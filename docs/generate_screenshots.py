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

# Tall pages are cut here, and every picture is brought to so many colours.
_TALLEST = {1440: 3600, 390: 5200}
_COLOURS = 128


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
            _save(page, FOLDER / f"report-subject-{width}.png", width)


def _prepare(page: Page) -> None:
    """The beating heart at end-systole, with arrows and colours."""
    page.wait_for_selector("#player:not([hidden])")
    page.click("#to-es")
    for switch in ("#displacement", "#arrows"):
        page.check(switch)
    page.evaluate("document.activeElement.blur()")


def _save(page: Page, out: Path, width: int) -> None:
    drawn = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    cut = drawn.crop((0, 0, drawn.width, min(drawn.height, _TALLEST[width])))
    cut.quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
