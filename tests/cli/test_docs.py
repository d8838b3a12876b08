"""What the documentation points at exists, and the example manifests are what they say."""

import csv
import re
from pathlib import Path

import pytest

from cmnet_core.errors import ErrorCode
from docs import generate_outputs
from docs.generate_commands import PAGE, render

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "manifests").glob("*.md")])
EXAMPLES = sorted((ROOT / "manifests").glob("*.csv"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_has_whole_rows_of_invented_subjects(example):
    header, *rows = list(csv.reader(example.read_text(encoding="utf-8").splitlines()))
    assert {len(row) for row in rows} == {len(header)}
    assert all(row[0].startswith("990") for row in rows)


def test_the_page_of_commands_is_up_to_date():
    assert render() == PAGE.read_text(encoding="utf-8"), "run: python docs/generate_commands.py"


def test_the_page_of_outputs_has_every_column_and_flag_as_the_code_says():
    page = generate_outputs.PAGE.read_text(encoding="utf-8")
    assert generate_outputs.render(page) == page, "run: python docs/generate_outputs.py"
    for told in (
        "| `lvedv_ml` ± |",
        "| 24100 |",
        "| `cycle-inconsistent` | cycle_consistency_error_mm is above 5 mm |",
    ):
        assert told in page


def test_the_page_of_error_codes_is_whole():
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)`", page, flags=re.MULTILINE) == [str(code) for code in ErrorCode]
