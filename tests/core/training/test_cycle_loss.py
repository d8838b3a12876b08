"""The loss over a cycle: each term has its expected value."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from cmnet_core.models import losses
from cmnet_core.models.build import build_motion
from cmnet_core.models.cardiomorphnet import MAX_MOTION_LOG_VARIANCE, CardioMorphNet
from cmnet_core.models.layers import Stacks
from cmnet_core.registration.displacement import warp
from cmnet_core.training.cycle_loss import TrainingCycle, cycle_loss
from cmnet_core.types import Spacing
from tests.training_cases import SMALL_MOTION, beating_case, motion_settings, one_hot, ring

SPACING = Spacing(8.0, 1.5, 1.5)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0))
    model = build_motion(SMALL_MOTION)
    segmentations = [torch.nn.functional.one_hot(case.mask(t).long(), 4).movedim(-1, 1).float() for t in range(3)]
    cycle = TrainingCycle(list(case.voxels[:, :, None]), segmentations, case.spacing)
    results = []
    for gradient_checkpointing in (False, True):
        model.zero_grad()
        settings = replace(motion_settings(1), gradient_checkpointing=gradient_checkpointing)
        terms = cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(4))
        terms["loss"].backward()
        results.append((terms["loss"].item(), [weight.grad.clone() for weight in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(kept, again) for kept, again in zip(results[0][1], results[1][1], strict=True))


def zero_motion_model() -> CardioMorphNet:
    """Return a motion network with zero motion and almost zero variance."""
    model = build_motion(SMALL_MOTION)
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
    return TrainingCycle(frames, segmentations, SPACING)


def loss_terms(model: CardioMorphNet, cycle: TrainingCycle) -> dict[str, Tensor]:
    return cycle_loss(model, cycle, settings=motion_settings(1), generator=torch.Generator().manual_seed(0))


def test_shape_term_includes_the_step_back_to_ed() -> None:
    """Without motion the shape term is the divergence of successive frames, the step back to ED included."""
    cycle = soft_cycle([torch.zeros(1, 1, 64, 64)] * 3)
    terms = loss_terms(zero_motion_model(), cycle)
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = sum(float(losses.kl_segmentation(cycle.segmentations[a], cycle.segmentations[b])) for a, b in pairs)
    assert float(terms["shape"]) == pytest.approx(expected, rel=0.02)


def test_loss_is_the_weighted_sum_of_the_terms_of_the_article() -> None:
    terms = loss_terms(build_motion(SMALL_MOTION), soft_cycle([torch.rand(1, 1, 64, 64)] * 3))
    weights = asdict(motion_settings(1).weights)
    assert set(terms) == {"loss", *weights}
    expected = sum(weight * float(terms[name].detach()) for name, weight in weights.items())
    assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-5)


def test_no_term_compares_the_images_of_two_frames() -> None:
    model = zero_motion_model()
    equal, different = (
        soft_cycle([torch.full((1, 1, 64, 64), brightness[t]) for t in range(3)])
        for brightness in ((0.5, 0.5, 0.5), (0.1, 0.9, 0.4))
    )
    before, after = loss_terms(model, equal), loss_terms(model, different)
    for name in ("shape", "kl_motion", "smoothness"):
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6), name


def test_bending_energy_is_that_of_the_sampled_motion() -> None:
    """With zero mean the bending energy comes from the sampled noise alone, and grows with the variance."""
    model, energies = zero_motion_model(), []
    torch.nn.init.zeros_(model.deform_net.log_variance.weight)
    for log_variance in (-3.0, -1.0):
        torch.nn.init.constant_(model.deform_net.log_variance.bias, log_variance)
        terms = loss_terms(model, soft_cycle([torch.zeros(1, 1, 64, 64)] * 3))
        energies.append(float(terms["smoothness"]))
    assert energies[0] > 0.01
    bounded = [MAX_MOTION_LOG_VARIANCE * math.tanh(value / MAX_MOTION_LOG_VARIANCE) for value in (-3.0, -1.0)]
    assert energies[1] / energies[0] == pytest.approx(math.exp(bounded[1] - bounded[0]), rel=0.01)


def test_lengths_of_the_bending_energy_are_mm_or_voxels() -> None:
    model, energies = zero_motion_model(), {}
    torch.nn.init.constant_(model.deform_net.log_variance.bias, -1.0)
    cycle = soft_cycle([torch.zeros(1, 1, 64, 64)] * 3)
    unit = 0.5**SMALL_MOTION.output_level
    for spacing in (SPACING, Spacing(1.0, unit, unit)):
        for in_mm in (True, False):
            settings = replace(motion_settings(1), bending_in_mm=in_mm)
            terms = cycle_loss(
                model,
                replace(cycle, spacing=spacing),
                settings=settings,
                generator=torch.Generator().manual_seed(0),
            )
            energies[spacing.z, in_mm] = float(terms["smoothness"])
    assert energies[1.0, True] == energies[1.0, False] == energies[SPACING.z, False]
    assert energies[SPACING.z, True] != energies[SPACING.z, False]


def test_divergence_after_an_identity_warp_is_zero() -> None:
    segmentation = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    (volume,) = Stacks((1,)).volumes(segmentation)
    warped = Stacks((1,)).slices([warp(volume, torch.zeros(1, 3, 1, 64, 64))])
    assert float(losses.kl_segmentation(warped, segmentation)) < 1e-5
