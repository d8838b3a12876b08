"""The cohort page in Chromium: accessibility, links of the points, and search and sort in the table."""

import pytest

from benchmarks.report_scale import write_run
from cmnet_cli.report.write import Request, write_report
from tests.report_runs import IDS, make_run

SUBJECTS = 60


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A page with every section of the cohort page."""
    folder = write_run(tmp_path_factory.mktemp("cohort") / "run", SUBJECTS)
    write_report(folder.root, Request(("none",)))
    return folder.report


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """A cohort page whose subjects have pages."""
    folder = make_run(tmp_path_factory.mktemp("linked") / "run", ids=IDS[:2])
    write_report(folder.root)
    return folder.report


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_cohort_page_is_accessible_and_stays_within_its_width(open_page, cohort, width, scheme):
    opened = open_page(cohort, width=width, color_scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert opened.findings() == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_scatter_point_links_to_its_subject(open_page, linked):
    page = open_page(linked).page
    points = page.locator(".scatters a")
    assert points.count() >= len(IDS[:2])
    # The one on top: all subjects have the same values.
    target = points.last.get_attribute("href")
    points.last.hover()
    assert page.locator(f'.scatters a.lit[href="{target}"]').count() > 1
    points.last.click()
    assert page.url.endswith(target)
    assert page.locator("h1").inner_text() == target.removesuffix(".html")
    page.get_by_role("link", name="Worklist").click()
    assert page.url.endswith("index.html#worklist")


def test_the_subject_table_can_be_searched_and_sorted(open_page, cohort):
    page = open_page(cohort).page
    rows = page.locator("table.cohort tbody tr")
    page.get_by_label("Find").fill("9000000042")
    assert page.locator("table.cohort tbody tr:visible").count() == 1
    assert page.locator("#found").inner_text() == f"1 of {SUBJECTS}"
    page.get_by_label("Find").fill("")
    head = page.get_by_role("columnheader", name="LVEF")
    head.get_by_role("button").click()
    place = head.evaluate("head => head.cellIndex")
    values = [float(text) for text in rows.locator(f"td:nth-child({place + 1})").all_inner_texts()]
    assert values == sorted(values)
    assert head.get_attribute("aria-sort") == "ascending"


def test_figures_are_visible_without_scripts(open_page, cohort):
    page = open_page(cohort, scripts=False).page
    for part in (".cards svg", ".scatters svg", ".group-bullseyes svg", "table.cohort"):
        assert page.locator(part).first.is_visible(), part
    assert not page.get_by_label("Find").is_visible()
