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
    segmentations = [torch.nn.functional.one_hot(case.mask(t).long(), 4).movedim(-1, 1).float() for t in range(3)]
    cycle = TrainingCycle(
        network_inputs(case.voxels, torch.stack(segmentations), SMALL_MOTION), segmentations, None, case.spacing
    )
    results = []
    for gradient_checkpointing in (False, True):
        model.zero_grad()
        settings = replace(motion_settings(1), gradient_checkpointing=gradient_checkpointing)
        terms = cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(4))
        terms["loss"].backward()
        results.append((terms["loss"].item(), [weight.grad.clone() for weight in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(kept, again) for kept, again in zip(results[0][1], results[1][1], strict=True))


def zero_motion_model(sizes: MotionSizes = SMALL_MOTION) -> CardioMorphNet:
    """Return a motion network with zero motion and almost zero variance."""
    model = build_motion(sizes)
    for head in (model.deform_net.mean, model.deform_net.factor):
        torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(model.deform_net.log_variance.bias, -1e4)
    return model.requires_grad_(requires_grad=False)


def soft_cycle(frames: list[Tensor]) -> TrainingCycle:
    """Return a ventricle with smooth edges, on which the small noise of the posterior's samples has little effect."""
    one_hot_masks = [one_hot(ring(cavity=cavity, wall=5.0, size=64)) for cavity in (14.0, 11.0, 9.0)]
    segmentations = [
        torch.nn.functional.avg_pool2d(segmentation, 7, stride=1, padding=3) + 1e-3 for segmentation in one_hot_masks
    ]
    return TrainingCycle(frames, segmentations, None, Spacing(8.0, 1.5, 1.5))


def loss_terms(
    model: CardioMorphNet, cycle: TrainingCycle, *, extra: ExtraTerm | None = None, weights: LossWeights | None = None
) -> dict[str, Tensor]:
    settings = replace(motion_settings(1, weights=weights), pyramid_levels=1, label_smoothing=0.0)
    return cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(0), extra=extra)


def test_shape_term_includes_the_step_back_to_ed() -> None:
    """Without motion the shape term is the divergence of successive frames, the step back to ED included."""
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    terms = loss_terms(zero_motion_model(), cycle)
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = sum(float(losses.kl_segmentation(cycle.segmentations[a], cycle.segmentations[b])) for a, b in pairs)
    assert float(terms["shape"]) == pytest.approx(expected, rel=0.02)


def test_only_an_extra_term_compares_the_images_of_two_frames() -> None:
    model = zero_motion_model()
    equal, different = (
        soft_cycle([torch.full((1, 4, 64, 64), brightness[t]) for t in range(3)])
        for brightness in ((0.5, 0.5, 0.5), (0.1, 0.9, 0.4))
    )
    before, after = loss_terms(model, equal), loss_terms(model, different)
    for name in ("shape", "composed", "endpoint", "closing", "smoothness"):
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6), name
    steps: list[int] = []

    def image_difference(cycle: TrainingCycle, t: int, displacement: Tensor, composed: Tensor) -> Tensor:
        steps.append(t)
        assert displacement.shape == composed.shape == (1, 3, 1, 64, 64)
        return (cycle.frames[t % 3] - cycle.frames[t - 1]).square().mean()

    more = loss_terms(model, different, extra=image_difference)
    assert steps == [1, 2, 3]
    assert float(more["extra"]) == pytest.approx(0.64 + 0.25 + 0.09)
    assert float(more["loss"] - after["loss"]) == pytest.approx(0.98, rel=1e-4)


def test_inverse_term_compares_each_frame_warped_to_ed_with_ed() -> None:
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    model, weights = zero_motion_model(replace(SMALL_MOTION, ed_referenced=True)), LossWeights(inverse=1.0, folding=1.0)
    terms = loss_terms(model, cycle, weights=weights)
    at_ed = [cycle.segmentations[0]] * 3
    pairs = list(zip([cycle.segmentations[1], cycle.segmentations[2], cycle.segmentations[0]], at_ed, strict=True))
    apart = sum(float(losses.kl_segmentation(*pair)) for pair in pairs)
    missed = sum(float(losses.dice_loss(*pair)) for pair in pairs)
    assert float(terms["inverse"]) == pytest.approx(apart + LossWeights().overlap * missed, rel=0.02)
    assert float(terms["folding"]) == 0.0
    assert "inverse" not in loss_terms(model, cycle, weights=LossWeights(folding=0.0))
    assert "inverse" not in loss_terms(zero_motion_model(), cycle, weights=weights)


def test_rotation_error_is_an_arc_of_the_epicardium() -> None:
    """The network estimates 0 for a heart with a rotation of 0.2 radians, at a radius of 19 voxels of 1.5 mm."""
    model = build_motion(replace(SMALL_MOTION, rotation=True))
    assert model.rotation_net is not None
    for weight in (model.rotation_net.shifts.weight, model.rotation_net.sharpness):
        torch.nn.init.zeros_(weight)
    segmentation = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    frame = torch.cat([torch.zeros(1, 1, 64, 64), segmentation[:, 1:]], dim=1)
    lv = locate_lv(frame, Stacks((1,)))
    (rotated,) = Stacks((1,)).volumes(rotation_velocity(torch.tensor([0.2]), lv, (64, 64), scale=1))
    motion = [torch.zeros(3, 1, 64, 64), exponential(rotated, steps=7)[0]]
    warped = TrainingCycle([frame, frame], [segmentation, segmentation], motion, Spacing(8.0, 1.5, 1.5))
    assert rotation_loss(model, warped)["loss"].item() == pytest.approx(0.2 * 19 * 1.5, rel=0.03)


def test_cycle_consistency_error_is_penalised_in_millimetres() -> None:
    """Every step has a motion of 0.3 voxels along y at half resolution: 3 steps x 0.3 x 2 x 1.5 mm."""
    model = zero_motion_model()
    bias = math.atanh(0.3 / MAX_MOTION_VOXELS) * MAX_MOTION_VOXELS
    model.deform_net.mean.bias.copy_(torch.tensor([0.0, bias, 0.0]))
    terms = loss_terms(model, soft_cycle([torch.zeros(1, 4, 64, 64)] * 3))
    assert float(terms["closing"]) == pytest.approx(2.7, rel=0.03)


def test_divergence_after_an_identity_warp_is_zero() -> None:
    segmentation = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    (volume,) = Stacks((1,)).volumes(segmentation)
    warped = Stacks((1,)).slices([warp(volume, torch.zeros(1, 3, 1, 64, 64))])
    assert float(losses.kl_segmentation(warped, segmentation)) < 1e-5
