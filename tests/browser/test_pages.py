"""The report's pages as a reader has them: opened from disk in Chromium, with the network blocked."""

import pytest

from cmnet_cli.report import write_report
from tests.report_runs import IDS, make_run

WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", flags=("few-slices", "no-sex"))
    write_report(folder.root)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_subject_page_has_no_serious_finding_and_stays_within_its_width(open_page, run, scheme, width):
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


def test_pictures_are_there_without_scripts(open_page, run):
    page = open_page(run.report_page(IDS[0]), scripts=False).page
    assert page.locator(".hearts image").count() == 9
    assert page.locator(".hearts svg").first.is_visible()
