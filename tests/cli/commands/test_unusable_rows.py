"""A row of the manifest that cannot be used costs that row, and columns of any name are copied."""

import json
from pathlib import Path

import pandas as pd

from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort


def test_row_with_an_unusable_cell_costs_that_row(tmp_path: Path) -> None:
    manifest, run = write_cohort(tmp_path, 3), tmp_path / "run"
    frame = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    frame["height_cm"] = ["NA", "1.71", "n/a"]
    frame.to_csv(manifest, index=False)
    ran = cmnet("preprocess", "-m", manifest, "-o", run)
    assert (ran.exit_code, "2 done" in ran.output) == (4, True)
    assert "row 3, height_cm (manifest-row)" in ran.output
    assert "99000" not in ran.output.replace(str(tmp_path), "")
    summary = json.loads(cmnet("preprocess", "-m", manifest, "-o", run, "--json").stdout)
    assert (summary["already_done"], [row["row"] for row in summary["unusable_rows"]]) == (2, [3])
    assert cmnet("validate", "-m", manifest).exit_code == 3
    frame["height_cm"] = ["", "171", ""]
    frame.to_csv(manifest, index=False)
    ran = cmnet("preprocess", "-m", manifest, "-o", run)
    assert (ran.exit_code, "1 done, 2 done before" in ran.output) == (0, True)


def test_validate_reports_a_column_with_the_name_of_a_result(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 2)
    frame = pd.read_csv(manifest, dtype=str).assign(lvef_pct="61", case_id="x")
    frame.to_csv(manifest, index=False)
    ran = cmnet("validate", "-m", manifest, "--json")
    assert ran.exit_code == 0
    hints = {problem["column"]: problem["hint"] for problem in json.loads(ran.stdout)}
    assert hints["lvef_pct"].startswith("It is copied as manifest_lvef_pct")
    assert "case_id" in hints
