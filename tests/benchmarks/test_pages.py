"""The pages that benchmarks write: a section is replaced between its marks alone."""

from pathlib import Path

import pytest

from benchmarks.pages import replace_section


def test_a_section_is_replaced_between_its_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- strain: begin -->\nold\n<!-- strain: end -->\nafter\n")
    replace_section(page, "strain", "new\n")
    assert page.read_text() == "before\n<!-- strain: begin -->\nnew\n<!-- strain: end -->\nafter\n"
    with pytest.raises(SystemExit, match="accuracy"):
        replace_section(page, "accuracy", "new")
