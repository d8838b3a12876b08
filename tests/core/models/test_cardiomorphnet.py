"""CardioMorphNet: sizes, cost volume, cascade, and iteration over a cycle."""

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.errors import ManifestError
from cmnet_core.models.build import MotionSizes, SegNetSizes, build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import cost_volume, iterate_cycle
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.models.layers import Stacks
from tests.textures import random_slices
from tests.tiny_model import ARTICLE_MOTION


def test_sub_networks_have_the_sizes_of_the_article() -> None:
    model = build_motion(ARTICLE_MOTION)

    def parameters(part: nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    assert parameters(model.feat_net) == 97_344
    assert parameters(model.infer_z) == 57_058
    assert parameters(model.prior_z) == 57_090
    assert parameters(model.feat_z) == 896
    assert parameters(model.dec_net) == 97_313
    assert parameters(model.rec_net) == 1_216_896


@pytest.mark.parametrize("depth", [1, 2, 7, 30])
def test_networks_accept_any_number_of_slices(depth: int) -> None:
    stacks = Stacks((depth,))
    frames = [random_slices(4, depths=(depth,), size=32, seed=seed) for seed in range(2)]
    with torch.no_grad():
        assert build_segnet(SegNetSizes()).eval()(frames[0][:, :1], stacks).shape == (depth, 4, 32, 32)
        model = build_motion(MotionSizes())
        cycle_steps = list(iterate_cycle(model, frames, stacks, None))
    assert [cycle_step.t for cycle_step in cycle_steps] == [1, 2]
    (displacement,) = model.displacements(cycle_steps[0].output.motion.mean, stacks)
    assert displacement.shape == (1, 3, depth, 32, 32)
    assert cycle_steps[0].output.reconstruction.shape == (depth, 1, 32, 32)


def test_a_batch_equals_its_elements() -> None:
    depths = (2, 5)
    torch.manual_seed(0)
    segnet, motion = build_segnet(SegNetSizes()).eval(), build_motion(MotionSizes()).eval()
    frames = [random_slices(4, depths=depths, size=32, seed=seed) for seed in range(3)]
    with torch.no_grad():
        together = [cycle_step.output.motion.mean for cycle_step in iterate_cycle(motion, frames, Stacks(depths), None)]
        labels = segnet(frames[0][:, :1], Stacks(depths))
        for part, depth in enumerate(depths):
            alone = [frame.split(depths)[part] for frame in frames]
            torch.testing.assert_close(
                segnet(alone[0][:, :1], Stacks((depth,))), labels.split(depths)[part], atol=1e-4, rtol=1e-4
            )
            for cycle_step, mean in zip(iterate_cycle(motion, alone, Stacks((depth,)), None), together, strict=True):
                torch.testing.assert_close(
                    cycle_step.output.motion.mean, mean.split(depths)[part], atol=1e-6, rtol=1e-3
                )


def test_cost_volume_is_largest_at_the_shift() -> None:
    moving_map = random_slices(6, depths=(2,), size=12, seed=4)
    fixed_map = moving_map.roll((-2, 1), dims=(2, 3))
    similarity = cost_volume(fixed_map, moving_map, radius=3)
    inside = similarity[:, :, 3:-3, 3:-3]
    # The content of a voxel was two rows further down and one column to the left: shift 3 + 2 along y, 3 - 1 along x.
    assert bool((inside.argmax(1) == 7 * (3 + 2) + (3 - 1)).all())
    torch.testing.assert_close(inside.amax(1), torch.ones_like(inside[:, 0]))
    assert float(similarity.abs().max()) <= 1.0 + 1e-6


def test_match_net_has_no_effect_before_training() -> None:
    torch.manual_seed(6)
    with_match = build_motion(MotionSizes(correlation_radius=2)).eval()
    without_match = build_motion(MotionSizes(correlation_radius=0)).eval()
    without_match.load_state_dict(
        {name: value for name, value in with_match.state_dict().items() if ".match." not in name}
    )
    frames = [random_slices(4, depths=(3,), size=32, seed=seed) for seed in (1, 2)]
    with torch.no_grad():
        one, other = (
            next(iterate_cycle(model, frames, Stacks((3,)), None)).output for model in (with_match, without_match)
        )
    torch.testing.assert_close(one.motion.mean, other.motion.mean)


def test_rotation_without_segmentation_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"rotation needs sizes\.use_segmentation"):
        build_motion(MotionSizes(rotation=True, use_segmentation=False))


class CentreDeformNet(nn.Module):
    """Replaces DeformNet: its motion is a fraction of the distance between the frames' centres along x."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction
        self.inputs: list[Tensor] = []

    def forward(self, moving: Tensor, fixed: Tensor, latent: Tensor, stacks: Stacks) -> MotionPosterior:
        self.inputs.append(moving)
        distance = self.fraction * (_centre_x(moving) - _centre_x(fixed))
        n, _, height, width = fixed.shape
        mean = torch.zeros(n, 3, height // 2, width // 2)
        mean[:, 2] = distance / 2.0
        return MotionPosterior(mean, torch.zeros(n, 1, height // 2, width // 2), torch.zeros_like(mean)[:, :, None])


def _centre_x(frame: Tensor) -> float:
    columns = frame[:, 0].sum((0, 1))
    return float((columns * torch.arange(len(columns))).sum() / columns.sum())


def _blob(x: float) -> Tensor:
    """Return a bright round blob in two slices."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.exp(-0.5 * ((rows - 16) ** 2 + (columns - x) ** 2) / 9.0)
    return image.expand(2, 4, 32, 32).contiguous()


def _iterate(fraction: float, positions: list[float], **sizes: object) -> tuple[list[float], CentreDeformNet]:
    """Return the position of frame 0's blob in every frame by the estimated motion, and the replaced DeformNet."""
    model = build_motion(MotionSizes(**sizes)).eval()  # type: ignore[arg-type]
    model.deform_net = CentreDeformNet(fraction)
    stacks, frames = Stacks((2,)), [_blob(position) for position in positions]
    with torch.no_grad():
        to_ed = [cycle_step.to_ed for cycle_step in iterate_cycle(model, frames, stacks, None)]
    return [_centre_x(model.warp_frame(frames[0], field, stacks)) for field in to_ed], model.deform_net


def test_each_cascade_iteration_reduces_the_residual() -> None:
    for cascade_iterations in (1, 2, 3):
        (estimated, _), _ = _iterate(0.5, [12.0, 18.0], cascade_iterations=cascade_iterations)
        assert estimated == pytest.approx(18.0 - 6.0 * 0.5**cascade_iterations, abs=0.05)


def test_ed_referenced_motion_is_not_composed() -> None:
    positions = [12.0, 15.0, 18.0, 18.0, 18.0, 12.0]
    from_frame_to_frame, _ = _iterate(0.5, positions, ed_referenced=False)
    ed_referenced, deform_net = _iterate(0.5, positions, ed_referenced=True)
    # Half of the distance at each step.
    assert from_frame_to_frame == pytest.approx([13.5, 15.0, 15.0, 15.0, 12.0, 12.0], abs=0.05)
    assert ed_referenced == pytest.approx([13.5, 15.0, 15.0, 15.0, 12.0, 12.0], abs=0.05)
    assert all(_centre_x(frame) == pytest.approx(12.0, abs=0.01) for frame in deform_net.inputs)
