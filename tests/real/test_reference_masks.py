"""Volumes, function and thickness of real hearts from their reference masks, against what is known of them."""

from pathlib import Path
from statistics import fmean

import nibabel as nib
import numpy as np
import pytest

from cmnet_cli.cohort.datasets import from_acdc
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.function.volumes import clinical_indices, volumes_ml
from cmnet_core.geometry.lv_coordinates import lv_coordinates
from cmnet_core.geometry.wall_thickness import thickening_pct, wall_thickness

pytestmark = pytest.mark.real

EVERY = 5  # patient: those that are kept back from training
_LABELS_OF_ACDC = {"lv_ml": 3, "myo_ml": 2, "rv_ml": 1}


def test_reference_masks_have_their_volumes_and_groups_their_order(acdc: Path) -> None:
    """Volumes are counted again in the files' own voxels; LVEF falls from HCM over NOR and MINF to DCM."""
    ejection: dict[str, list[float]] = {}
    thickness: dict[str, list[float]] = {}
    for case in sorted(from_acdc(acdc).cases, key=lambda case: case.subject_id)[::EVERY]:
        cine = load_cine(case)
        masks = load_labels(case, cine)
        assert masks is not None
        found = volumes_ml(masks.labels, masks.spacing)
        for place, path in enumerate((case.labels_ed, case.labels_es)):
            assert path is not None
            image = nib.load(path)
            voxels, voxel_ml = np.asarray(image.dataobj), float(np.prod(image.header.get_zooms()[:3])) / 1000
            for name, label in _LABELS_OF_ACDC.items():
                counted = np.count_nonzero(voxels == label) * voxel_ml
                assert float(getattr(found, name)[place]) == pytest.approx(counted, abs=0.1)
        indices = clinical_indices(found, ed=0, es=1)
        ed, es = (wall_thickness(lv_coordinates(mask, masks.spacing, masks.affine)) for mask in masks.labels)
        assert indices.lvef_pct is not None
        assert ed.whole_mm is not None
        assert 3.0 < ed.whole_mm < 20.0
        thickening = thickening_pct(ed.whole_mm, es.whole_mm)
        assert thickening is not None
        assert thickening > 0
        assert sum(mm is None for mm in ed.segments_mm) <= 1
        ejection.setdefault(str(case.group), []).append(indices.lvef_pct)
        thickness.setdefault(str(case.group), []).append(ed.whole_mm)
    mean = {group: fmean(values) for group, values in ejection.items()}
    assert mean["HCM"] > mean["NOR"] > mean["MINF"] > mean["DCM"]
    assert fmean(thickness["HCM"]) > fmean(thickness["NOR"])
