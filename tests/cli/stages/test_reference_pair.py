"""Reference masks of a case with segmentations of its images as they are and mirrored."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.stages.reference_pair import MIRRORED_AXES, load_reference_pair
from cmnet_core.labels import Label
from cmnet_core.models.layers import Stacks
from tests.phantoms import write_cohort


class Brightness(nn.Module):
    """A segmentation by brightness alone, of all columns or of the left half."""

    def __init__(self, *, left_half: bool) -> None:
        super().__init__()
        self.left_half = left_half
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, slices: Tensor, stacks: Stacks) -> Tensor:
        bright = (slices[:, 0] > 0.5).long() * Label.LV
        if self.left_half:
            bright[..., bright.shape[-1] // 2 :] = Label.BACKGROUND
        return functional.one_hot(bright, len(Label)).movedim(-1, 1).float()


@pytest.mark.parametrize("left_half", [False, True])
def test_segmentations_of_mirrored_images_are_mirrored_back(tmp_path: Path, *, left_half: bool) -> None:
    [case] = read_manifest(write_cohort(tmp_path, 1, frames=2)).cases
    pair = load_reference_pair(case, window=48, segnet=Brightness(left_half=left_half))  # type: ignore[arg-type]
    assert pair.segmented is not None
    assert pair.segmented.shape[:3] == (1 + len(MIRRORED_AXES), 2, len(Label))
    straight, in_plane, reversed_slices = pair.segmented
    assert straight[:, Label.LV].any()
    assert torch.equal(straight, reversed_slices)
    # Brightness does not depend on the position; a network that does segments the other half of a mirrored image.
    assert torch.equal(straight, in_plane) is not left_half
