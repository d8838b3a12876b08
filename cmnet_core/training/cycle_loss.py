"""What the motion of one cycle costs: all terms that CardioMorphNet learns from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cmnet_core.labels import Label
from cmnet_core.models import losses
from cmnet_core.models.cardiomorphnet import CardioMorphNet, CycleStep, Step, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, mean_rotation
from cmnet_core.registration.displacement import warp
from cmnet_core.training.loop import fast_convolutions
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.types import Spacing

SMALLEST_CHANGE = 0.1
"""Of a voxel's volume, in training: a wall that leaves its slice shrinks to little without folding."""


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """Frames of one subject round the cycle, ED first.

    Attributes:
        frames: What the network sees of each, ``[n c y x]``, the image in its first channel.
        shapes: Class probabilities of each frame, ``[n k y x]``: the reference where there is one, else SegNet's.
        motion: Where it is known, the displacement of each frame into ED, ``[3 n y x]`` in voxels.
        spacing: Voxel spacing in mm.
    """

    frames: list[Tensor]
    shapes: list[Tensor]
    motion: list[Tensor] | None
    spacing: Spacing

    @property
    def stacks(self) -> Stacks:
        """One stack."""
        return Stacks((len(self.frames[0]),))


ExtraTerm = Callable[[Cycle, int, Tensor, Tensor], Tensor]
"""A term that a caller adds to each step of a cycle, its weight included: of the cycle, the number of the frame, the
step's displacement, and the one composed from the first frame on."""


def cycle_loss(
    model: CardioMorphNet,
    cycle: Cycle,
    *,
    settings: MotionTraining,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
) -> dict[str, Tensor]:
    """Every term of the loss, summed over the steps of the closed cycle, and their weighted sum as ``loss``.

    Args:
        model: What learns.
        cycle: What it learns from.
        settings: Weights, and how shapes are compared.
        generator: Draws Z and the motion.
        extra: A term to try beside them; :func:`train_motion` has none.
    """
    step_function = recomputed(model) if settings.gradient_checkpointing else model
    terms: list[dict[str, Tensor]] = []
    with fast_convolutions(cycle.frames[0].device):
        strides = list(iterate_cycle(model, cycle.frames, cycle.stacks, generator, step_function=step_function))
    for stride in strides:
        t = stride.t
        (displacement,), (composed,) = (model.enlarged(field) for field in (stride.displacement, stride.to_start))
        target, from_ed = cycle.shapes[t % len(strides)], _carried(cycle, 0, composed)
        whole = _mismatch(from_ed, target, settings)
        step = whole if model.ed_referenced else _mismatch(_carried(cycle, t - 1, displacement), target, settings)
        shape_terms = {
            "shape": step,
            "composed": whole,
            "overlap": losses.missed_overlap(from_ed, target),
            "endpoint": _endpoint_error(cycle, t, composed),
            "rotation": _rotation_error(cycle, t, stride.step.rotation),
            "closing": _distance_in_heart(cycle, t, composed) if t == len(strides) else torch.zeros(()),
        }
        if model.ed_referenced and (settings.weights.inverse or settings.weights.folding):
            shape_terms |= _inverse_terms(model, cycle, stride, composed, settings)
        tried = {"extra": extra(cycle, t, displacement, composed)} if extra else {}
        terms.append(shape_terms | _model_terms(cycle, stride, model.scale) | tried)
    totals = {name: torch.stack([term[name] for term in terms]).sum() for name in terms[0]}
    weights = asdict(settings.weights) | {"extra": 1.0}
    return totals | {"loss": torch.stack([weights[name] * value for name, value in totals.items()]).sum()}


def rotation_loss(model: CardioMorphNet, cycle: Cycle) -> dict[str, Tensor]:
    """The error of every slice's rotation alone, from ED to each frame, as ``rotation`` and ``loss``."""
    assert model.rotation_net is not None, "the settings were looked at before"
    errors = []
    for t, frame in enumerate(cycle.frames[1:], start=1):
        found = model.rotation_net(cycle.frames[0], frame, locate_lv(frame, cycle.stacks), cycle.stacks)
        errors.append(_rotation_error(cycle, t, found))
    error = torch.stack(errors).mean()
    return {"rotation": error, "loss": error}


def _rotation_error(cycle: Cycle, t: int, found: Float[Tensor, " n"] | None) -> Tensor:
    """Mean error of the slices' rotations, each as an arc of the epicardium in mm; 0 where it is not known."""
    if cycle.motion is None or found is None:
        return torch.zeros(())
    t = t % len(cycle.frames)
    here = locate_lv(cycle.frames[t], cycle.stacks)
    heart = cycle.shapes[t][:, Label.LV] + cycle.shapes[t][:, Label.MYO]
    error = (found - mean_rotation(cycle.motion[t], heart)).abs() * here.radius * cycle.spacing.x
    weight = heart.sum((1, 2))
    return (weight * error).sum() / weight.sum().clamp_min(1.0)


def _inverse_terms(
    model: CardioMorphNet, cycle: Cycle, stride: CycleStep, displacement: Tensor, settings: MotionTraining
) -> dict[str, Tensor]:
    """What the inverse of an anchored step makes of its frame, beside ED; and where either of the two folds."""
    (inverse,) = model.displacements(stride.motion, cycle.stacks, backward=True)
    at_ed, target = _carried(cycle, stride.t % len(cycle.shapes), inverse), cycle.shapes[0]
    overlap = settings.weights.overlap * losses.missed_overlap(at_ed, target)
    return {
        "inverse": _mismatch(at_ed, target, settings) + overlap,
        "folding": losses.folding(displacement, margin=SMALLEST_CHANGE)
        + losses.folding(inverse, margin=SMALLEST_CHANGE),
    }


def recomputed(model: CardioMorphNet) -> Callable[..., Step]:
    """The model's step, of which only what goes in and comes out is kept; the way back works it out again."""

    def step_function(*seen: Any) -> Step:
        generator: torch.Generator | None = seen[-1]
        drawn = generator.get_state() if generator else None

        def again(*seen: Any) -> Step:
            if generator is not None and drawn is not None:
                # The second pass must draw the Z of the first.
                generator.set_state(drawn)
            step: Step = model(*seen)
            return step

        step: Step = checkpoint(again, *seen, use_reentrant=False, preserve_rng_state=False)
        return step

    return step_function


def _mismatch(carried: Tensor, target: Tensor, settings: MotionTraining) -> Tensor:
    return losses.shape_pyramid(
        carried, target, levels=settings.pyramid_levels, label_smoothing=settings.label_smoothing
    )


def _carried(cycle: Cycle, origin: int, displacement: Float[Tensor, "1 3 z y x"]) -> Float[Tensor, "z k y x"]:
    """The shape of one frame, warped."""
    (volume,) = cycle.stacks.volumes(cycle.shapes[origin])
    return cycle.stacks.slices([warp(volume, displacement)])


def _endpoint_error(cycle: Cycle, t: int, composed: Tensor) -> Tensor:
    """Mean distance in mm, inside the heart, from the known motion into ED; 0 where it is not known."""
    if cycle.motion is None:
        return torch.zeros(())
    return _distance_in_heart(cycle, t, composed - cycle.motion[t % len(cycle.motion)][None])


def _distance_in_heart(cycle: Cycle, t: int, displacement: Float[Tensor, "1 3 z y x"]) -> Tensor:
    """Mean length in mm inside the heart of frame t; the smallest slope keeps the root's gradient finite at 0."""
    size_mm = torch.tensor(cycle.spacing.zyx).view(3, 1, 1, 1)
    length = ((displacement[0] * size_mm).square().sum(0) + 1e-4).sqrt()
    heart = 1.0 - cycle.shapes[t % len(cycle.shapes)][:, Label.BACKGROUND]
    return (length * heart).sum() / heart.sum().clamp_min(1.0)


def _model_terms(cycle: Cycle, stride: CycleStep, scale: int) -> dict[str, Tensor]:
    step = stride.step
    assert step.reconstruction is not None, "the loss is that of a model in training"
    (mean,) = cycle.stacks.volumes(step.motion.mean)
    spacing = Spacing(cycle.spacing.z, scale * cycle.spacing.y, scale * cycle.spacing.x)
    return {
        "kl_motion": losses.kl_motion(step.motion),
        "kl_latent": losses.kl_latent(step.latent, step.latent_prior),
        "reconstruction": (cycle.frames[stride.t % len(cycle.frames)][:, :1] - step.reconstruction).square().mean(),
        "smoothness": losses.bending_energy(mean, spacing),
        "shear": losses.through_plane_shear(mean, spacing),
    }
