"""SegNet: the ensemble's mean."""

import torch

from cmnet_core.models.build import SegNetSizes, build_segnet
from cmnet_core.models.layers import Stacks
from tests.textures import random_slices


def test_segnet_is_the_mean_of_its_members() -> None:
    torch.manual_seed(0)
    segnet = build_segnet(SegNetSizes(widths=(4, 8), through_plane_from=1, members=3)).eval()
    slices, stacks = random_slices(1, depths=(3,), size=16, seed=0), Stacks((3,))
    with torch.no_grad():
        each = [logits.softmax(1) for logits in segnet.member_logits(slices, stacks)]
        assert (each[0] - each[1]).abs().max() > 0.01
        torch.testing.assert_close(segnet(slices, stacks), (each[0] + each[1] + each[2]) / 3)
