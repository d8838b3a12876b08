"""A simulated cohort can be read back, and its ground truth agrees with the images."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.stages import phantom as stage
from cmnet_cli.stages.phantom import write_cohort
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.function.volumes import clinical_indices, volumes_ml
from cmnet_core.io.nifti import read_motion
from cmnet_core.phantom import PhantomSpec, draw_spec, spec_from_values, truth_of


def small_spec(generator: torch.Generator, *, frames: int, defect: bool) -> PhantomSpec:
    """A subject on so coarse a grid that a test can afford it."""
    values = asdict(draw_spec(generator, frames=frames, defect=defect))
    values["scan"] |= {"rows": 84, "columns": 84, "pixel_mm": 2.6}
    return spec_from_values(values)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "draw_spec", small_spec)
        return write_cohort(tmp_path_factory.mktemp("cohort"), subjects=2, frames=5, seed=3, defect_fraction=1.0)


def truth_rows(cohort: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((cohort.parent / "truth_indices.csv").read_text().splitlines()))


def test_phantom_manifest_lists_every_subject(cohort: Path) -> None:
    cases = read_manifest(cohort).cases
    assert [case.subject_id for case in cases] == ["phantom-001", "phantom-002"]
    for case in cases:
        assert case.ed == 0
        assert case.sex in ("female", "male")
        assert case.group == "regional-defect"
        assert case.height_cm is not None
        assert 140 < case.height_cm < 200
    assert "lvef" not in cohort.read_text()


def test_phantom_images_and_masks_can_be_read(cohort: Path) -> None:
    for case, truth in zip(read_manifest(cohort).cases, truth_rows(cohort), strict=True):
        cine = load_cine(case)
        labels = load_labels(case, cine)
        assert labels is not None
        assert cine.frames == 5
        assert cine.frame_ms == pytest.approx(case.frame_ms, rel=1e-3)
        assert case.es is not None
        indices = clinical_indices(volumes_ml(labels.labels, cine.spacing), ed=0, es=case.es)
        assert float(truth["lvef_pct"]) == pytest.approx(indices.lvef_pct, abs=0.01)
        assert float(truth["lvedv_ml"]) == pytest.approx(indices.lvedv_ml, rel=1e-3)


def test_phantom_truth_file_reproduces_the_motion(cohort: Path) -> None:
    case = read_manifest(cohort).cases[0]
    folder = case.image[0].parent
    values = json.loads((folder / "sub-phantom-001_truth.json").read_text())
    truth, es = truth_of(spec_from_values(values["spec"])), values["es"]
    stored = read_motion(folder / "sub-phantom-001_desc-ed2es_motion.nii.gz")
    assert (stored.fixed, stored.moving) == (es, 0)
    torch.testing.assert_close(stored.displacement_mm, truth.to_ed(es).displacement_mm, rtol=0, atol=0.01)
    back = read_motion(folder / "sub-phantom-001_desc-es2ed_motion.nii.gz")
    torch.testing.assert_close(back.displacement_mm, truth.from_ed(es).displacement_mm, rtol=0, atol=0.01)
    strain = values["green_lagrange_strain_of_aha_segments"]
    assert len(strain["ecc"]) == 5
    assert all(len(row) == 16 for name in ("err", "ecc", "ell") for row in strain[name])
    assert values["volumes_continuous"]["lv_ml"] == pytest.approx(truth.volumes().lv_ml.tolist(), abs=1e-3)


def test_phantom_indices_of_masks_and_of_continuous_shape(cohort: Path) -> None:
    for row in truth_rows(cohort):
        assert abs(float(row["lvef_pct"]) - float(row["lvef_continuous_pct"])) < 10
        assert float(row["gcs_green_wall_es_pct"]) < 0 < float(row["grs_green_wall_es_pct"])
        assert 1 <= int(row["defect_segment"]) <= 16


def test_phantom_does_not_depend_on_the_size_of_the_cohort(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "draw_spec", small_spec)
    done: list[int] = []
    one = write_cohort(tmp_path, subjects=1, frames=5, seed=3, defect_fraction=1.0, progress=lambda: done.append(1))
    name = "sub-phantom-001/sub-phantom-001_cine.nii.gz"
    assert (one.parent / name).read_bytes() == (cohort.parent / name).read_bytes()
    assert done == [1]
