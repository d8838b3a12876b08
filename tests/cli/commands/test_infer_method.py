"""Motion by another method than cmnet's own goes through the same files, tables and report."""

import json
from pathlib import Path

import numpy as np
import pytest

from cmnet_cli.exit_code import ExitCode
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.io.nifti import read_cine, read_motion
from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

CASE = "sub-9900001"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A finished run of one subject without motion; tests only read it."""
    folder = tmp_path_factory.mktemp("method")
    manifest, run = write_cohort(folder, 1), folder / "run"
    for command in (
        ["infer", "--manifest", manifest, "--out", run, "--model", tiny_model, "--method", "none"],
        ["indices", "--run", run],
        ["evaluate", "--run", run],
        ["report", "--run", run],
    ):
        ran = cmnet(*command)
        assert ran.exit_code == 0, ran.output
    return run


def test_label_maps_are_propagated_by_the_motion_of_the_method(run: Path) -> None:
    case = RunFolder(run).case(CASE)
    propagated = read_cine(case.propagated_labels, frame_ms=None).voxels
    segmented = read_cine(case.segnet_labels, frame_ms=None).voxels
    assert all(bool((frame == segmented[0]).all()) for frame in propagated)
    assert not bool((segmented[2] == segmented[0]).all())
    field = read_motion(case.ed2es_motion)
    assert (field.fixed, field.moving) == (2, 0)
    assert not bool(field.displacement_mm.any())


def test_provenance_names_the_method_and_what_segmented(run: Path) -> None:
    facts = json.loads(RunFolder(run).case(CASE).sidecar("infer").read_text())["facts"]
    assert (facts["method"], facts["masks"], facts["motion"]) == ("none", "segnet", {"kind": "displacements"})


def test_tables_have_the_motion_and_no_uncertainty(run: Path) -> None:
    [motion] = rows(run, "motion")
    assert motion["mean_displacement_es_myo_mm"] == 0
    assert motion["cycle_consistency_error_mm"] is None
    assert motion["entropy_heart_nats"] is None
    [indices] = rows(run, "indices")
    assert indices["lvef_pct"] > 20
    assert indices["lvef_pct_lo"] is None
    by_method = {
        method: [row["dsc_pct"] for row in rows(run, "evaluation") if row["method"] == method]
        for method in ("none", "no-motion")
    }
    assert len(by_method["none"]) == 9
    assert np.allclose(by_method["none"], by_method["no-motion"])
    assert not [row for row in rows(run, "evaluation_tests") if row["n"] and row["mean_difference"] is None]


def test_page_names_the_method(run: Path) -> None:
    text = RunFolder(run).report_page(CASE).read_text(encoding="utf-8")
    assert "was estimated by the method" in text


def test_finished_subject_is_stale_for_another_method(run: Path, tiny_model: Path) -> None:
    manifest = run.parent / "cohort.csv"
    plan = cmnet("infer", "--manifest", manifest, "--out", run, "--model", tiny_model, "--dry-run")
    assert "stale" in plan.output
    repeated = cmnet(
        "infer", "--manifest", manifest, "--out", run, "--model", tiny_model, "--method", "none", "--dry-run"
    )
    assert "1 done" in repeated.output


def test_unknown_method_ends_the_command_before_anything_runs(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    ran = cmnet(
        "infer", "--manifest", run.parent / "cohort.csv", "--out", tmp_path, "--model", tiny_model, "--method", "sin"
    )
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert "There is no method 'sin'" in ran.output
