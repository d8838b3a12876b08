"""The worklist in Chromium: verdicts from the keyboard alone, stored in the browser, exported and honoured."""

import csv

import pytest

from cmnet_cli.report.write import write_report
from cmnet_cli.runs.verdicts import Reading, Verdict, read_verdicts
from tests.worklist_runs import IDS, write_typical

# A browser that stores the values of each file on disk apart from those of other files.
STORES_BY_FILE = """
const before = Storage.prototype.getItem, after = Storage.prototype.setItem;
Storage.prototype.getItem = function (name) { return before.call(this, location.pathname + name); };
Storage.prototype.setItem = function (name, value) { after.call(this, location.pathname + name, value); };
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_typical(tmp_path_factory.mktemp("browser-worklist") / "run")
    write_report(folder.root)
    return folder


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_worklist_and_verdict_are_accessible(open_page, run, width, scheme):
    for path in (run.report, run.report_page(IDS[3])):
        opened = open_page(path, width=width, color_scheme=scheme)
        opened.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert opened.findings() == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def press_tab_until(page, selector):
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
            return
    pytest.fail(f"{selector} cannot be reached by Tab")


def follow(page, key):
    """Press a key that opens another page."""
    with page.expect_navigation():
        page.keyboard.press(key)


def name_of(page):
    return page.locator("h1").inner_text()


def test_a_reading_from_the_keyboard_alone(open_page, tmp_path):
    folder = write_typical(tmp_path)
    write_report(folder.root)
    page = open_page(folder.report).page
    press_tab_until(page, "#start")
    page.keyboard.press("Enter")
    first = name_of(page)
    assert first == IDS[3]
    press_tab_until(page, "#reader")
    page.keyboard.type("A, B")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    assert "Verdict: exclude" in page.locator("#kept").inner_text()
    page.keyboard.press("r")
    page.keyboard.type("=no aorta")
    page.keyboard.press("Escape")
    follow(page, "n")
    second = name_of(page)
    assert second != first
    page.keyboard.press("a")
    follow(page, "p")
    assert name_of(page) == first
    assert page.get_by_role("radio", name="Exclude").is_checked()
    follow(page, "w")
    assert "2 of 20 subjects have a verdict." in page.locator("#progress").inner_text()
    assert page.locator(f"tr[data-name='{first}'] .verdict").inner_text().startswith("exclude, A, B")
    press_tab_until(page, "#download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(folder.verdicts)
    with folder.verdicts.open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [first, second]
    readings = read_verdicts(folder, IDS)
    assert readings[first] == Reading(Verdict.EXCLUDE, "A, B", readings[first].date, "=no aorta")
    write_report(folder.root)
    assert "1 subject is excluded" in folder.report.read_text(encoding="utf-8")


def test_verdicts_reach_the_worklist_where_each_file_has_its_own_storage(open_page, run):
    page = open_page(run.report_page(IDS[3])).page
    page.context.add_init_script(STORES_BY_FILE)
    page.reload()
    page.keyboard.press("c")
    follow(page, "n")
    assert "verdicts=" not in page.url
    page.keyboard.press("a")
    follow(page, "w")
    assert "2 of 20 subjects have a verdict." in page.locator("#progress").inner_text()


def test_keys_are_ignored_in_fields_and_when_they_are_off(open_page, run):
    page = open_page(run.report_page(IDS[5])).page
    page.locator("#remark").click()
    page.keyboard.type("axe")
    assert page.get_by_role("radio", name="None yet").is_checked()
    page.locator("#shortcuts").uncheck()
    page.keyboard.press("x")
    assert page.get_by_role("radio", name="None yet").is_checked()
    page.reload()
    assert not page.locator("#shortcuts").is_checked()


def test_the_reasons_are_visible_without_scripts(open_page, run):
    page = open_page(run.report, scripts=False).page
    assert page.locator("#worklist-table tbody tr").count() > 3
    assert not page.locator("#verdicts").is_visible()
