"""The command compare: indices of a run against another table."""

import json
from pathlib import Path

import pytest

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.compare import comparable_columns
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import start_run
from cmnet_cli.tables.schema import write_table
from tests.cli.commanding import cmnet, rows

EDV = (100.0, 120.0, 150.0, 170.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a table of indices: three subjects at visit 2, the first of them at visit 3 too."""
    visits = (("0012", 2), ("9900002", 2), ("9900003", 2), ("0012", 3))
    manifest = tmp_path / "cohort.csv"
    lines = "".join(f"{subject},{visit},x.nii.gz\n" for subject, visit in visits)
    manifest.write_text(f"subject_id,session,image\n{lines}")
    opened = start_run(tmp_path / "run", read_manifest(manifest), "infer", {})
    found = [
        {"case_id": c.case_id, "subject_id": c.subject_id, "session": c.session, "lvedv_ml": edv, "lvef_pct": 60.0}
        for c, edv in zip(opened.cases, EDV, strict=True)
    ]
    write_table(opened.folder.table("indices"), "indices", found)
    return tmp_path / "run"


def _against(run: Path, text: str, *options: object) -> Path:
    table = run.parent / "ukb.csv"
    table.write_text(text)
    compared = cmnet("compare", "--run", run, "--against", table, *options)
    assert compared.exit_code == 0, compared.output
    return table


@pytest.mark.parametrize("name", ["lvedv_ml", "p24100_i2", "24100-2.0", "f.24100.2.0", "p24100_i2_a0"])
def test_compare_matches_columns_by_name_or_ukb_field(run: Path, name: str) -> None:
    _against(run, f"eid,{name}\n0012,90\n9900002,115\n9900003,150\n", "--on", "eid")
    [row] = rows(run, "comparison")
    assert (row["index"], row["reference_column"]) == ("lvedv_ml", name)
    by_name = name == "lvedv_ml"
    # A name goes for every visit, a field's instance for its own: differences 10, 5, 0 and, of visit 3, 80.
    assert row["n"] == (4 if by_name else 3)
    assert row["bias"] == pytest.approx(23.75 if by_name else 5.0)
    if not by_name:
        assert row["rmse"] == pytest.approx((125 / 3) ** 0.5)
        assert row["upper"] == pytest.approx(5 + 1.96 * 5)
        assert row["r"] == pytest.approx(0.9993, abs=2e-3)
    assert f"| lvedv_ml | {name} |" in (run / "tables" / "comparison.md").read_text()


def test_compare_matches_segments_by_ukb_field(run: Path) -> None:
    """24124 to 24139 are the wall thickness of AHA segments 1 to 16, 24157 is the global circumferential strain."""
    folder = RunFolder(run)
    cases = [(row["case_id"], row["subject_id"], row["session"]) for row in rows(run, "indices")]
    write_table(
        folder.table("segments"),
        "segments",
        [
            {"case_id": c, "subject_id": s, "session": v, "segment": n, "wall_thickness_ed_mm": 6.0 + n, "qc_flags": []}
            for c, s, v in cases
            for n in range(1, 17)
        ],
    )
    _against(run, "subject_id,p24124_i2,p24139_i2,p24157_i2\n9900002,6.5,22,-20\n9900003,7,20,-20\n")
    first, last, strain = rows(run, "comparison")
    assert (first["index"], first["n"], first["bias"]) == ("wall_thickness_ed_mm_aha1", 2, pytest.approx(0.25))
    assert (last["index"], last["n"], last["bias"]) == ("wall_thickness_ed_mm_aha16", 2, pytest.approx(1.0))
    assert (strain["index"], strain["n"]) == ("ukb_ecc_global_pct", 0)


def test_ukb_fields_of_comparable_columns_are_unique() -> None:
    fields = [field for field in comparable_columns().values() if field]
    assert len(fields) == len(set(fields))
    wanted = {*range(24100, 24110), *range(24124, 24175)}
    assert {int(field) for field in fields} == wanted


def test_compare_matches_visits_by_instance_and_session(run: Path) -> None:
    _against(run, "subject_id,p24100_i2,p24100_i3\n0012,100,160\n9900002,120,\n")
    second, third = rows(run, "comparison")
    assert (second["n"], second["bias"], third["n"], third["bias"]) == (2, 0.0, 1, 10.0)
    _against(run, "subject_id,session,lvedv_ml\n0012,2,99\n0012,3,168\n")
    [row] = rows(run, "comparison")
    assert (row["n"], row["bias"]) == (2, pytest.approx(1.5))


def test_compare_counts_unmatched_rows_without_their_ids(run: Path) -> None:
    table = run.parent / "t.csv"
    table.write_text("subject_id,lvedv_ml\n12,1\n9900002,large\nsub-9900003,140\nnobody,1\n")
    compared = cmnet("compare", "--run", run, "--against", table)
    assert "2 subjects in both; 2 rows of the run without a counterpart, 2 of the other table" in compared.output
    assert "9900002" not in compared.output
    [row] = rows(run, "comparison")
    assert (row["n"], row["unreadable"], row["bias"]) == (1, 1, 10.0)


def test_compare_prints_json(run: Path) -> None:
    table = run.parent / "t.csv"
    table.write_text("subject_id,lvef_pct\n9900002,58\n")
    [row] = json.loads(cmnet("compare", "--run", run, "--against", table, "--json").output)
    assert (row["index"], row["n"], row["bias"], row["lower"]) == ("lvef_pct", 1, 2.0, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,lvedv_ml\n9900002,1\n", "no column 'subject_id'"),
        ("subject_id,shoe_size\n9900002,44\n", "no column that can be compared"),
        ("subject_id,lvedv_ml\n12,1\n", "none of its ids"),
        ("subject_id,lvedv_ml\n9900002,1\n9900002,2\n", "two rows for one subject"),
        ("subject_id,lvedv_ml\n", "has no rows"),
        (None, "cannot be read"),
    ],
)
def test_compare_refuses_an_unusable_table(run: Path, text: str | None, said: str) -> None:
    table = run.parent / "bad.csv"
    if text is not None:
        table.write_text(text)
    refused = cmnet("compare", "--run", run, "--against", table)
    assert refused.exit_code == 3
    assert "(outside-table)" in refused.output
    assert said in refused.output.replace("\n", " ")
    assert not (run / "tables" / "comparison.parquet").exists()


def test_compare_needs_indices(run: Path) -> None:
    (run / "tables" / "indices.parquet").unlink()
    refused = cmnet("compare", "--run", run, "--against", run.parent / "cohort.csv")
    assert (refused.exit_code, "cmnet indices" in refused.output) == (3, True)


def test_an_excluded_subject_is_left_out_and_named(run: Path) -> None:
    verdicts = run.parent / "verdicts.csv"
    verdicts.write_text("id,verdict\n9900003,exclude\n0012_ses-3,accept\n")
    _against(run, "subject_id,lvef_pct\n0012,60\n9900003,10\n", "--verdicts", verdicts)
    [row] = rows(run, "comparison")
    assert (row["n"], row["bias"]) == (2, 0.0)
    assert "1 excluded by their verdict: sub-9900003_ses-2" in (run / "tables" / "comparison.md").read_text()
    # The verdicts are kept in the run, where indices finds them.
    assert "1 excluded" in cmnet("indices", "--run", run).output
    known = {row["case_id"]: row["verdict"] for row in rows(run, "indices")}
    assert [known.get(f"sub-{name}") for name in ("9900003_ses-2", "0012_ses-3", "0012_ses-2")] == [
        "exclude",
        "accept",
        None,
    ]
