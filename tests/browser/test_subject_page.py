"""The subject page in Chromium, opened from disk with the network blocked."""

import pytest
from PIL import Image

from cmnet_cli.report.export.file_formats import FigureFormat
from cmnet_cli.report.export.formats import Formats
from cmnet_cli.report.write import Request, write_report
from tests.report_runs import IDS, make_run

WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", flags=("few-slices", "no-sex"))
    write_report(folder.root)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_subject_page_is_accessible_and_stays_within_its_width(open_page, run, scheme, width):
    opened = open_page(run.report_page(IDS[0]), width=width, color_scheme=scheme)
    assert opened.findings() == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_theme_can_be_changed(open_page, run):
    page = open_page(run.report_page(IDS[0]), color_scheme="light").page
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(background) != light
    assert page.get_by_role("button", name="Light theme").is_visible()


def test_still_images_are_visible_without_scripts(open_page, run):
    page = open_page(run.report_page(IDS[0]), scripts=False).page
    assert page.locator(".stills image").count() == 9
    assert page.locator(".stills svg").first.is_visible()


PLAYER = "#player:not([hidden])"
OUTLINES = "[...document.querySelectorAll('#player .contour')].map(path => path.getAttribute('d')).join()"
# The sums of red, green and blue over all images.
COLOURS = """[...document.querySelectorAll('#player canvas')].map(canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const sums = [0, 0, 0];
  data.forEach((value, index) => { if (index % 4 < 3) sums[index % 4] += value; });
  return sums;
}).reduce((a, b) => a.map((value, index) => value + b[index]))"""


@pytest.fixture
def still(open_page, run):
    """A subject's page with reduced motion: the player stays at end-diastole."""
    page = open_page(run.report_page(IDS[0]), reduced_motion="reduce").page
    page.wait_for_selector(PLAYER)
    return page


def test_the_cine_plays_and_pauses(open_page, run):
    page = open_page(run.report_page(IDS[0])).page
    page.wait_for_selector(PLAYER)
    shown = page.evaluate("""new Promise(done => {
      const shown = new Set(), ends = performance.now() + 3000;
      const record = () => {
        shown.add(document.getElementById('where').textContent);
        if (shown.size === 6 || performance.now() > ends) done([...shown]); else requestAnimationFrame(record);
      };
      record();
    })""")
    assert len(shown) == 6
    page.get_by_role("button", name="Pause").click()
    where, outlines = page.locator("#where").text_content(), page.evaluate(OUTLINES)
    page.wait_for_timeout(400)
    assert (page.locator("#where").text_content(), page.evaluate(OUTLINES)) == (where, outlines)


def test_the_slider_changes_contours_images_and_the_cursor_in_the_curves(still):
    before = (still.evaluate(OUTLINES), still.evaluate(COLOURS), still.locator(".now").first.get_attribute("x1"))
    assert "Frame 1 of 6, 0 ms, end-diastole" in still.locator("#where").text_content()
    still.locator("#frame").fill("3")
    after = (still.evaluate(OUTLINES), still.evaluate(COLOURS), still.locator(".now").first.get_attribute("x1"))
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert "end-systole" in still.locator("#where").text_content()


def test_keys_step_through_the_cycle(still):
    still.locator("#stage").focus()
    for key, text in (("ArrowRight", "2 of 6"), ("ArrowLeft", "1 of 6"), ("ArrowLeft", "6 of 6"), ("End", "4 of 6")):
        still.keyboard.press(key)
        assert text in still.locator("#where").text_content()
    still.keyboard.press("Space")
    assert still.get_by_role("button", name="Pause").is_visible()


def test_overlays_switch(still):
    still.locator("#frame").fill("3")
    plain = still.evaluate(COLOURS)
    assert max(plain) - min(plain) < 1e-3 * max(plain)
    for name in ("Displacement: colour", "Uncertainty"):
        still.get_by_role("switch", name=name).check()
        red, _, blue = still.evaluate(COLOURS)
        assert abs(red - blue) > 1e-3 * max(plain)
    assert not still.get_by_role("switch", name="Displacement: colour").is_checked()
    still.get_by_role("switch", name="Uncertainty").uncheck()
    assert still.evaluate(COLOURS) == plain
    still.get_by_role("switch", name="Displacement: arrows").check()
    assert all(still.locator("#player .arrows").nth(n).get_attribute("d") for n in range(3))


def test_contours_can_be_propagated_segmented_or_hidden(still):
    propagated = still.evaluate(OUTLINES)
    still.locator("#contours").select_option("both")
    assert len(still.evaluate(OUTLINES)) > len(propagated)
    still.locator("#contours").select_option("none")
    assert set(still.evaluate(OUTLINES)) == {","}


def test_an_injected_script_does_not_run(open_page, run, tmp_path):
    page = run.report_page(IDS[0]).read_text(encoding="utf-8")
    changed = tmp_path / "page.html"
    changed.write_text(page.replace("<main", "<script>document.title = 'caught'</script><main", 1), encoding="utf-8")
    opened = open_page(changed)
    assert opened.page.title() != "caught"
    assert "Content Security Policy" in opened.errors.pop()


def test_the_accessibility_check_finds_a_button_without_a_name(open_page, tmp_path):
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<html lang='en'><title>x</title><main><button></button></main></html>", encoding="utf-8")
    assert any(found.startswith("button-name") for found in open_page(wrong).findings())


def test_pages_and_figures_are_exported_by_the_browser(tmp_path):
    folder = make_run(tmp_path, ids=IDS[:1], failed=())
    write_report(folder.root, Request(formats=Formats(FigureFormat.PNG, pdf=True)))
    assert folder.report.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert folder.report_page(IDS[0]).with_suffix(".pdf").stat().st_size > 20_000
    with Image.open(tmp_path / "report" / "figures" / f"{IDS[0]}_ecc.png") as figure:
        assert figure.size == (2 * 288, 2 * 350)
        assert len(figure.convert("RGB").getcolors(100_000)) > 50
