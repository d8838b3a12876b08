"""Bad input: a message that names the file and the remedy, the right exit code, and all other subjects done."""

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result

from cmnet_core.errors import ErrorCode
from tests.cli.commanding import cmnet, column, finals, rows, traceback_of
from tests.cli.execution.failing_stages import CrashingStage
from tests.phantoms import write_cohort
from tests.tiny_model import write_tiny_model


def _missing(image: Path) -> None:
    image.unlink()


def _truncated(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])


def _no_gzip(image: Path) -> None:
    image.write_bytes(gzip.decompress(image.read_bytes())[:300])


def _rewritten(image: Path, voxels: np.ndarray, **zooms: tuple[float, ...]) -> None:
    old = nib.load(image)
    new = nib.Nifti1Image(voxels, old.affine)
    new.header.set_zooms(zooms.get("zooms") or old.header.get_zooms()[: voxels.ndim])
    image.unlink()
    nib.save(new, image)


def _three_dimensions(image: Path) -> None:
    _rewritten(image, np.asarray(nib.load(image).dataobj)[..., 0])


def _not_a_number(image: Path) -> None:
    voxels = np.asarray(nib.load(image).dataobj).copy()
    voxels[3, 3, 0, 1] = np.nan
    _rewritten(image, voxels)


def _zero_spacing(image: Path) -> None:
    raw = bytearray(gzip.decompress(image.read_bytes()))
    raw[76 + 4 * 3 : 76 + 4 * 4] = np.float32(0).tobytes()
    raw[252:256] = bytes(4)  # no affine that could tell it instead
    image.write_bytes(gzip.compress(bytes(raw)))


def _flat(image: Path) -> None:
    _rewritten(image, np.zeros_like(np.asarray(nib.load(image).dataobj)))


def _still(image: Path) -> None:
    voxels = np.asarray(nib.load(image).dataobj).copy()
    voxels[:] = voxels[..., :1]
    _rewritten(image, voxels)


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], ErrorCode]] = {
    "missing file": (_missing, ErrorCode.FILE_MISSING),
    "truncated gzip": (_truncated, ErrorCode.FILE_DAMAGED),
    "no NIfTI": (_no_gzip, ErrorCode.FILE_DAMAGED),
    "3-D": (_three_dimensions, ErrorCode.IMAGE_DIMENSIONS),
    "NaN": (_not_a_number, ErrorCode.IMAGE_VALUES),
    "zero spacing": (_zero_spacing, ErrorCode.GEOMETRY),
    "no contrast": (_flat, ErrorCode.IMAGE_VALUES),
    "nothing moves": (_still, ErrorCode.HEART_NOT_FOUND),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Result]:
    """The run of a cohort with one image of every kind of damage between two usable ones, and what infer printed."""
    folder = tmp_path_factory.mktemp("damaged")
    manifest, run = write_cohort(folder, len(BAD_IMAGES) + 2, frames=3, step_mm=1.0), folder / "run"
    for number, (spoil, _) in enumerate(BAD_IMAGES.values()):
        spoil(folder / f"{9900002 + number}.nii.gz")
    return run, cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)


@pytest.mark.parametrize("damage", BAD_IMAGES)
def test_unusable_image_fails_its_subject(damaged: tuple[Path, Result], damage: str) -> None:
    (run, ran), number, code = damaged, list(BAD_IMAGES).index(damage), BAD_IMAGES[damage][1]
    subject = str(9900002 + number)
    [printed] = [line for line in ran.output.split("row ") if line.startswith(f"{number + 3} (")]
    assert printed.startswith(f"{number + 3} ({code})")
    assert "<id>.nii.gz" in printed
    failed = rows(run, "status")[number + 1]
    assert (failed["subject_id"], failed["state"], failed["error_code"]) == (subject, "failed", code)
    assert failed["hint"]
    assert not [path for path in finals(run / "subjects") if subject in str(path)]
    assert traceback_of(run, subject).startswith("Traceback")


def test_usable_subjects_between_unusable_ones_are_done(damaged: tuple[Path, Result]) -> None:
    run, ran = damaged
    assert (ran.exit_code, f"2 done, {len(BAD_IMAGES)} failed" in ran.output) == (4, True)
    assert column(run, "status", "state") == ["done", *["failed"] * len(BAD_IMAGES), "done"]
    assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 4
    assert column(run, "indices", "subject_id") == ["9900001", str(9900002 + len(BAD_IMAGES))]


def test_folder_without_dicom_fails_one_subject(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=3), tmp_path / "run"
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "readme.txt").write_text("The images went elsewhere.")
    manifest.write_text(manifest.read_text().replace("9900002.nii.gz", "series"))
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert (ran.exit_code, "row 3 (dicom)" in ran.output) == (4, True)
    assert "series" in ran.output


def test_defect_fails_one_subject_and_stores_its_traceback(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmnet_cli.stages import infer

    def divide_by_zero(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nothing foresaw this")

    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    monkeypatch.setattr(infer, "open_method", lambda *_: SimpleNamespace(track=divide_by_zero))
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert (ran.exit_code, "row 2 (defect)" in ran.output) == (4, True)
    assert "nothing foresaw this" in traceback_of(run, "9900001")


def test_killed_worker_fails_one_subject(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmnet_cli.execution.build_stage.InferStage", CrashingStage)
    manifest, run = write_cohort(tmp_path, 3, frames=2), tmp_path / "run"
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--workers", 1)
    assert (ran.exit_code, "row 3 (worker-died)" in ran.output) == (4, True)
    assert column(run, "status", "state") == ["done", "failed", "done"]


BAD_MANIFESTS = {
    "duplicate id": ("subject_id,image\n9900001,a.nii\n9900001,b.nii\n", ErrorCode.MANIFEST_ROW, "row 3"),
    "id with a slash": ("subject_id,image\n99/1,a.nii\n", ErrorCode.MANIFEST_ROW, "row 2"),
    "two bad rows": ("subject_id,image\n9 1,a.nii\n9/2,b.nii\n", ErrorCode.MANIFEST_ROW, "row 3"),
    "empty": ("subject_id,image\n", ErrorCode.MANIFEST_EMPTY, "no rows"),
    "no columns": ("", ErrorCode.MANIFEST_UNREADABLE, "cohort.csv"),
    "missing column": ("subject,image\n9900001,a.nii\n", ErrorCode.MANIFEST_COLUMN, "subject_id"),
}


@pytest.mark.parametrize("problem", BAD_MANIFESTS)
@pytest.mark.parametrize("command", ["infer", "preprocess", "validate"])
def test_nothing_runs_with_an_unusable_manifest(tmp_path: Path, tiny_model: Path, problem: str, command: str) -> None:
    text, code, message = BAD_MANIFESTS[problem]
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(text)
    options = ["-o", tmp_path / "run"] if command != "validate" else []
    ran = cmnet(command, "-m", manifest, *options, *(["--model", tiny_model] if command == "infer" else []))
    assert ran.exit_code == 3
    assert message in ran.output
    assert str(code) in ran.output
    assert finals(tmp_path) == [manifest]


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    ran = cmnet("infer", "-m", tmp_path / "nowhere.csv", "-o", tmp_path / "run")
    assert ran.exit_code == 3
    assert "nowhere.csv" in ran.output


def test_unknown_label_values_fail_one_subject_of_an_evaluation(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=3), tmp_path / "run"
    masks = np.asarray(nib.load(tmp_path / "9900001_labels.nii.gz").dataobj) * 3
    _rewritten(tmp_path / "9900001_labels.nii.gz", masks.astype(np.uint8))
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0
    ran = cmnet("evaluate", "-r", run)
    assert ran.exit_code == 4
    assert "row 2 (label-values)" in ran.output
    assert "<id>_labels.nii.gz" in ran.output
    assert set(column(run, "evaluation", "subject_id")) == {"9900002"}


def test_masks_of_another_grid_fail_one_subject_of_an_evaluation(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=3), tmp_path / "run"
    masks = np.asarray(nib.load(tmp_path / "9900001_labels.nii.gz").dataobj)[:-1]
    _rewritten(tmp_path / "9900001_labels.nii.gz", masks)
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0
    ran = cmnet("evaluate", "-r", run)
    assert (ran.exit_code, "row 2 (label-geometry)" in ran.output) == (4, True)


@pytest.mark.parametrize(
    ("settings", "message"), [("modle = 'x'", "Did you mean 'model'?"), ("save_motion = 1", "one of full, ed2es, none")]
)
def test_unusable_settings_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    manifest, config = write_cohort(tmp_path, 1, frames=2), tmp_path / "settings.toml"
    config.write_text(settings)
    ran = cmnet("infer", "-m", manifest, "-o", tmp_path / "run", "--config", config)
    assert ran.exit_code == 3
    assert message in ran.output
    assert not (tmp_path / "run").exists()


def test_unusable_weights_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny_model.read_bytes()[:-100])
    unfinished = write_tiny_model(tmp_path / "unfinished.safetensors", with_motion=False)
    for model in (damaged, unfinished, tmp_path / "nowhere.safetensors", "no-such-name"):
        ran = cmnet("infer", "-m", manifest, "-o", tmp_path / "run", "--model", model)
        assert ran.exit_code == 3
        assert "(checkpoint)" in ran.output
    assert not (tmp_path / "run").exists()


def test_unknown_participant_device_or_run_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    options = ("infer", "-m", manifest, "-o", tmp_path / "run", "--model", tiny_model)
    unknown = cmnet(*options, "--participant-label", "9900009")
    assert (unknown.exit_code, "9900009" in unknown.output) == (3, True)
    device = cmnet(*options, "--device", "cuda:7")
    assert (device.exit_code, "cuda:7" in device.output) == (3, True)
    for command in ("indices", "evaluate", "status", "verify"):
        run = cmnet(command, "-r", tmp_path / "nowhere")
        assert (run.exit_code, "nowhere is not a run folder" in run.output) == (3, True)


def test_run_folder_of_another_manifest_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=2), tmp_path / "run"
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--pilot", 1).exit_code == 0
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], lines[2]]) + "\n")
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert ran.exit_code == 3
    assert "another manifest" in ran.output
