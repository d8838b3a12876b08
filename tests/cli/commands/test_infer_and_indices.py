"""The main job from the command line: infer, indices, evaluate, and doing it again."""

import json
import shutil
from pathlib import Path

import pytest

from cmnet_core.io.nifti import read_cine, read_motion
from tests.cli.commanding import cmnet, column, finals, rows
from tests.phantoms import write_cohort, write_heart
from tests.tables import RESULTS
from tests.tiny_model import write_tiny_model

SUBJECTS = 3
SAMPLES = ("--samples", 2)
"""Few, since no test here looks at the intervals."""


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a cohort and a finished run of it; tests only read it."""
    folder = tmp_path_factory.mktemp("analysis")
    manifest, run = write_cohort(folder, SUBJECTS), folder / "run"
    for command in (
        ["infer", "--manifest", manifest, "--out", run, "--model", tiny_model],
        ["indices", "--run", run, *SAMPLES],
        ["evaluate", "--run", run],
    ):
        assert cmnet(*command).exit_code == 0
    return folder


@pytest.fixture
def again(analysis: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change; the manifest stays where it is."""
    return Path(shutil.copytree(analysis / "run", tmp_path / "run"))


def _infer(analysis: Path, run: Path, model: Path, *options: object) -> str:
    ran = cmnet("infer", "--manifest", analysis / "cohort.csv", "--out", run, "--model", model, *options)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_indices_table_has_the_indices_of_the_masks(analysis: Path) -> None:
    run = analysis / "run"
    assert column(run, "indices", "subject_id") == ["9900001", "9900002", "9900003"]
    truth = {(r["case_id"], r["index"]): r["reference"] for r in rows(run, "agreement")}
    for row in rows(run, "indices"):
        assert row["lvef_pct"] == pytest.approx(truth[row["case_id"], "lvef_pct"], abs=2)
        assert row["lvm_g"] == pytest.approx(truth[row["case_id"], "lvm_g"], rel=0.1)
        assert (row["ed_frame"], row["es_frame"]) == (0, 2)
        assert row["clinic"] == "north"
        assert row["bsa_m2"] == pytest.approx(1.818, abs=1e-3)
        # Two slices of one size are not a whole heart, and the manifest has no sex.
        coverage = ["few-slices", "base-not-covered", "apex-not-covered"]
        # Two slices have no thirds, four frames no curve, and the axes are not those of a patient.
        wall = ["orientation-ambiguous", "too-few-slices-for-segments", "too-few-frames"]
        # The circles of LV and RV contract by different volumes.
        assert ("stroke-volumes-differ" in row["qc_flags"]) == (abs(row["sv_difference_pct"]) >= 15)
        assert ("stroke-volumes-differ-widely" in row["qc_flags"]) == (abs(row["sv_difference_pct"]) >= 30)
        # The strain of a network with random weights need not be plausible.
        ignored = {"strain-implausible", "wall-stretches", "stroke-volumes-differ", "stroke-volumes-differ-widely"}
        flags = [flag for flag in row["qc_flags"] if flag not in ignored]
        # All slices of these phantoms are equal.
        assert flags == ["orientation-missing", "slices-copied", *coverage, "no-sex", *wall, "intervals-not-calibrated"]


def test_frames_and_motion_tables(analysis: Path) -> None:
    run = analysis / "run"
    assert [(row["subject_id"], row["frame"]) for row in rows(run, "frames")][:5] == [
        ("9900001", 0),
        ("9900001", 1),
        ("9900001", 2),
        ("9900001", 3),
        ("9900002", 0),
    ]
    first = rows(run, "frames")[0]
    assert (first["time_ms"], first["mean_displacement_myo_mm"]) == (0, 0)
    assert all(row["cycle_consistency_error_mm"] < 1 for row in rows(run, "motion"))


def test_label_maps_and_motion_are_on_the_subjects_own_grid(analysis: Path) -> None:
    image = read_cine(analysis / "9900001.nii.gz", frame_ms=None)
    [labels] = (analysis / "run").rglob("sub-9900001_desc-segnet_dseg.nii.gz")
    stored = read_cine(labels, frame_ms=None)
    assert stored.voxels.shape == image.voxels.shape
    assert stored.affine.equal(image.affine)
    [motion] = (analysis / "run").rglob("sub-9900001_desc-ed2es_motion.nii.gz")
    field = read_motion(motion)
    assert (field.fixed, field.moving, tuple(field.displacement_mm.shape[1:])) == (2, 0, tuple(image.voxels.shape[1:]))


def test_evaluation_table_has_three_comparisons_and_a_baseline(analysis: Path) -> None:
    found = {(row["method"], row["comparison"], row["structure"]) for row in rows(analysis / "run", "evaluation")}
    for method in ("cardiomorphnet", "no-motion"):
        assert {(method, comparison, "lv") for comparison in ("ed-to-es", "es-to-ed", "pooled")} <= found
    assert {("segnet", "at-ed", "rv"), ("segnet", "at-es", "rv")} <= found
    summary = rows(analysis / "run", "evaluation_summary")
    assert {row["group"] for row in summary} == {"all", "DCM", "NOR"}
    at_ed = [row for row in summary if row["comparison"] == "at-ed" and row["group"] == "all"]
    assert all(row["dsc_mean_pct"] > 95 and row["n"] == SUBJECTS for row in at_ed)
    page = (analysis / "run" / "tables" / "evaluation.md").read_text()
    assert "| cardiomorphnet | ed-to-es | lv | 3 |" in page


def test_run_record_has_settings_and_digests(analysis: Path, tiny_model: Path) -> None:
    record = json.loads((analysis / "run" / "run.json").read_text())
    assert set(record["commands"]) == {"infer", "indices", "evaluate"}
    assert record["commands"]["infer"]["settings"]["model"] == str(tiny_model)
    assert len(record["commands"]["infer"]["model_digest"]) == 64
    assert column(analysis / "run", "status", "state") == ["done"] * SUBJECTS


def test_finished_subjects_are_not_run_again(analysis: Path, again: Path, tiny_model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finals(again / "subjects")}
    assert "0 to do, 3 done before" in _infer(analysis, again, tiny_model)
    assert before == {path: path.stat().st_mtime_ns for path in finals(again / "subjects")}


def test_truncated_output_is_computed_again(analysis: Path, again: Path, tiny_model: Path) -> None:
    [labels] = again.rglob("sub-9900002_desc-segnet_dseg.nii.gz")
    whole = labels.read_bytes()
    labels.write_bytes(whole[:100])
    assert "damaged" in cmnet("verify", "--run", again).output
    assert "1 to do, 2 done before" in _infer(analysis, again, tiny_model)
    assert labels.read_bytes() == whole


def test_run_with_other_weights_is_stale(analysis: Path, again: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.safetensors", seed=2)
    kept = _infer(analysis, again, other, "--on-stale", "skip")
    assert "3 stale and left as they are" in kept
    refused = cmnet("infer", "-m", analysis / "cohort.csv", "-o", again, "--model", other, "--on-stale", "error")
    assert refused.exit_code == 3
    assert "computed with other weights" in refused.output
    assert "3 to do" in _infer(analysis, again, other)


def test_dry_run_lists_subjects_and_writes_nothing(analysis: Path, tmp_path: Path, tiny_model: Path) -> None:
    output = _infer(analysis, tmp_path / "new", tiny_model, "--dry-run", "--pilot", 2)
    assert "sub-9900002: pending" in output
    assert "sub-9900003" not in output
    assert not (tmp_path / "new").exists()


def test_tables_do_not_depend_on_workers(analysis: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    _infer(analysis, run, tiny_model, "--workers", 2)
    assert cmnet("indices", "--run", run, *SAMPLES, "--workers", 2).exit_code == 0
    for table in RESULTS:
        assert rows(run, table) == rows(analysis / "run", table)


def test_tables_do_not_depend_on_participant_selection(analysis: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    for subject in ("9900003", "sub-9900001"):
        _infer(analysis, run, tiny_model, "--participant-label", subject)
        assert cmnet("indices", "--run", run, *SAMPLES, "--participant-label", subject).exit_code == 0
    assert column(run, "indices", "subject_id") == ["9900001", "9900003"]
    assert column(run, "status", "state") == ["done", "pending", "done"]
    left_out = cmnet("indices", "--run", run, *SAMPLES)
    assert left_out.exit_code == 4
    assert "1 left out" in left_out.output


def test_summary_as_json(analysis: Path, again: Path) -> None:
    ran = cmnet("indices", "--run", again, *SAMPLES, "--json", "--quiet")
    assert json.loads(ran.stdout)["done"] == SUBJECTS
    assert json.loads(cmnet("status", "--run", again, "--json").stdout)[0]["state"] == "done"


def test_indices_without_stored_motion(analysis: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    _infer(analysis, run, tiny_model, "--save-motion", "none", "--pilot", 1)
    assert not list(run.rglob("*_motion.n*"))
    assert cmnet("indices", "--run", run, *SAMPLES, "--participant-label", "9900001").exit_code == 0
    [motion] = rows(run, "motion")
    assert motion["mean_displacement_es_myo_mm"] is None
    assert "motion-not-stored" in motion["qc_flags"]


def test_save_motion_none_removes_earlier_motion(analysis: Path, again: Path, tiny_model: Path) -> None:
    assert len(list(again.rglob("*_motion.npz"))) == SUBJECTS
    assert "3 to do" in _infer(analysis, again, tiny_model, "--save-motion", "ed2es")
    assert not list(again.rglob("*_motion.npz"))
    assert len(list(again.rglob("*_desc-ed2es_motion.nii.gz"))) == SUBJECTS


def test_run_continues_after_ctrl_c(
    analysis: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tmp_path / "run", []

    def interrupt_at_second(*arguments: object, **options: object) -> str:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    from cmnet_cli.stages import infer

    original = infer.infer_case
    monkeypatch.setattr(infer, "infer_case", interrupt_at_second)
    arguments = ("infer", "-m", analysis / "cohort.csv", "-o", run, "--model", tiny_model)
    assert cmnet(*arguments).exit_code == 130
    assert column(run, "status", "state") == ["done", "pending", "pending"]
    monkeypatch.undo()
    assert "2 to do, 1 done before" in cmnet(*arguments).output


def test_pair_of_frames_is_a_cine_of_two(tmp_path: Path, tiny_model: Path) -> None:
    from cmnet_core.io.nifti import write_image

    image, _ = write_heart(tmp_path, "9900001")
    cine = read_cine(image, frame_ms=None)
    for name, frame in (("ed", 0), ("es", 2)):
        write_image(tmp_path / f"{name}.nii.gz", cine.voxels[frame], affine=cine.affine, frame_ms=None)
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("subject_id,image\n9900001,ed.nii.gz;es.nii.gz\n")
    run = tmp_path / "run"
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0
    assert cmnet("indices", "-r", run, *SAMPLES).exit_code == 0
    [row] = rows(run, "indices")
    assert (row["frames"], row["ed_frame"], row["es_frame"], row["frame_ms"]) == (2, 0, 1, None)
    assert "no-heart-rate" in row["qc_flags"]
    assert cmnet("evaluate", "-r", run).exit_code == 3


def test_infer_includes_preprocess(analysis: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--manifest", analysis / "cohort.csv", "--out", run)
    assert cmnet("preprocess", *arguments).exit_code == 0
    assert len(list(run.rglob("*_desc-preproc_cine.nii.gz"))) == SUBJECTS
    _infer(analysis, run, tiny_model)
    assert "3 done before" in cmnet("preprocess", *arguments).output
