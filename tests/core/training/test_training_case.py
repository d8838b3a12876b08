"""Training cases: masks that are needed, and views."""

from dataclasses import replace

import pytest
import torch

from cmnet_core.errors import LabelError
from cmnet_core.imaging.augmentation import draw_view, view_image
from cmnet_core.training.training_case import training_case
from cmnet_core.types import CineSequence, LabelSequence, Spacing
from tests.training_cases import NO_AUGMENTATION


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_quarter_turns_do_not_interpolate(probability: float) -> None:
    ranges = replace(NO_AUGMENTATION, quarter_turns=probability)
    image = torch.rand(1, 2, 16, 16)
    views = [draw_view((7.5, 7.5), 2, ranges, torch.Generator().manual_seed(seed)) for seed in range(12)]
    rotations = [torch.rot90(image, times, (2, 3)) for times in range(4)]
    images = [view_image(image, view, (16, 16)) for view in views]
    indices = {[torch.allclose(one, rotation, atol=1e-4) for rotation in rotations].index(True) for one in images}
    assert indices == ({0, 1, 2, 3} if probability else {0})


def test_a_case_without_masks_at_both_phases_is_refused() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    cine = CineSequence(torch.rand(3, 2, 32, 32), Spacing(8.0, 1.5, 1.5), affine, None, 0, 2)
    labels = LabelSequence(torch.ones(1, 2, 32, 32, dtype=torch.uint8), (0,), cine.spacing, affine)
    with pytest.raises(LabelError, match="ES is 2"):
        training_case(cine, labels, spacing_mm=1.5)
