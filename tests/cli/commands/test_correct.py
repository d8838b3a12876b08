"""Masks are exported, edited and applied: one subject changes, all else remains, and one command takes it back."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from cmnet_cli.commands import correct as command
from cmnet_cli.runs.paths import MaskFolder, RunFolder
from tests.cli.commanding import cmnet, finals, rows
from tests.phantoms import write_cohort

EDITED, OTHER = "sub-9900001", "sub-9900002"
FRAMES = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a run of two subjects and its report in ``run``, and their exported masks in ``masks``."""
    folder = tmp_path_factory.mktemp("correct")
    run = folder / "run"
    _run("infer", "-m", write_cohort(folder, 2, frames=FRAMES), "-o", run, "--model", tiny_model)
    _run("indices", "-r", run, "--samples", 0)
    _run("report", "-r", run)
    _run("export-masks", "-r", run, "-o", folder / "masks", "--participant-label", EDITED, "--pilot", 2)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    return copy


def _run(*arguments: object, code: int = 0) -> str:
    ran = cmnet(*arguments)
    assert ran.exit_code == code, ran.output
    return ran.output


def _edit(folder: Path, frame: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Path:
    path = MaskFolder(folder / "masks").mask(EDITED, frame)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj).copy()), image.affine), path)
    return path


def test_masks_of_the_subjects_to_correct_are_exported(folder: Path) -> None:
    out = folder / "more"
    assert "none has the verdict" in _run("export-masks", "-r", folder / "run", "-o", out, code=3)
    (folder / "run" / "verdicts.csv").write_text(f"id,verdict,reader,date,remark\n{OTHER},correct,AB,,\n")
    _run("export-masks", "-r", folder / "run", "-o", out)
    assert {path.name[: len(OTHER)] for path in out.glob("sub-*/*_dseg.nii.gz")} == {OTHER}


def _larger_lv(voxels: NDArray[Any]) -> NDArray[Any]:
    """The LV grows by one voxel into the myocardium."""
    lv = voxels == 1
    grown = lv.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(lv, step, axis)
    voxels[grown & (voxels == 2)] = 1
    return voxels


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in finals(folder)}


def _row(run: Path, case_id: str, table: str = "indices") -> list[dict[str, Any]]:
    return [row for row in rows(run, table) if row["case_id"] == case_id]


def _without_place(page: Path) -> str:
    return re.sub(r"<nav aria-label=.Worklist.*?</nav>", "", page.read_text(), flags=re.DOTALL)


TABLES = ("indices", "frames", "segments", "motion", "bullseye")


def test_correction_changes_one_subject_and_is_taken_back(folder: Path) -> None:
    run = folder / "run"
    # Pages contain a digest of the path of their run, which is copied here.
    _run("report", "-r", run, "--pages", "all")
    before, rows_before = _digests(run), {(t, c): _row(run, c, t) for t in TABLES for c in (EDITED, OTHER)}
    mask = _edit(folder, 0, _larger_lv)
    output = _run("correct", "-r", run, "--masks", folder / "masks")
    assert f"{EDITED}: corrected by frame(s) 0" in output

    stored = nib.load(RunFolder(run).case(EDITED).current.segnet_labels)
    assert (np.asarray(stored.dataobj)[..., 0] == np.asarray(nib.load(mask).dataobj)).all()
    [row], [automatic] = _row(run, EDITED), rows_before["indices", EDITED]
    assert row["lvedv_ml"] > automatic["lvedv_ml"]
    assert automatic["lvesv_ml"] < row["lvesv_ml"], "the correction is propagated"
    assert (row["corrected_frames"], automatic["corrected_frames"]) == ("0", None)
    assert "masks-corrected" in row["qc_flags"]
    digest = str(row["corrected_mask_sha256"])
    assert digest in (run / "report" / f"{EDITED}.html").read_text()
    for table in TABLES:
        assert _row(run, OTHER, table) == rows_before[table, OTHER]
    after = _digests(run)
    untouched = [name for name in before if OTHER in name or name in ("run.json", "cohort.parquet")]
    untouched += [name for name in before if EDITED in name and not name.startswith("report")]
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert _run("verify", "-r", run)
    # A later report makes the pages of other subjects as they were, but for their place on the worklist.
    page = run / "report" / f"{OTHER}.html"
    without_place = _without_place(page)
    _run("report", "-r", run, "--pages", "all")
    assert _without_place(page) == without_place

    again = _digests(run)
    assert "nothing to do" in _run("correct", "-r", run, "--masks", folder / "masks")
    changed = {name for name, digest in _digests(run).items() if again.get(name) != digest}
    assert all(name.startswith(("logs/", ".locks", "tables/status")) for name in changed), changed

    _run("correct", "-r", run, "--undo", EDITED)
    for (table, case_id), found in rows_before.items():
        assert _row(run, case_id, table) == found, table
    _run("report", "-r", run, "--pages", "all")
    undone = _digests(run)
    pages = [name for name in before if name.startswith("report/sub-")]
    assert {name: undone[name] for name in pages} == {name: before[name] for name in pages}
    assert {name for name in undone if "corrected" in name} == set()
    assert _run("verify", "-r", run)


def test_evaluate_states_what_a_correction_changed(folder: Path) -> None:
    run = folder / "run"
    [automatic] = _row(run, EDITED)
    _edit(folder, 0, _larger_lv)
    _run("correct", "-r", run, "--masks", folder / "masks")
    assert "corrected - automatic" in _run("evaluate", "-r", run)
    at_ed = {row["structure"]: row for row in rows(run, "correction_overlaps") if row["frame"] == 0}
    assert {row["edited"] for row in at_ed.values()} == {1}
    assert at_ed["lv"]["dsc_pct"] < 100 == at_ed["rv"]["dsc_pct"]
    indices = {row["index"]: row for row in rows(run, "correction_indices")}
    [row] = _row(run, EDITED)
    assert {name: found["automatic"] for name, found in indices.items()} == {name: automatic[name] for name in indices}
    assert {name: found["corrected"] for name, found in indices.items()} == {name: row[name] for name in indices}
    assert indices["lvedv_ml"]["automatic"] != indices["lvedv_ml"]["corrected"]
    # The accuracy is that of the automatic results.
    estimates = {found["index"]: found["estimate"] for found in _row(run, EDITED, "agreement")}
    assert estimates["lvedv_ml"] == automatic["lvedv_ml"]


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "grid": (lambda f: _edit(f, 0, lambda v: v[2:]), "label-geometry", "not on the grid"),
    "affine": (lambda f: _moved(f), "label-geometry", "corners up to"),
    "values": (lambda f: _edit(f, 0, lambda v: v + (v == 3) * np.uint8(4)), "label-values", "found 7"),
    "fraction": (lambda f: _edit(f, 0, lambda v: v * np.float32(0.5)), "label-values", "nearest neighbours"),
    "empty": (lambda f: _edit(f, 0, lambda v: v * 0), "label-values", "is empty"),
    "no-myo": (lambda f: _edit(f, 0, lambda v: v * (v != 2)), "label-class", "no MYO"),
    "frame": (lambda f: _renamed(f, "frame-009"), "correction", "no frame 9"),
}


def _moved(folder: Path) -> None:
    path = MaskFolder(folder / "masks").mask(EDITED, 0)
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += 9
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def _renamed(folder: Path, frame: str) -> None:
    path = _edit(folder, 0, _larger_lv)
    path.rename(path.with_name(path.name.replace("frame-000", frame)))


@pytest.mark.parametrize("kind", BAD)
def test_mask_that_cannot_be_used_costs_its_subject_alone(folder: Path, kind: str) -> None:
    damage, code, message = BAD[kind]
    damage(folder)
    before = _digests(folder / "run" / "subjects")
    dry = _run("correct", "-r", folder / "run", "--masks", folder / "masks", "--dry-run")
    output = _run("correct", "-r", folder / "run", "--masks", folder / "masks", code=4)
    for text in (dry, output):
        assert (f"({code})" in text, message in " ".join(text.split())) == (True, True), text
    assert _digests(folder / "run" / "subjects") == before


def test_files_that_name_no_subject_are_listed(folder: Path) -> None:
    masks = folder / "masks"
    (masks / "final.nii.gz").write_bytes(b"")
    (masks / "sub-9909999_frame-000_dseg.nii.gz").write_bytes(b"")
    output = " ".join(_run("correct", "-r", folder / "run", "--masks", masks, code=4).split())
    assert "names no subject and frame" in output
    assert "no such subject" in output
    assert "nothing to do" in output, "the masks of export-masks were not edited"
    _run("correct", "-r", folder / "run", "--masks", folder / "nowhere", code=3)


def test_export_does_not_replace_an_edited_mask(folder: Path) -> None:
    path = _edit(folder, 0, _larger_lv)
    edited = path.read_bytes()
    export = ("export-masks", "-r", folder / "run", "-o", folder / "masks", "--participant-label", EDITED)
    _run(*export, code=4)
    assert path.read_bytes() == edited
    _run(*export, "--force", "--all-frames")
    assert path.read_bytes() != edited
    assert len(list(path.parent.glob("*_dseg.nii.gz"))) == FRAMES
    assert "left ventricle" in (folder / "masks" / "labels_itksnap.txt").read_text()
    assert "1 left_ventricle" in (folder / "masks" / "labels_slicer.ctbl").read_text()


@pytest.mark.parametrize("place", ["write_sidecar", "update_report", "rmtree"])
def test_interrupted_correction_is_completed(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    from cmnet_cli.derivatives import correction
    from cmnet_cli.stages import correct as stage

    run = folder / "run"
    before = _row(run, EDITED)
    _edit(folder, 0, _larger_lv)

    def killed(*given: object, **_: object) -> None:
        if place != "rmtree" or Path(str(given[0])).exists():
            raise KeyboardInterrupt

    if place == "rmtree":
        _run("correct", "-r", run, "--masks", folder / "masks")
        with monkeypatch.context() as patched:
            patched.setattr(correction.shutil, "rmtree", killed)
            _run("correct", "-r", run, "--undo", EDITED, code=130)
        _run("correct", "-r", run, "--undo", EDITED)
        assert _row(run, EDITED) == before
    else:
        with monkeypatch.context() as patched:
            patched.setattr(stage if place == "write_sidecar" else command, place, killed)
            _run("correct", "-r", run, "--masks", folder / "masks", code=130)
        _run("correct", "-r", run)
        [row] = _row(run, EDITED)
        assert row["corrected_frames"] == "0"
        assert str(row["corrected_mask_sha256"]) in (run / "report" / f"{EDITED}.html").read_text()
    assert _run("verify", "-r", run)
