"""CardioMorphNet: sizes of the article, ragged batches, and iteration over a cycle."""

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.models.build import SegNetSizes, build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import MotionSizes, iterate_cycle
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.models.layers import Stacks
from tests.textures import random_slices


def test_sub_networks_have_the_sizes_of_the_article() -> None:
    model = build_motion(MotionSizes())

    def parameters(part: nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    assert parameters(model.feat_net) == 97_344
    assert parameters(model.infer_z) == 57_058
    assert parameters(model.prior_z) == 57_090
    assert parameters(model.feat_z) == 896
    assert parameters(model.dec_net) == 97_313
    assert parameters(model.rec_net) == 1_216_896


@pytest.mark.parametrize("depth", [1, 2, 7, 30])
@pytest.mark.parametrize("sizes", [MotionSizes(), MotionSizes(output_level=1, integration_steps=5)])
def test_networks_accept_any_number_of_slices(depth: int, sizes: MotionSizes) -> None:
    stacks = Stacks((depth,))
    frames = [random_slices(1, depths=(depth,), size=32, seed=seed) for seed in range(2)]
    with torch.no_grad():
        assert build_segnet(SegNetSizes()).eval()(frames[0], stacks).shape == (depth, 4, 32, 32)
        model = build_motion(sizes)
        steps = list(iterate_cycle(model, frames, stacks, None))
    assert len(steps) == 2
    (displacement,) = model.displacements(steps[0].motion.mean, stacks)
    assert displacement.shape == (1, 3, depth, 32, 32)
    assert steps[0].reconstruction is not None
    assert steps[0].reconstruction.shape == (depth, 1, 32, 32)


def test_a_batch_equals_its_elements() -> None:
    depths = (2, 5)
    torch.manual_seed(0)
    segnet, motion = build_segnet(SegNetSizes()).eval(), build_motion(MotionSizes()).eval()
    frames = [random_slices(1, depths=depths, size=32, seed=seed) for seed in range(3)]
    with torch.no_grad():
        together = [step.motion.mean for step in iterate_cycle(motion, frames, Stacks(depths), None)]
        labels = segnet(frames[0], Stacks(depths))
        for part, depth in enumerate(depths):
            alone = [frame.split(depths)[part] for frame in frames]
            torch.testing.assert_close(
                segnet(alone[0], Stacks((depth,))), labels.split(depths)[part], atol=1e-4, rtol=1e-4
            )
            for step, mean in zip(iterate_cycle(motion, alone, Stacks((depth,)), None), together, strict=True):
                torch.testing.assert_close(step.motion.mean, mean.split(depths)[part], atol=1e-6, rtol=1e-3)


def test_without_a_generator_the_motion_is_its_mean_and_with_one_a_sample() -> None:
    stacks, frames = Stacks((3,)), [random_slices(1, depths=(3,), size=32, seed=seed) for seed in range(2)]
    model = build_motion(MotionSizes()).eval()
    with torch.no_grad():
        mean = next(iterate_cycle(model, frames, stacks, None))
        first, again, other = (
            next(iterate_cycle(model, frames, stacks, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
        )
    assert torch.equal(mean.sample, mean.motion.mean)
    assert torch.equal(first.sample, again.sample)
    assert not torch.equal(first.sample, other.sample)
    assert mean.reconstruction is None


class RecordingDeformNet(nn.Module):
    """Replaces DeformNet: it records the brightness of both of its inputs and returns no motion."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[float, float]] = []

    def forward(self, moving: Tensor, fixed: Tensor, latent: Tensor, stacks: Stacks) -> MotionPosterior:
        self.pairs.append((round(float(moving.mean()), 3), round(float(fixed.mean()), 3)))
        mean = torch.zeros(len(fixed), 3, *fixed.shape[2:])
        return MotionPosterior(mean, mean[:, :1], mean[:, :, None])


def test_motion_is_estimated_between_consecutive_frames_of_the_closed_cycle() -> None:
    model = build_motion(MotionSizes()).eval()
    model.deform_net = RecordingDeformNet()  # type: ignore[assignment]
    frames = [torch.full((2, 1, 32, 32), brightness) for brightness in (0.1, 0.2, 0.3)]
    with torch.no_grad():
        list(iterate_cycle(model, frames, Stacks((2,)), None))
    assert model.deform_net.pairs == [(0.1, 0.2), (0.2, 0.3), (0.3, 0.1)]


def test_the_memory_of_earlier_frames_changes_the_motion() -> None:
    torch.manual_seed(2)
    model = build_motion(MotionSizes()).eval()
    for head in (model.deform_net.mean, model.feat_z):
        nn.init.normal_(head.weight, std=0.1)
    stacks = Stacks((2,))
    frames = [random_slices(1, depths=(2,), size=32, seed=seed) for seed in range(4)]
    with torch.no_grad():
        motions = [
            list(iterate_cycle(model, [first, *frames[2:]], stacks, None))[1].motion.mean for first in frames[:2]
        ]
    # The second step estimates the motion between the same two frames in both cycles.
    assert float((motions[0] - motions[1]).abs().max()) > 5e-6
