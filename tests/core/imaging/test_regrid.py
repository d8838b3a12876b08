"""Resampling to the spacing of an evaluation protocol: labels by the nearest neighbour, displacements linearly."""

import pytest
import torch

from cmnet_core.imaging.regrid import regrid_labels, regrid_motion
from cmnet_core.registration.label_warp import warp_labels_nearest
from cmnet_core.types import MotionField, Spacing

SOURCE, TARGET = Spacing(5.0, 0.9, 1.8), Spacing(10.0, 1.8, 1.8)


def test_labels_keep_their_place_and_their_values() -> None:
    labels = torch.zeros(4, 12, 6, dtype=torch.uint8)
    labels[2:, 4:8, 3:5] = 3
    coarse = regrid_labels(labels, SOURCE, TARGET)
    expected = torch.zeros(2, 6, 6, dtype=torch.uint8)
    expected[1:, 2:4, 3:5] = 3
    assert torch.equal(coarse, expected)


def test_displacement_that_is_linear_in_mm_stays_so() -> None:
    y_mm = (torch.arange(12) + 0.5) * SOURCE.y
    displacement = torch.zeros(3, 4, 12, 6)
    displacement[1] = 0.3 * y_mm[:, None]
    coarse = regrid_motion(MotionField(displacement, SOURCE, fixed=3, moving=1), TARGET)
    assert (coarse.fixed, coarse.moving, coarse.spacing) == (3, 1, TARGET)
    expected = 0.3 * (torch.arange(6) + 0.5) * TARGET.y
    assert torch.allclose(coarse.displacement_mm[1, 0, 1:-1, 0], expected[1:-1], atol=1e-5)


@pytest.mark.parametrize(("mm", "voxels"), [(3.6, 2), (-1.8, -1), (0.8, 0)])
def test_labels_are_pulled_back_by_whole_voxels(mm: float, voxels: int) -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[0, 3:5, 2:4] = 2
    displacement = torch.zeros(3, 2, 8, 8)
    displacement[1] = mm
    warped = warp_labels_nearest(labels, MotionField(displacement, TARGET, fixed=1, moving=0))
    assert torch.equal(warped, labels.roll(-voxels, dims=1))
