"""Real files are read as they are: ACDC's affines without a scale, Sunnybrook's heart rates that change."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cmnet_cli.datasets import from_acdc
from cmnet_cli.manifest import Case, read_manifest, write_manifest
from cmnet_cli.stages.load import load_cine, load_labels
from cmnet_core.types import Label
from tests.cli.commanding import errors_of
from tests.real.contours import Contour, read_contours

pytestmark = pytest.mark.real

# Slices, spacing (z, y, x) in mm and time step in ms as the headers of each file tell them.
SUNNYBROOK = {
    "SC-HF-I-1": (12, (10.0, 1.367188, 1.367188), 38.0),
    "SC-HF-I-2": (13, (10.0, 1.367188, 1.367188), 34.9),
    "SC-HF-I-4": (10, (8.0, 1.2891, 1.2891), 46.0),
}


def test_acdc_is_a_cohort_of_a_hundred(acdc: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "acdc.csv", from_acdc(acdc))
    cases = read_manifest(tmp_path / "acdc.csv").cases
    assert Counter(case.group for case in cases) == dict.fromkeys(["NOR", "DCM", "HCM", "MINF", "RV"], 20)
    assert errors_of(tmp_path / "acdc.csv", deep=False) == []
    assert {case.subject_id: (case.ed, case.es) for case in cases if len(case.image) == 1} == {"patient090": (3, 10)}


def test_acdc_volumes_are_those_of_hearts(acdc: Path) -> None:
    lv_ml = {}
    for case in from_acdc(acdc):
        cine = load_cine(case)
        labels = load_labels(case, cine)
        assert labels is not None
        assert cine.flags == ("spacing-from-zooms",)
        assert 0.7 < cine.spacing.x < 2.0
        assert 5.0 <= cine.spacing.z <= 10.0
        voxels = [int((labels.at(frame) == Label.LV).sum()) for frame in (cine.ed, cine.es)]
        lv_ml[case.subject_id] = (case.group, *(n * cine.spacing.voxel_ml for n in voxels))
    assert all(20 < edv < 450 and esv < edv for _, edv, esv in lv_ml.values())
    ef = {
        g: np.median([1 - esv / edv for group, edv, esv in lv_ml.values() if group == g]) for g in ("NOR", "DCM", "HCM")
    }
    assert ef["DCM"] < 0.35 < 0.5 < ef["NOR"] < 0.7 < 0.75
    assert ef["DCM"] < ef["NOR"] <= ef["HCM"]


@pytest.mark.parametrize("subject", SUNNYBROOK)
def test_sunnybrook_is_one_stack_in_step(sunnybrook: Path, subject: str) -> None:
    slices, spacing, frame_ms = SUNNYBROOK[subject]
    cine = load_cine(Case(2, subject, (sunnybrook / f"{subject}.zip",)))
    assert cine.voxels.shape == (20, slices, 256, 256)
    assert cine.spacing.zyx == pytest.approx(spacing, rel=1e-4)
    assert cine.frame_ms == pytest.approx(frame_ms, abs=0.3)
    contours = read_contours(sunnybrook, subject, cine)
    ed, es = sorted({c.frame for c in contours}, reverse=True)[0], min(c.frame for c in contours)
    assert {c.frame for c in contours} == {ed, es}
    assert ed in (18, 19)
    assert es in (6, 7)
    assert contoured_ml(contours, cine.spacing.voxel_ml, ed) > contoured_ml(contours, cine.spacing.voxel_ml, es) > 20
    slices_of_es = sorted(c.slice for c in contours if c.kind == "i" and c.frame == es)
    areas = [next(c.mask((256, 256)).sum() for c in contours if (c.slice, c.frame) == (z, es)) for z in slices_of_es]
    assert areas[1] > 2 * areas[-1], "slices run from base to apex"
    assert all(blood_is_brighter_than_muscle(cine.voxels, contours, z, ed) for z in middle_slices(contours))


def contoured_ml(contours: list[Contour], voxel_ml: float, frame: int) -> float:
    return voxel_ml * sum(c.mask((256, 256)).sum() for c in contours if c.kind == "i" and c.frame == frame)


def middle_slices(contours: list[Contour]) -> list[int]:
    slices = sorted({c.slice for c in contours if c.kind == "o"})
    return slices[2:-2]


def blood_is_brighter_than_muscle(voxels: torch.Tensor, contours: list[Contour], z: int, frame: int) -> bool:
    """Only true where the contours fall on the slice and the phase on which they were drawn."""
    masks = {c.kind: c.mask((256, 256)) for c in contours if c.slice == z and c.frame == frame}
    image = voxels[frame, z].numpy()
    return bool(np.median(image[masks["i"]]) > 1.5 * np.median(image[masks["o"] & ~masks["i"]]))
