"""Indices beside reference ranges, and what is not known for want of a cell in the manifest."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

MEN = "quantity,sex,mean,sd\nlvef_pct,male,20,5\nrvef_pct,male,40,5\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A finished run of a man, a woman and a subject of unknown sex; tests do not change what infer stored."""
    folder = tmp_path_factory.mktemp("people")
    manifest = write_cohort(folder, 3)
    table = list(csv.DictReader(manifest.read_text().splitlines()))
    for row, sex in zip(table, ("male", "f", ""), strict=True):
        row |= {"sex": sex, "age_years": "60"}
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    run = folder / "run"
    assert cmnet("infer", "--manifest", manifest, "--out", run, "--model", tiny_model).exit_code == 0
    return run


def test_z_scores_are_those_of_the_sex_and_null_with_a_flag_without_one(run: Path) -> None:
    assert cmnet("indices", "--run", run, "--samples", 2).exit_code == 0
    man, woman, unknown = rows(run, "indices")
    assert man["lvef_z"] == pytest.approx((man["lvef_pct"] - 58) / 5)
    assert woman["lvm_index_z"] == pytest.approx((woman["lvm_index_g_m2"] - 42) / 7)
    assert (man["rvef_z"], unknown["lvef_z"], unknown["reference_flags"]) == (None, None, [])
    assert ["no-sex" in row["qc_flags"] for row in (man, woman, unknown)] == [False, False, True]
    assert man["bsa_du_bois_m2"] == pytest.approx(0.007184 * man["height_cm"] ** 0.725 * man["weight_kg"] ** 0.425)


def test_own_reference_ranges_replace_the_shipped_ones(run: Path, tmp_path: Path) -> None:
    (tmp_path / "men.csv").write_text(MEN)
    assert cmnet("indices", "--run", run, "--samples", 2, "--reference", tmp_path / "men.csv").exit_code == 0
    man, woman, _ = rows(run, "indices")
    assert man["lvef_z"] == pytest.approx((man["lvef_pct"] - 20) / 5)
    assert man["rvef_z"] == pytest.approx((man["rvef_pct"] - 40) / 5)
    assert "lvef-high" in man["reference_flags"]
    assert (man["lvedv_z"], woman["lvef_z"]) == (None, None)
    record = json.loads((run / "run.json").read_text())["commands"]["indices"]
    assert record["reference"] == ["men"]


def test_unusable_reference_ranges_stop_before_any_case_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("quantity,sex,mean\n")
    before = (run / "run.json").read_bytes()
    refused = cmnet("indices", "--run", run, "--reference", tmp_path / "bad.csv")
    assert (refused.exit_code, "(reference-ranges)" in refused.output) == (3, True)
    assert (run / "run.json").read_bytes() == before


def test_intervals_contain_their_value_and_depend_on_the_seed_only(run: Path) -> None:
    assert cmnet("indices", "--run", run, "--samples", 8, "--seed", 3).exit_code == 0
    first = rows(run, "indices")
    for row in first:
        for name in ("lvedv_ml", "lvef_pct", "lvm_g", "rvesv_ml"):
            assert row[f"{name}_lo"] <= row[name] <= row[f"{name}_hi"]
        for name in ("gcs_line_midwall_peak_pct", "grs_line_wall_es_pct"):
            assert row[f"{name}_lo"] <= row[name] <= row[f"{name}_hi"]
        assert row["gcs_line_midwall_peak_pct_lo"] < row["gcs_line_midwall_peak_pct_hi"]
        assert "intervals-not-calibrated" in row["qc_flags"]
    # One subject's draws do not depend on who else is asked for.
    assert cmnet("indices", "--run", run, "--samples", 8, "--seed", 3, "--participant-label", "9900002").exit_code == 0
    assert rows(run, "indices") == first


def test_without_samples_there_are_no_intervals_and_a_flag(run: Path) -> None:
    assert cmnet("indices", "--run", run, "--samples", 0).exit_code == 0
    for row in rows(run, "indices"):
        assert (row["lvef_pct_lo"], row["lvm_g_hi"], "no-samples" in row["qc_flags"]) == (None, None, True)


def test_damaged_posterior_fails_one_subject_only(run: Path) -> None:
    [stored] = run.rglob("sub-9900002_posterior.npz")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:50])
    spoiled = cmnet("indices", "--run", run, "--samples", 2)
    stored.unlink()
    missing = cmnet("indices", "--run", run, "--samples", 2)
    stored.write_bytes(whole)
    assert (spoiled.exit_code, "file-damaged" in spoiled.output, missing.exit_code) == (4, True, 0)
    assert ["posterior-not-stored" in row["qc_flags"] for row in rows(run, "indices")] == [False, True, False]
