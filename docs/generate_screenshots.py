"""Take the screenshots of the report in docs/: PYTHONPATH=. python docs/generate_screenshots.py RUN COHORT.

This needs Chromium, and Playwright as the tests do. The pages may show synthetic subjects only: RUN holds phantoms of
``cmnet demo``, and COHORT the tables of ``python benchmarks/report_scale.py --subjects 800 --keep FOLDER``
(``FOLDER/800``). Both need a report (``cmnet report``).
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.chromium import CHROMIUM, FLAGS

FOLDER = Path(__file__).parent
WIDTHS = (1440, 390)

# Parts of a subject's page, from the top of one element to the bottom of another.
_PARTS = {"": ("header", "#player"), "-figures": (".sections", "section:has(.bullseyes)")}
_COLOURS = 255

# Parts of the cohort page, in so many columns and at this fraction of their size.
_VIEWS = (
    "header",
    *(f"section:has(> #{part})" for part in ("worklist", "distributions", "scatters", "contrasts", "bullseyes")),
)
_MONTAGES = {1440: (2, 0.62), 390: (6, 0.75)}
_GAP = 12


def main(run: Path, cohort: Path) -> None:
    """Take all screenshots.

    Args:
        run: A run folder of phantoms that has a report.
        cohort: A run folder of many synthetic subjects that has a report.
    """
    take_subject(run)
    take_cohort(cohort)


def take_cohort(run: Path) -> None:
    """Take one screenshot of each part of the cohort page, and combine them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for width, (columns, scale) in _MONTAGES.items():
            viewport = {"width": width, "height": 900}
            page = browser.new_context(viewport=viewport, offline=True, color_scheme="light").new_page()
            page.goto((run / "report" / "index.html").absolute().as_uri())
            whole = _montage([_screenshot_of(page, part) for part in _VIEWS], columns)
            size = (round(whole.width * scale), round(whole.height * scale))
            _save(whole.resize(size, Image.Resampling.LANCZOS), FOLDER / f"report-cohort-{width}.png")


def _screenshot_of(page: Page, part: str) -> Image.Image:
    page.locator(part).evaluate("part => part.scrollIntoView()")
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _montage(images: list[Image.Image], columns: int) -> Image.Image:
    width, height = (side + _GAP for side in images[0].size)
    whole = Image.new("RGB", (columns * width - _GAP, len(images) // columns * height - _GAP), "#888888")
    for number, image in enumerate(images):
        whole.paste(image, (number % columns * width, number // columns * height))
    return whole


def take_subject(run: Path) -> None:
    """Take screenshots of the upper and the lower half of the page of one phantom."""
    subject = max(run.joinpath("report").glob("sub-phantom-*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for width in WIDTHS:
            viewport = {"width": width, "height": 900}
            context = browser.new_context(
                viewport=viewport, offline=True, color_scheme="light", reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto(subject.absolute().as_uri())
            _show_displacement_at_es(page)
            for part, (first, last) in _PARTS.items():
                _save(_part_of(page, first, last), FOLDER / f"report-subject{part}-{width}.png")


def _show_displacement_at_es(page: Page) -> None:
    page.wait_for_selector("#player:not([hidden])")
    page.click("#to-es")
    for switch in ("#displacement", "#arrows"):
        page.check(switch)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _part_of(page: Page, first: str, last: str) -> Image.Image:
    top, bottom = (page.locator(element).first.bounding_box() for element in (first, last))
    assert top is not None
    assert bottom is not None
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return whole.crop((0, max(0, int(top["y"]) - 12), whole.width, int(bottom["y"] + bottom["height"]) + 24))


def _save(image: Image.Image, out: Path) -> None:
    image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
