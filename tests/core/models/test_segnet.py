"""SegNet: resolutions, cost, independence of the stacks of a batch."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from cmnet_core.models.build import SegNetSizes, build_segnet
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from tests.textures import random_slices

SMALL = SegNetSizes(widths=(4, 8, 8, 12))


def network(sizes: SegNetSizes = SMALL) -> SegNet:
    """Return a network whose running statistics are those of some images, as after a training."""
    torch.manual_seed(1)
    model = build_segnet(sizes).train()
    for seed in range(30):
        model(random_slices(1, depths=(6,), size=32, seed=seed), Stacks((6,)))
    return model.eval()


def test_encoder_halves_the_in_plane_resolution_from_level_to_level() -> None:
    with torch.no_grad():
        pyramid = network().encoder(torch.rand(3, 1, 64, 96), Stacks((3,)))
    assert pyramid.half.shape == (3, 4, 32, 48)
    assert pyramid.quarter.shape == (3, 8, 16, 24)
    assert pyramid.eighth.shape == (3, 8, 8, 12)
    assert pyramid.sixteenth.shape == (3, 12, 4, 6)


def test_segmentation_of_a_batch_equals_that_of_its_stacks() -> None:
    model = network()
    first, second = (random_slices(1, depths=(depth,), size=32, seed=depth) for depth in (3, 1))
    with torch.no_grad():
        batch = model(torch.cat([first, second]), Stacks((3, 1)))
        each = torch.cat([model(first, Stacks((3,))), model(second, Stacks((1,)))])
    torch.testing.assert_close(batch, each, atol=1e-5, rtol=1e-4)


def test_probabilities_sum_to_one_and_depend_on_neighbouring_slices() -> None:
    model, stack = network(), random_slices(1, depths=(3,), size=32, seed=0)
    changed = stack.clone()
    changed[2] = 0.0
    with torch.no_grad():
        found, other = (model(slices, Stacks((3,))) for slices in (stack, changed))
    torch.testing.assert_close(found.sum(1), torch.ones(3, 32, 32))
    assert not torch.allclose(found[1], other[1])


def test_segmentation_of_a_frame_needs_less_than_five_gflop() -> None:
    segnet = build_segnet(SegNetSizes()).eval()
    with FlopCounterMode(display=False) as counter:
        class_probabilities(segnet, torch.rand(1, 12, 128, 128), frames_at_once=1)
    assert counter.get_total_flops() < 5e9


def test_frames_at_once_do_not_change_the_segmentation() -> None:
    model, voxels = network(), random_slices(1, depths=(6,), size=32, seed=0)[:, 0].unflatten(0, (3, 2))
    one, three = (class_probabilities(model, voxels, frames_at_once=count) for count in (1, 3))
    torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)
