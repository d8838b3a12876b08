"""The loss over a cycle: each term has its expected value."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.models import losses
from cmnet_core.models.build import MotionSizes, build_motion
from cmnet_core.models.cardiomorphnet import MAX_MOTION_VOXELS, CardioMorphNet
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, rotation_velocity
from cmnet_core.registration.displacement import exponential, warp
from cmnet_core.training.cycle_loss import ExtraTerm, TrainingCycle, cycle_loss, rotation_loss
from cmnet_core.training.motion_settings import LossWeights
from cmnet_core.training.motion_stage import network_inputs
from cmnet_core.types import Spacing
from tests.training_cases import SMALL_MOTION, beating_case, motion_settings, one_hot, ring


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0))
    model = build_motion(SMALL_MOTION)
    shapes = [torch.nn.functional.one_hot(case.mask(t).long(), 4).movedim(-1, 1).float() for t in range(3)]
    cycle = TrainingCycle(network_inputs(case.voxels, torch.stack(shapes), SMALL_MOTION), shapes, None, case.spacing)
    found = []
    for gradient_checkpointing in (False, True):
        model.zero_grad()
        settings = replace(motion_settings(1), gradient_checkpointing=gradient_checkpointing)
        parts = cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(4))
        parts["loss"].backward()
        found.append((parts["loss"].item(), [weight.grad.clone() for weight in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(kept, again) for kept, again in zip(found[0][1], found[1][1], strict=True))


def still_model(sizes: MotionSizes = SMALL_MOTION) -> CardioMorphNet:
    """A motion network that moves nothing and is sure of it."""
    model = build_motion(sizes)
    for head in (model.deform_net.mean, model.deform_net.factor):
        torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(model.deform_net.log_variance.bias, -1e4)
    return model.requires_grad_(requires_grad=False)


def soft_cycle(frames: list[Tensor]) -> TrainingCycle:
    """A ventricle with soft edges, so that the little noise of the posterior's samples hardly counts."""
    hard = [one_hot(ring(cavity=cavity, wall=5.0, size=64)) for cavity in (14.0, 11.0, 9.0)]
    shapes = [torch.nn.functional.avg_pool2d(shape, 7, stride=1, padding=3) + 1e-3 for shape in hard]
    return TrainingCycle(frames, shapes, None, Spacing(8.0, 1.5, 1.5))


def terms_of(
    model: CardioMorphNet, cycle: TrainingCycle, *, extra: ExtraTerm | None = None, weights: LossWeights | None = None
) -> dict[str, Tensor]:
    settings = replace(motion_settings(1, weights=weights), pyramid_levels=1, label_smoothing=0.0)
    return cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(0), extra=extra)


def test_shape_term_includes_the_step_back_to_ed() -> None:
    """With a model that stands still the shape term is the mismatch of neighbouring frames, ED among them."""
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    parts = terms_of(still_model(), cycle)
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = sum(float(losses.kl_segmentation(cycle.segmentations[a], cycle.segmentations[b])) for a, b in pairs)
    assert float(parts["shape"]) == pytest.approx(expected, rel=0.02)


def test_only_an_extra_term_compares_the_images_of_two_frames() -> None:
    model = still_model()
    alike, unlike = (
        soft_cycle([torch.full((1, 4, 64, 64), brightness[t]) for t in range(3)])
        for brightness in ((0.5, 0.5, 0.5), (0.1, 0.9, 0.4))
    )
    before, after = terms_of(model, alike), terms_of(model, unlike)
    for name in ("shape", "composed", "endpoint", "closing", "smoothness"):
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6), name
    seen: list[int] = []

    def brought(cycle: TrainingCycle, t: int, displacement: Tensor, composed: Tensor) -> Tensor:
        seen.append(t)
        assert displacement.shape == composed.shape == (1, 3, 1, 64, 64)
        return (cycle.frames[t % 3] - cycle.frames[t - 1]).square().mean()

    more = terms_of(model, unlike, extra=brought)
    assert seen == [1, 2, 3]
    assert float(more["extra"]) == pytest.approx(0.64 + 0.25 + 0.09)
    assert float(more["loss"] - after["loss"]) == pytest.approx(0.98, rel=1e-4)


def test_inverse_term_compares_each_frame_warped_to_ed_with_ed() -> None:
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    model, asked = still_model(replace(SMALL_MOTION, ed_referenced=True)), LossWeights(inverse=1.0, folding=1.0)
    parts = terms_of(model, cycle, weights=asked)
    at_ed = [cycle.segmentations[0]] * 3
    pairs = list(zip([cycle.segmentations[1], cycle.segmentations[2], cycle.segmentations[0]], at_ed, strict=True))
    apart = sum(float(losses.kl_segmentation(*pair)) for pair in pairs)
    missed = sum(float(losses.dice_loss(*pair)) for pair in pairs)
    assert float(parts["inverse"]) == pytest.approx(apart + LossWeights().overlap * missed, rel=0.02)
    assert float(parts["folding"]) == 0.0
    assert "inverse" not in terms_of(model, cycle, weights=LossWeights(folding=0.0))
    assert "inverse" not in terms_of(still_model(), cycle, weights=asked)


def test_rotation_error_is_an_arc_of_the_epicardium() -> None:
    """A network that says 0 where the heart has turned by a fifth of a radian, at 19 voxels of 1.5 mm."""
    model = build_motion(replace(SMALL_MOTION, rotation=True))
    assert model.rotation_net is not None
    for weight in (model.rotation_net.shifts.weight, model.rotation_net.sharpness):
        torch.nn.init.zeros_(weight)
    shape = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    frame = torch.cat([torch.zeros(1, 1, 64, 64), shape[:, 1:]], dim=1)
    place = locate_lv(frame, Stacks((1,)))
    (turned,) = Stacks((1,)).volumes(rotation_velocity(torch.tensor([0.2]), place, (64, 64), scale=1))
    motion = [torch.zeros(3, 1, 64, 64), exponential(turned, steps=7)[0]]
    moved = TrainingCycle([frame, frame], [shape, shape], motion, Spacing(8.0, 1.5, 1.5))
    assert rotation_loss(model, moved)["loss"].item() == pytest.approx(0.2 * 19 * 1.5, rel=0.03)


def test_cycle_consistency_error_is_penalised_in_millimetres() -> None:
    """Every step leads 0.3 voxels of the half-resolution grid down the rows: 3 steps x 0.3 x 2 x 1.5 mm."""
    model = still_model()
    bias = math.atanh(0.3 / MAX_MOTION_VOXELS) * MAX_MOTION_VOXELS
    model.deform_net.mean.bias.copy_(torch.tensor([0.0, bias, 0.0]))
    parts = terms_of(model, soft_cycle([torch.zeros(1, 4, 64, 64)] * 3))
    assert float(parts["closing"]) == pytest.approx(2.7, rel=0.03)


def test_divergence_after_an_identity_warp_is_zero() -> None:
    shape = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    (volume,) = Stacks((1,)).volumes(shape)
    moved = Stacks((1,)).slices([warp(volume, torch.zeros(1, 3, 1, 64, 64))])
    assert float(losses.kl_segmentation(moved, shape)) < 1e-5
