"""The loss of CardioMorphNet over one cardiac cycle: all terms, and their weighted sum."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cmnet_core.labels import Label
from cmnet_core.models import losses
from cmnet_core.models.cardiomorphnet import CardioMorphNet, CycleStep, StepOutput, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, mean_rotation
from cmnet_core.registration.displacement import warp
from cmnet_core.training.loop import bfloat16_autocast
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.types import Spacing

MIN_VOLUME_RATIO = 0.1
"""Volume ratio det F below which the folding penalty acts in training. It is small because a wall that leaves its slice
is compressed strongly without folding."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCycle:
    """Frames of one subject over the cardiac cycle, ED first.

    Attributes:
        frames: Input of the network for each frame, ``[n c y x]``, with the image in the first channel.
        segmentations: Class probabilities of each frame, ``[n k y x]``: the reference mask where there is one,
            otherwise SegNet's probabilities.
        motion: Displacement of each frame into ED, ``[3 n y x]`` in voxels, where it is known; otherwise None.
        spacing: Voxel spacing in mm.
    """

    frames: list[Tensor]
    segmentations: list[Tensor]
    motion: list[Tensor] | None
    spacing: Spacing

    @property
    def stacks(self) -> Stacks:
        """The slices of a frame as one stack."""
        return Stacks((len(self.frames[0]),))


ExtraTerm = Callable[[TrainingCycle, int, Tensor, Tensor], Tensor]
"""A weighted term that a caller adds to the loss of each step: a function of the cycle, the number of the frame, the
displacement of the step, and the displacement into ED."""


def cycle_loss(
    model: CardioMorphNet,
    cycle: TrainingCycle,
    *,
    settings: MotionTraining,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
) -> dict[str, Tensor]:
    """Compute every loss term, summed over the steps of the cycle, and their weighted sum as ``loss``.

    Args:
        model: The model that is trained.
        cycle: The frames, their segmentations and, where it is known, their motion.
        settings: Weights of the terms, and how segmentations are compared.
        generator: Draws Z and the motion.
        extra: An additional term, for experiments; :func:`cmnet_core.training.motion_stage.train_motion` has none.
    """
    step_function = checkpointed_step(model) if settings.gradient_checkpointing else model
    terms: list[dict[str, Tensor]] = []
    with bfloat16_autocast(cycle.frames[0].device):
        cycle_steps = list(iterate_cycle(model, cycle.frames, cycle.stacks, generator, step_function=step_function))
    for cycle_step in cycle_steps:
        t = cycle_step.t
        (displacement,) = model.upsample_displacements(cycle_step.displacement)
        (to_ed,) = model.upsample_displacements(cycle_step.to_ed)
        target, from_ed = cycle.segmentations[t % len(cycle_steps)], _warp_segmentation(cycle, 0, to_ed)
        whole = _divergence(from_ed, target, settings)
        step = whole
        if not model.ed_referenced:
            step = _divergence(_warp_segmentation(cycle, t - 1, displacement), target, settings)
        step_terms = {
            "shape": step,
            "composed": whole,
            "overlap": losses.dice_loss(from_ed, target),
            "endpoint": _endpoint_error(cycle, t, to_ed),
            "rotation": _rotation_error(cycle, t, cycle_step.output.rotation),
            "closing": _mean_length_in_heart(cycle, t, to_ed) if t == len(cycle_steps) else torch.zeros(()),
        }
        if model.ed_referenced and (settings.weights.inverse or settings.weights.folding):
            step_terms |= _inverse_terms(model, cycle, cycle_step, to_ed, settings)
        extra_term = {"extra": extra(cycle, t, displacement, to_ed)} if extra else {}
        terms.append(step_terms | _model_terms(cycle, cycle_step, model.scale) | extra_term)
    totals = {name: torch.stack([term[name] for term in terms]).sum() for name in terms[0]}
    weights = asdict(settings.weights) | {"extra": 1.0}
    return totals | {"loss": torch.stack([weights[name] * value for name, value in totals.items()]).sum()}


def rotation_loss(model: CardioMorphNet, cycle: TrainingCycle) -> dict[str, Tensor]:
    """Compute the error of RotationNet alone, from every frame into ED, as ``rotation`` and as ``loss``."""
    assert model.rotation_net is not None, "the settings were checked before"
    errors = []
    for t, frame in enumerate(cycle.frames[1:], start=1):
        rotation = model.rotation_net(cycle.frames[0], frame, locate_lv(frame, cycle.stacks), cycle.stacks)
        errors.append(_rotation_error(cycle, t, rotation))
    error = torch.stack(errors).mean()
    return {"rotation": error, "loss": error}


def _rotation_error(cycle: TrainingCycle, t: int, rotation: Float[Tensor, " n"] | None) -> Tensor:
    """Return the mean error of the slices' rotations as an arc of the epicardium in mm; 0 where it is not known."""
    if cycle.motion is None or rotation is None:
        return torch.zeros(())
    t = t % len(cycle.frames)
    lv = locate_lv(cycle.frames[t], cycle.stacks)
    probability = cycle.segmentations[t][:, Label.LV] + cycle.segmentations[t][:, Label.MYO]
    error = (rotation - mean_rotation(cycle.motion[t], probability)).abs() * lv.radius * cycle.spacing.x
    weight = probability.sum((1, 2))
    return (weight * error).sum() / weight.sum().clamp_min(1.0)


def _inverse_terms(
    model: CardioMorphNet, cycle: TrainingCycle, cycle_step: CycleStep, displacement: Tensor, settings: MotionTraining
) -> dict[str, Tensor]:
    """Compare ED with the frame warped by the inverse motion, and penalise folding of the motion and its inverse."""
    (inverse,) = model.displacements(cycle_step.motion, cycle.stacks, backward=True)
    at_ed = _warp_segmentation(cycle, cycle_step.t % len(cycle.segmentations), inverse)
    target = cycle.segmentations[0]
    overlap = settings.weights.overlap * losses.dice_loss(at_ed, target)
    return {
        "inverse": _divergence(at_ed, target, settings) + overlap,
        "folding": losses.folding_penalty(displacement, margin=MIN_VOLUME_RATIO)
        + losses.folding_penalty(inverse, margin=MIN_VOLUME_RATIO),
    }


def checkpointed_step(model: CardioMorphNet) -> Callable[..., StepOutput]:
    """Return the model's forward pass with gradient checkpointing: the backward pass computes it again."""

    def step_function(*inputs: Any) -> StepOutput:
        generator: torch.Generator | None = inputs[-1]
        generator_state = generator.get_state() if generator else None

        def forward(*inputs: Any) -> StepOutput:
            if generator is not None and generator_state is not None:
                # The second pass must draw the same Z as the first.
                generator.set_state(generator_state)
            output: StepOutput = model(*inputs)
            return output

        output: StepOutput = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output

    return step_function


def _divergence(warped: Tensor, target: Tensor, settings: MotionTraining) -> Tensor:
    return losses.kl_segmentation_pyramid(
        warped, target, levels=settings.pyramid_levels, label_smoothing=settings.label_smoothing
    )


def _warp_segmentation(
    cycle: TrainingCycle, frame: int, displacement: Float[Tensor, "1 3 z y x"]
) -> Float[Tensor, "z k y x"]:
    """Warp the segmentation of one frame."""
    (volume,) = cycle.stacks.volumes(cycle.segmentations[frame])
    return cycle.stacks.slices([warp(volume, displacement)])


def _endpoint_error(cycle: TrainingCycle, t: int, to_ed: Tensor) -> Tensor:
    """Return the mean distance in the heart from the known motion into ED, in mm; 0 where it is not known."""
    if cycle.motion is None:
        return torch.zeros(())
    return _mean_length_in_heart(cycle, t, to_ed - cycle.motion[t % len(cycle.motion)][None])


def _mean_length_in_heart(cycle: TrainingCycle, t: int, displacement: Float[Tensor, "1 3 z y x"]) -> Tensor:
    """Return the mean length of a displacement in the heart of frame t, in mm."""
    size_mm = torch.tensor(cycle.spacing.zyx).view(3, 1, 1, 1)
    # The constant keeps the gradient of the root finite at 0.
    length = ((displacement[0] * size_mm).square().sum(0) + 1e-4).sqrt()
    heart = 1.0 - cycle.segmentations[t % len(cycle.segmentations)][:, Label.BACKGROUND]
    return (length * heart).sum() / heart.sum().clamp_min(1.0)


def _model_terms(cycle: TrainingCycle, cycle_step: CycleStep, scale: int) -> dict[str, Tensor]:
    output = cycle_step.output
    assert output.reconstruction is not None, "the loss is that of a model in training"
    (mean,) = cycle.stacks.volumes(output.motion.mean)
    spacing = Spacing(cycle.spacing.z, scale * cycle.spacing.y, scale * cycle.spacing.x)
    image = cycle.frames[cycle_step.t % len(cycle.frames)][:, :1]
    return {
        "kl_motion": losses.kl_motion(output.motion),
        "kl_latent": losses.kl_latent(output.latent, output.latent_prior),
        "reconstruction": (image - output.reconstruction).square().mean(),
        "smoothness": losses.bending_energy(mean, spacing),
        "shear": losses.through_plane_shear(mean, spacing),
    }
