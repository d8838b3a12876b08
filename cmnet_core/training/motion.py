"""Stage 2: CardioMorphNet learns the motion that makes shapes fit, with SegNet frozen."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmnet_core import augmentation, losses
from cmnet_core.augmentation import AugmentationRanges, View
from cmnet_core.models.build import OURS, MotionSizes, build_motion, frame_channels
from cmnet_core.models.cardiomorphnet import CardioMorphNet, Step, Stride, closed_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.motion import from_voxels, jacobian_determinant, warp
from cmnet_core.training.cases import CLASSES, TrainingCase, dice_figures, drop_slices, figure_names, surface_figures
from cmnet_core.training.loop import Draw, Schedule, Stage, Watch, fast_convolutions, mean_of_each, run
from cmnet_core.types import Label, Spacing

FIGURES = (*figure_names("ed2es"), "folded_voxels")
"""What can be watched while this stage trains."""


class Learns(StrEnum):
    """What the second stage changes."""

    ALL = "all"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        shape: λ_s, of one step's warped mask against the mask of its frame.
        composed: Of the ED mask carried by the composed motion against the mask of its frame; 0 in the article.
        overlap: Of 1 − Dice between the same two; 0 in the article. Small ventricles count as much as large ones.
        kl_motion: λ1.
        kl_latent: λ2.
        reconstruction: λ3.
        smoothness: ρ, of the bending energy of one step's mean. Of a draw, as in the article, it would press the doubt
            down everywhere, where nothing is known too.
        endpoint: Of the distance, in mm, between composed motion and known motion, where it is known.
        closing: Of the distance, in mm, by which the motion composed once round the cycle fails to close.
    """

    shape: float = 1.0
    composed: float = 1.0
    overlap: float = 0.5
    kl_motion: float = 1e-4
    kl_latent: float = 2e-4
    reconstruction: float = 0.01
    smoothness: float = 0.02
    endpoint: float = 0.03
    closing: float = 0.02


@dataclass(frozen=True, slots=True)
class MotionTraining:
    """Settings of the second stage.

    Attributes:
        schedule: How long and how fast to learn.
        learns: ``all``, or ``doubt``: σ and V of the posterior alone, while its mean stays as it is. They come to rest
            slowly, long after the motion, and on their own can learn fast.
        frames: Frames drawn from a cine: ED, ES and equally many on each arc between them.
        pauses: Share of draws in which one frame is shown twice.
        pyramid_levels: Planes on which shapes are compared; 1 in the article.
        softening: Share of every class probability that is spread evenly before shapes are compared; 0 in the article.
        cycles_per_step: Cycles that share one step of the optimiser.
        recompute: Work each step of the cycle out again on the way back instead of keeping all that it saw: for GPUs,
            whose memory is small, at the price of a second forward pass.
        window: Size (y, x) of a view.
        weights: Of the terms of the loss.
        sizes: Sizes of the network.
        augmentation: How far views may vary.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(40, 6e-4, 1e-5, seed=1))
    learns: Learns = Learns.ALL
    frames: int = 6
    pauses: float = 0.25
    pyramid_levels: int = 4
    softening: float = 0.04
    cycles_per_step: int = 1
    recompute: bool = False
    window: tuple[int, int] = (128, 128)
    weights: LossWeights = field(default_factory=LossWeights)
    sizes: MotionSizes = field(default_factory=lambda: OURS)
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))


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


def train_motion(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    segnet: SegNet,
    settings: MotionTraining,
    watch: Watch,
    start: CardioMorphNet | None,
) -> CardioMorphNet:
    """Train on whole cycles of the cases, from ``start`` or from random weights."""
    torch.manual_seed(settings.schedule.seed)
    model = start or build_motion(settings.sizes)
    _let_learn(model, settings.learns)
    segnet.to(watch.device)

    def loss(batch: list[Draw]) -> dict[str, Tensor]:
        cycles = [_draw_loss(model, segnet, cases[draw.number], settings, draw.generator) for draw in batch]
        return {name: torch.stack([terms[name] for terms in cycles]).mean() for name in cycles[0]}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, CardioMorphNet)
        return validate_motion(average, validation, segnet=segnet, settings=settings)

    stage = Stage(len(cases), settings.cycles_per_step, loss, validate)
    run(model, stage, schedule=settings.schedule, watch=watch)
    segnet.cpu()
    _let_learn(model, Learns.ALL)
    return model


def _let_learn(model: CardioMorphNet, learns: Learns) -> None:
    deform_net = model.deform_net
    model.requires_grad_(learns == Learns.ALL)
    for head in (deform_net.log_variance, deform_net.factor):
        head.requires_grad_(True)


def _draw_loss(
    model: CardioMorphNet, segnet: SegNet, case: TrainingCase, settings: MotionTraining, generator: torch.Generator
) -> dict[str, Tensor]:
    """Terms of the loss of one cycle, drawn from a case."""
    cycle = _draw_cycle(case, segnet, settings, generator)
    return cycle_loss(model, cycle, settings=settings, generator=_beside(cycle.frames[0].device, generator))


def _beside(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on a device; the same one on the CPU."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def arc_frames(frames: int, *, ed: int, es: int, count: int, generator: torch.Generator) -> list[int]:
    """Draw frames round the cycle: ED, some on the arc to ES, ES, some on the arc back; each frame at most once."""
    to_es = [(ed + step) % frames for step in range(1, (es - ed) % frames)]
    to_ed = [(es + step) % frames for step in range(1, (ed - es) % frames)]
    return [ed, *_some(to_es, count // 2 - 1, generator), es, *_some(to_ed, count // 2 - 1, generator)]


def pause(frames: list[int], *, share: float, generator: torch.Generator) -> list[int]:
    """Show, in this share of draws, one frame twice in a row: with fresh noise, and without motion.

    Long cines move little from frame to frame; a network that has met only strides drifts over fifty of them.
    """
    if float(torch.rand((), generator=generator)) >= share:
        return frames
    at = int(torch.randint(0, len(frames), (), generator=generator))
    return [*frames[: at + 1], *frames[at:]]


def _some(arc: list[int], count: int, generator: torch.Generator) -> list[int]:
    chosen = torch.randperm(len(arc), generator=generator)[: max(count, 0)]
    return [arc[index] for index in sorted(chosen.tolist())]


def _draw_cycle(case: TrainingCase, segnet: SegNet, settings: MotionTraining, generator: torch.Generator) -> Cycle:
    frames = arc_frames(len(case.voxels), ed=case.ed, es=case.es, count=settings.frames, generator=generator)
    frames = pause(frames, share=settings.pauses, generator=generator)
    view = augmentation.draw_view(case.centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)
    voxels = augmentation.change_look(voxels, settings.augmentation, generator).to(_device_of(segnet))
    found = find_shapes(segnet, voxels)
    shapes = _targets(case, frames, found, view)
    keep = drop_slices(int(voxels.shape[1]), settings.augmentation.missing_slices, generator)
    seen = see(voxels[:, keep], found[:, keep], settings.sizes)
    motion = _known_motion(case, frames, view, settings.window)
    return Cycle(
        seen,
        [shape[keep] for shape in shapes],
        motion and [field[:, keep] for field in motion],
        _seen_spacing(case.spacing, view),
    )


def _known_motion(
    case: TrainingCase, frames: list[int], view: View, size: tuple[int, int]
) -> list[Float[Tensor, "3 z y x"]] | None:
    return None if case.motion is None else list(augmentation.view_motion(case.motion[frames], view, size))


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _seen_spacing(spacing: Spacing, view: View) -> Spacing:
    """A view that shrinks the heart has larger voxels."""
    scale = float(torch.linalg.det(view.matrix).abs().sqrt())
    return Spacing(spacing.z, spacing.y * scale, spacing.x * scale)


def find_shapes(segnet: SegNet, voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t z k y x"]:
    """SegNet's probabilities, fast."""
    with fast_convolutions(voxels.device):
        return class_probabilities(segnet, voxels, frames_at_once=len(voxels))


def see(voxels: Float[Tensor, "t z y x"], shapes: Float[Tensor, "t z k y x"], sizes: MotionSizes) -> list[Tensor]:
    """Frames as CardioMorphNet takes them."""
    seen = torch.cat([voxels[:, :, None], shapes[:, :, 1:]], dim=2)[:, :, : frame_channels(sizes)]
    return [frame.contiguous(memory_format=torch.channels_last) for frame in seen]


def _targets(
    case: TrainingCase, frames: list[int], found: Float[Tensor, "t z k y x"], view: View
) -> list[Float[Tensor, "z k y x"]]:
    """The reference shape of each frame where there is one, else SegNet's."""
    size = (int(found.shape[3]), int(found.shape[4]))
    return [
        augmentation.view_labels(case.mask(frame)[None], view, size, classes=CLASSES)[0].to(found.device)
        if frame in case.labelled
        else shape
        for frame, shape in zip(frames, found, strict=True)
    ]


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
    advance = recomputed(model) if settings.recompute else model
    terms: list[dict[str, Tensor]] = []
    with fast_convolutions(cycle.frames[0].device):
        strides = list(closed_cycle(model, cycle.frames, cycle.stacks, generator, advance=advance))
    for stride in strides:
        t = stride.t
        (displacement,), (composed,) = (model.enlarged(field) for field in (stride.displacement, stride.to_start))
        target, from_ed = cycle.shapes[t % len(strides)], _carried(cycle, 0, composed)
        whole = _mismatch(from_ed, target, settings)
        step = whole if model.anchored else _mismatch(_carried(cycle, t - 1, displacement), target, settings)
        shape_terms = {
            "shape": step,
            "composed": whole,
            "overlap": losses.missed_overlap(from_ed, target),
            "endpoint": _endpoint_error(cycle, t, composed),
            "closing": _distance_in_heart(cycle, t, composed) if t == len(strides) else torch.zeros(()),
        }
        tried = {"extra": extra(cycle, t, displacement, composed)} if extra else {}
        terms.append(shape_terms | _model_terms(cycle, stride, model.scale) | tried)
    totals = {name: torch.stack([term[name] for term in terms]).sum() for name in terms[0]}
    weights = asdict(settings.weights) | {"extra": 1.0}
    return totals | {"loss": torch.stack([weights[name] * value for name, value in totals.items()]).sum()}


def recomputed(model: CardioMorphNet) -> Callable[..., Step]:
    """The model's step, of which only what goes in and comes out is kept; the way back works it out again."""

    def advance(*seen: Any) -> Step:
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

    return advance


def _mismatch(carried: Tensor, target: Tensor, settings: MotionTraining) -> Tensor:
    return losses.shape_pyramid(carried, target, levels=settings.pyramid_levels, softening=settings.softening)


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


def _model_terms(cycle: Cycle, stride: Stride, scale: int) -> dict[str, Tensor]:
    step = stride.step
    assert step.reconstruction is not None, "the loss is that of a model in training"
    (mean,) = cycle.stacks.volumes(step.motion.mean)
    spacing = Spacing(cycle.spacing.z, scale * cycle.spacing.y, scale * cycle.spacing.x)
    return {
        "kl_motion": losses.kl_motion(step.motion),
        "kl_latent": losses.kl_latent(step.latent, step.latent_prior),
        "reconstruction": (cycle.frames[stride.t % len(cycle.frames)][:, :1] - step.reconstruction).square().mean(),
        "smoothness": losses.bending_energy(mean, spacing),
    }


@torch.no_grad()
def validate_motion(
    model: CardioMorphNet, cases: Sequence[TrainingCase], *, segnet: SegNet, settings: MotionTraining
) -> dict[str, float]:
    """Mean figures of the motion from ED to ES.

    Dice in % and HD95 in mm of the reference ED mask carried to ES, Dice of the unmoved mask, the number of folded
    voxels and, over the cases whose motion is known, the endpoint error in mm.
    """
    return mean_of_each([_case_figures(model, case, segnet, settings) for case in cases])


def _case_figures(
    model: CardioMorphNet, case: TrainingCase, segnet: SegNet, settings: MotionTraining
) -> dict[str, float]:
    view = augmentation.straight_view(case.centre, int(case.voxels.shape[1]))
    voxels = augmentation.view_image(case.voxels[[case.ed, case.es]], view, settings.window).to(_device_of(segnet))
    frames = see(voxels, find_shapes(segnet, voxels), settings.sizes)
    ed, es = (
        augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES)[0]
        for frame in (case.ed, case.es)
    )
    stacks = Stacks((len(ed),))
    stride = next(closed_cycle(model, frames, stacks, None))
    (displacement,) = model.enlarged([stride.displacement[0].cpu()])
    carried = stacks.slices([warp(stacks.volumes(ed)[0], displacement)])
    field = from_voxels(displacement[0], case.spacing, fixed=1, moving=0)
    figures = {"folded_voxels": float((jacobian_determinant(field) <= 0).sum())}
    if case.motion is not None:
        known = augmentation.view_motion(case.motion[[case.es]], view, settings.window)
        figures |= _endpoint_figures(displacement - known, es[:, Label.MYO] > 0.5, case.spacing)
    return (
        surface_figures(carried, es, case.spacing, phase="ed2es")
        | dice_figures(carried, es, phase="ed2es")
        | dice_figures(ed, es, phase="still")
        | figures
    )


def _endpoint_figures(
    error: Float[Tensor, "1 3 z y x"], myocardium: Bool[Tensor, "z y x"], spacing: Spacing
) -> dict[str, float]:
    """Mean endpoint error in mm inside the myocardium, in the plane and through it."""
    z, y, x = (error[0] * torch.tensor(spacing.zyx).view(3, 1, 1, 1))[:, myocardium]
    return {
        "endpoint_plane_mm": float(torch.hypot(y, x).mean()),
        "endpoint_through_mm": float(z.abs().mean()),
    }
