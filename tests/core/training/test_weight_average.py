"""The offset of the wall's logit: a known one is found, and the network's logits change by it, in the wall alone."""

import pytest
import torch

from cmnet_core.labels import Label
from cmnet_core.models.build import SegNetSizes, build_segnet
from cmnet_core.models.layers import Stacks
from cmnet_core.training.shape_motion.reference_pair import ReferencePair
from cmnet_core.training.weight_average import MAX_OFFSET, shift_wall_logit, wall_logit_offset


def pair_with_offset(offset: float, seed: int) -> ReferencePair:
    """Masks of smooth random logits, and the probabilities of the same logits with an offset of the wall."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 4, 3, 12, 12, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=(3, 96, 96), mode="trilinear")
    labels = logits.argmax(1).to(torch.uint8)
    logits[:, Label.MYO] += offset
    return ReferencePair(labels, logits.softmax(1)[None], 8.0 + seed)


@pytest.mark.parametrize("offset", [0.0, 0.3, -0.45])
def test_offset_that_was_added_is_taken_away(offset: float) -> None:
    pairs = [pair_with_offset(offset, seed) for seed in (1, 2)]
    assert wall_logit_offset(pairs) == pytest.approx(-offset, abs=0.005)


def test_offset_is_bounded() -> None:
    assert wall_logit_offset([pair_with_offset(3.0, 1)]) == pytest.approx(-MAX_OFFSET, abs=0.001)


def test_logit_of_the_wall_alone_is_changed() -> None:
    torch.manual_seed(1)
    segnet = build_segnet(SegNetSizes(widths=(4, 4, 4, 4))).eval()
    slices = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        before = segnet.logits(slices, Stacks((2,)))
        shift_wall_logit(segnet, 0.25)
        change = segnet.logits(slices, Stacks((2,))) - before
    expected = torch.zeros(4)
    expected[Label.MYO] = 0.25
    torch.testing.assert_close(change, expected.view(1, 4, 1, 1).expand_as(change), atol=1e-5, rtol=0)
