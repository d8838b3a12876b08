"""The loss of CardioMorphNet over one cardiac cycle: the negative evidence lower bound of the article.

    L = Σ_t λ_s · L_shape + λ1 · KL_D + λ2 · KL_Z + λ3 · L_rec + ρ · L_smooth

L_shape is the divergence between the segmentation of frame t−1, warped by a sample of D_t, and that of frame t: the
reference mask where there is one (L_sup), otherwise SegNet's probabilities (L_semi). KL_D and KL_Z are the divergences
of the posteriors of the motion and of Z from their priors, L_rec is the squared error of the reconstructed image, and
L_smooth the bending energy of the sampled D_t. No term compares the images of two frames.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cmnet_core.models import losses
from cmnet_core.models.cardiomorphnet import CardioMorphNet, StepOutput, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.registration.displacement import warp
from cmnet_core.training.loop import bfloat16_autocast
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.types import Spacing


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCycle:
    """Frames of one subject over the cardiac cycle, ED first.

    Attributes:
        frames: Image of each frame, ``[n 1 y x]``.
        segmentations: Class probabilities of each frame, ``[n k y x]``: the reference mask where there is one,
            otherwise SegNet's probabilities.
        spacing: Voxel spacing in mm.
    """

    frames: list[Tensor]
    segmentations: list[Tensor]
    spacing: Spacing

    @property
    def stacks(self) -> Stacks:
        """The slices of a frame as one stack."""
        return Stacks((len(self.frames[0]),))


def cycle_loss(
    model: CardioMorphNet, cycle: TrainingCycle, *, settings: MotionTraining, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Compute every loss term, summed over the steps of the cycle, and their weighted sum as ``loss``.

    Args:
        model: The model that is trained.
        cycle: The frames and their segmentations.
        settings: Weights of the terms.
        generator: Draws Z and the motion; None takes their means.
    """
    step_function = checkpointed_step(model) if settings.gradient_checkpointing else model
    with bfloat16_autocast(cycle.frames[0].device):
        steps = list(iterate_cycle(model, cycle.frames, cycle.stacks, generator, step_function=step_function))
    spacing = _bending_spacing(model, cycle.spacing, in_mm=settings.bending_in_mm)
    terms = [_step_terms(model, cycle, t, step, spacing) for t, step in enumerate(steps, start=1)]
    totals = {name: torch.stack([term[name] for term in terms]).sum() for name in terms[0]}
    weights = asdict(settings.weights)
    return totals | {"loss": torch.stack([weights[name] * value for name, value in totals.items()]).sum()}


def _bending_spacing(model: CardioMorphNet, spacing: Spacing, *, in_mm: bool) -> Spacing:
    """Return the distances by which the bending energy differentiates, on the grid of the motion."""
    scale = 2**model.sizes.output_level
    return Spacing(spacing.z, scale * spacing.y, scale * spacing.x) if in_mm else Spacing(1.0, 1.0, 1.0)


def _step_terms(
    model: CardioMorphNet, cycle: TrainingCycle, t: int, step: StepOutput, bending: Spacing
) -> dict[str, Tensor]:
    """Return the terms of the step from frame t−1 to frame t; the last step leads to ED."""
    assert step.reconstruction is not None, "the loss is that of a model in training"
    now, stacks = t % len(cycle.frames), cycle.stacks
    (displacement,) = model.displacements(step.sample, stacks)
    (before,) = stacks.volumes(cycle.segmentations[t - 1])
    warped = stacks.slices([warp(before, displacement)])
    (sample,) = stacks.volumes(step.sample)
    return {
        "shape": losses.kl_segmentation(warped, cycle.segmentations[now]),
        "kl_motion": losses.kl_motion(step.motion),
        "kl_latent": losses.kl_latent(step.latent, step.latent_prior),
        "reconstruction": (cycle.frames[now] - step.reconstruction).square().mean(),
        "smoothness": losses.bending_energy(sample, bending),
    }


def checkpointed_step(model: CardioMorphNet) -> Callable[..., StepOutput]:
    """Return the model's forward pass with gradient checkpointing: the backward pass computes it again."""

    def step_function(*inputs: Any) -> StepOutput:
        generator: torch.Generator | None = inputs[-1]
        generator_state = generator.get_state() if generator else None

        def forward(*inputs: Any) -> StepOutput:
            if generator is not None and generator_state is not None:
                # The second pass must draw the same Z and the same motion as the first.
                generator.set_state(generator_state)
            output: StepOutput = model(*inputs)
            return output

        output: StepOutput = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output

    return step_function
