"""Take the pictures of the report in docs/: python docs/generate_screenshots.py RUN COHORT.

Needs Chromium, and Playwright as the tests have it. Only invented people may be shown: RUN holds phantoms of cmnet
demo, COHORT the tables of python benchmarks/report_scale.py --subjects 800 --keep FOLDER; both have a report.
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

# Parts of the cohort page, side by side in so many columns and at this share of their size.
_VIEWS = (
    "header",
    *(f"section:has(> #{part})" for part in ("distributions", "scatters", "contrasts", "bullseyes", "subjects")),
)
_MONTAGES = {1440: (2, 0.62), 390: (6, 0.75)}
_GAP = 12


def main(run: Path, cohort: Path) -> None:
    """Take all pictures.

    Args:
        run: A run folder of phantoms that has a report.
        cohort: A run folder of many invented subjects that has a report.
    """
    take_subject(run)
    take_cohort(cohort)


def take_cohort(run: Path) -> None:
    """The cohort page, one screen of each of its parts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for width, (columns, size) in _MONTAGES.items():
            view = {"width": width, "height": 900}
            page = browser.new_context(viewport=view, offline=True, color_scheme="light").new_page()
            page.goto((run / "report" / "index.html").absolute().as_uri())
            screens = [_screen(page, part) for part in _VIEWS]
            whole = _side_by_side(screens, columns)
            small = whole.resize((round(whole.width * size), round(whole.height * size)), Image.Resampling.LANCZOS)
            few = small.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
            few.save(FOLDER / f"report-cohort-{width}.png", optimize=True)


def _screen(page: Page, part: str) -> Image.Image:
    page.locator(part).evaluate("part => part.scrollIntoView()")
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _side_by_side(screens: list[Image.Image], columns: int) -> Image.Image:
    width, height = (side + _GAP for side in screens[0].size)
    whole = Image.new("RGB", (columns * width - _GAP, len(screens) // columns * height - _GAP), "#888888")
    for place, messages in enumerate(screens):
        whole.paste(messages, (place % columns * width, place // columns * height))
    return whole


def take_subject(run: Path) -> None:
    """The page of one phantom, above and below."""
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
    few = cut.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(out, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
