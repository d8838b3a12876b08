"""Training in two stages, as plain loops: SegNet on masks, then CardioMorphNet on what SegNet and masks say of shape.

Every epoch draws from a generator seeded by the seed and the epoch's number, and the state is saved whole after each
epoch, so that a run that was stopped goes on with the same numbers.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cmnet_core import augmentation, losses
from cmnet_core.augmentation import AugmentationRanges
from cmnet_core.models.build import MotionSizes, SegNetSizes, build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import CardioMorphNet, Step, closed_cycle
from cmnet_core.models.checkpoint import load_tensors, save_tensors
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.motion import compose_displacements, from_voxels, jacobian_determinant, warp
from cmnet_core.preprocess import extract, extract_labels, normalise, wide_window
from cmnet_core.types import CineSequence, Label, LabelSequence, Spacing

CLASSES = len(Label)
GRADIENT_NORM = 5.0
"""Longer gradients are shortened to this: recurrent networks meet some now and then."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCase:
    """One subject as training sees it: the whole field of view at the network's in-plane spacing.

    Attributes:
        voxels: Normalised intensities.
        labels: Masks of the frames in ``labelled``.
        labelled: Frames that have a mask; ED and ES are among them.
        spacing: Voxel spacing in mm.
        ed: End-diastolic frame.
        es: End-systolic frame.
        centre: Middle of the heart in voxels (y, x).
    """

    voxels: Float[Tensor, "t z y x"]
    labels: UInt8[Tensor, "n z y x"]
    labelled: tuple[int, ...]
    spacing: Spacing
    ed: int
    es: int
    centre: tuple[float, float]

    def mask(self, frame: int) -> UInt8[Tensor, "z y x"]:
        """The mask of one labelled frame."""
        return self.labels[self.labelled.index(frame)]


def training_case(cine: CineSequence, labels: LabelSequence, *, spacing_mm: float) -> TrainingCase:
    """Bring a labelled cine, whose ED and ES are known, to the network's spacing."""
    assert cine.ed is not None and cine.es is not None, "training cases are made of cines whose ED and ES are known"
    window = wide_window(cine, spacing_mm=spacing_mm)
    maps = extract_labels(labels.labels, window)
    heart = (maps > 0).any(0).any(0).nonzero().float().mean(0)
    return TrainingCase(
        voxels=extract(normalise(cine.voxels), window),
        labels=maps,
        labelled=labels.frames,
        spacing=window.spacing,
        ed=cine.ed,
        es=cine.es,
        centre=(float(heart[0]), float(heart[1])),
    )


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SegNetTraining:
    """Settings of the first stage.

    Attributes:
        epochs: Passes over all labelled frames.
        stacks_per_batch: Stacks that share one step of the optimiser.
        learning_rate: Its peak; it rises over the first epoch and falls as a cosine.
        anywhere: Share of views that look anywhere in the field rather than at the heart.
        seed: Of every random draw.
    """

    epochs: int = 60
    stacks_per_batch: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    anywhere: float = 0.15
    window: tuple[int, int] = (128, 128)
    spacing_mm: float = 1.5
    seed: int = 1
    sizes: SegNetSizes = field(default_factory=SegNetSizes)
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        shape: λ_s, of one step's warped mask against the mask of its frame.
        composed: Of the ED mask carried by the composed motion against the mask of its frame; 0 in the article.
        kl_motion: λ1.
        kl_latent: λ2.
        reconstruction: λ3.
        smoothness: ρ, of the bending energy of one step.
    """

    shape: float = 1.0
    composed: float = 1.0
    kl_motion: float = 1e-4
    kl_latent: float = 2e-4
    reconstruction: float = 0.01
    smoothness: float = 0.05


@dataclass(frozen=True, slots=True)
class MotionTraining:
    """Settings of the second stage.

    Attributes:
        epochs: Passes over all subjects.
        frames: Frames drawn from a cine: ED, ES and equally many on each arc between them.
        pyramid_levels: Planes on which shapes are compared; 1 is the article's term.
        learning_rate: Its peak; it rises over the first epoch and falls as a cosine.
        seed: Of every random draw.
    """

    epochs: int = 40
    frames: int = 6
    pyramid_levels: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    window: tuple[int, int] = (128, 128)
    seed: int = 1
    weights: LossWeights = field(default_factory=LossWeights)
    sizes: MotionSizes = field(default_factory=MotionSizes)
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What an epoch cost and gave: mean of every loss term, figures on the validation cases, seconds."""

    epoch: int
    loss: dict[str, float]
    validation: dict[str, float]
    seconds: float


Batch = TypeVar("Batch")
OnEpoch = Callable[[EpochRecord], None]
OnBatch = Callable[[int, int], None]


# ── the loop that both stages share ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """Where a training keeps its state and whom it tells.

    Attributes:
        state: File with weights and optimiser after the last whole epoch.
        resume: Go on from that file where it exists.
        on_batch: Told the number of finished batches of the epoch, and of all.
        on_epoch: Told the record of each finished epoch.
    """

    state: Path
    resume: bool
    on_batch: OnBatch
    on_epoch: OnEpoch


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def _schedule(peak: float, progress: float, *, warm_up: float) -> float:
    """Rise linearly to the peak during ``warm_up``, then fall as a cosine; ``progress`` goes from 0 to 1."""
    if progress < warm_up:
        return peak * (progress + 1e-3) / (warm_up + 1e-3)
    return peak * (0.005 + 0.995 * 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up))))


def autocast(device: torch.device) -> torch.autocast:
    """Bfloat16 for convolutions where the processor has instructions for it."""
    fast = device.type == "cuda" or (torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def _save_state(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, header: dict[str, Any]) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_tensors(path, tensors, header)


def _load_state(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Put a saved state back; return the number of finished epochs."""
    tensors, header = load_tensors(path)
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights)
    state = optimiser.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, moment = name.split(".")
            state["state"].setdefault(int(index), {})[moment] = tensor
    optimiser.load_state_dict(state)
    return int(header["finished_epochs"])


def _mean_terms(terms: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(entry[name] for entry in terms) / len(terms) for name in terms[0]}


def _optimiser(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, amsgrad=True)


# ── stage 1: SegNet ──────────────────────────────────────────────────────────────────────────────────────────────


def train_segnet(
    cases: Sequence[TrainingCase], validation: Sequence[TrainingCase], *, settings: SegNetTraining, loop: Loop
) -> SegNet:
    """Train SegNet on every labelled frame of the cases."""
    torch.manual_seed(settings.seed)
    model = build_segnet(settings.sizes)
    optimiser = _optimiser(model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    finished = _load_state(loop.state, model, optimiser) if loop.resume and loop.state.exists() else 0
    for epoch in range(finished, settings.epochs):
        started = time.monotonic()
        terms = _segnet_epoch(model, optimiser, cases, epoch, settings, loop)
        figures = validate_segnet(model, validation, window=settings.window)
        _save_state(loop.state, model, optimiser, {"finished_epochs": epoch + 1})
        loop.on_epoch(EpochRecord(epoch, terms, figures, time.monotonic() - started))
    return model.eval()


def _segnet_epoch(
    model: SegNet,
    optimiser: torch.optim.Optimizer,
    cases: Sequence[TrainingCase],
    epoch: int,
    settings: SegNetTraining,
    loop: Loop,
) -> dict[str, float]:
    model.train()
    generator = _epoch_generator(settings.seed, epoch)
    stacks = [(case, frame) for case in cases for frame in (case.ed, case.es)]
    order = torch.randperm(len(stacks), generator=generator).tolist()
    batches = math.ceil(len(order) / settings.stacks_per_batch)
    terms = []
    for number in range(batches):
        chosen = order[number * settings.stacks_per_batch : (number + 1) * settings.stacks_per_batch]
        views = [_segnet_view(*stacks[index], settings, generator) for index in chosen]
        for group in optimiser.param_groups:
            progress = (epoch + number / batches) / settings.epochs
            group["lr"] = _schedule(settings.learning_rate, progress, warm_up=1.0 / settings.epochs)
        terms.append({"loss": _segnet_step(model, optimiser, views)})
        loop.on_batch(number + 1, batches)
    return _mean_terms(terms)


def _segnet_view(
    case: TrainingCase, frame: int, settings: SegNetTraining, generator: torch.Generator
) -> tuple[Float[Tensor, "z 1 y x"], Float[Tensor, "z k y x"]]:
    centre = case.centre
    if float(torch.rand((), generator=generator)) < settings.anywhere:
        rows, columns = case.voxels.shape[2:]
        y, x = torch.rand(2, generator=generator).tolist()
        centre = (y * rows, x * columns)
    view = augmentation.draw_view(centre, settings.augmentation, generator)
    image = augmentation.view_image(case.voxels[frame : frame + 1], view, settings.window)
    image = augmentation.change_look(image, settings.augmentation, generator)
    target = augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES)
    keep = _some_slices(int(image.shape[1]), generator)
    return image[0, keep, None], target[0, keep]


def _some_slices(depth: int, generator: torch.Generator) -> slice:
    """Now and then a stack lacks slices at an end."""
    if depth < 4 or float(torch.rand((), generator=generator)) < 0.7:
        return slice(0, depth)
    lost = int(torch.randint(1, depth - 1, (), generator=generator))
    start = int(torch.randint(0, lost + 1, (), generator=generator))
    return slice(start, start + depth - lost)


def _segnet_step(model: SegNet, optimiser: torch.optim.Optimizer, views: list[tuple[Tensor, Tensor]]) -> float:
    image = torch.cat([view[0] for view in views]).contiguous(memory_format=torch.channels_last)
    target = torch.cat([view[1] for view in views])
    stacks = Stacks(tuple(len(view[0]) for view in views))
    with autocast(image.device):
        logits = model(image, stacks)
    loss = losses.segmentation_loss(logits.float(), target)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def validate_segnet(model: SegNet, cases: Sequence[TrainingCase], *, window: tuple[int, int]) -> dict[str, float]:
    """Mean Dice in % of each structure at ED and ES, seen through an unchanged window around the heart."""
    model.eval()
    scores: dict[str, list[float]] = {}
    for case in cases:
        view = augmentation.straight_view(case.centre)
        for phase, frame in (("ed", case.ed), ("es", case.es)):
            image = augmentation.view_image(case.voxels[frame : frame + 1], view, window)
            truth = augmentation.view_labels(case.mask(frame)[None], view, window, classes=CLASSES)[0].argmax(1)
            predicted = class_probabilities(model, image, frames_at_once=1)[0].argmax(1)
            for label in (Label.LV, Label.MYO, Label.RV):
                score = _dice_pct(predicted == label, truth == label)
                scores.setdefault(f"dice_{label.name.lower()}_{phase}_pct", []).append(score)
    return {name: sum(values) / len(values) for name, values in scores.items()}


# ── stage 2: CardioMorphNet ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """Frames of one subject round the cycle, ED first.

    Attributes:
        images: One frame each, ``[n 1 y x]``.
        shapes: Class probabilities of each frame, ``[n k y x]``: the reference where there is one, else SegNet's.
        stacks: Where the stack begins.
        spacing: Voxel spacing in mm.
    """

    images: list[Tensor]
    shapes: list[Tensor]
    stacks: Stacks
    spacing: Spacing


def arc_frames(frames: int, ed: int, es: int, *, count: int, generator: torch.Generator) -> list[int]:
    """Draw frames round the cycle: ED, frames on the arc to ES, ES, frames on the arc back; each frame once."""
    to_es = [(ed + step) % frames for step in range(1, (es - ed) % frames)]
    to_ed = [(es + step) % frames for step in range(1, (ed - es) % frames)]
    return [ed, *_draw(to_es, count // 2 - 1, generator), es, *_draw(to_ed, count // 2 - 1, generator)]


def _draw(arc: list[int], count: int, generator: torch.Generator) -> list[int]:
    chosen = torch.randperm(len(arc), generator=generator)[: max(count, 0)]
    return [arc[index] for index in sorted(chosen.tolist())]


def train_motion(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    segnet: SegNet,
    settings: MotionTraining,
    loop: Loop,
) -> CardioMorphNet:
    """Train CardioMorphNet on whole cycles, with SegNet frozen."""
    torch.manual_seed(settings.seed)
    model = build_motion(settings.sizes)
    optimiser = _optimiser(model, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    finished = _load_state(loop.state, model, optimiser) if loop.resume and loop.state.exists() else 0
    for epoch in range(finished, settings.epochs):
        started = time.monotonic()
        terms = _motion_epoch(model, optimiser, cases, segnet, epoch, settings, loop)
        figures = validate_motion(model, validation, window=settings.window)
        _save_state(loop.state, model, optimiser, {"finished_epochs": epoch + 1})
        loop.on_epoch(EpochRecord(epoch, terms, figures, time.monotonic() - started))
    return model.eval()


def _motion_epoch(
    model: CardioMorphNet,
    optimiser: torch.optim.Optimizer,
    cases: Sequence[TrainingCase],
    segnet: SegNet,
    epoch: int,
    settings: MotionTraining,
    loop: Loop,
) -> dict[str, float]:
    model.train()
    generator = _epoch_generator(settings.seed, epoch)
    terms = []
    for number, index in enumerate(torch.randperm(len(cases), generator=generator).tolist()):
        for group in optimiser.param_groups:
            progress = (epoch + number / len(cases)) / settings.epochs
            group["lr"] = _schedule(settings.learning_rate, progress, warm_up=1.0 / settings.epochs)
        cycle = _training_cycle(cases[index], segnet, settings, generator)
        parts = cycle_loss(model, cycle, settings, generator)
        optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimiser.step()
        terms.append({name: float(part.detach()) for name, part in parts.items()})
        loop.on_batch(number + 1, len(cases))
    return _mean_terms(terms)


def _training_cycle(case: TrainingCase, segnet: SegNet, settings: MotionTraining, generator: torch.Generator) -> Cycle:
    frames = arc_frames(len(case.voxels), case.ed, case.es, count=settings.frames, generator=generator)
    view = augmentation.draw_view(case.centre, settings.augmentation, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)
    voxels = augmentation.change_look(voxels, settings.augmentation, generator)
    keep = _some_slices(int(voxels.shape[1]), generator)
    # The view scales the heart, so its millimetres scale with it.
    scale = float(torch.linalg.det(view.matrix).abs().sqrt())
    spacing = Spacing(case.spacing.z, case.spacing.y * scale, case.spacing.x * scale)
    return _cycle(case, frames, voxels, view, segnet, spacing=spacing, keep=keep)


def _cycle(
    case: TrainingCase,
    frames: list[int],
    voxels: Float[Tensor, "t z y x"],
    view: augmentation.View,
    segnet: SegNet | None,
    *,
    spacing: Spacing,
    keep: slice,
) -> Cycle:
    size = (int(voxels.shape[2]), int(voxels.shape[3]))
    shapes = []
    for position, frame in enumerate(frames):
        if frame in case.labelled:
            shape = augmentation.view_labels(case.mask(frame)[None], view, size, classes=CLASSES)[0]
        elif segnet is not None:
            shape = class_probabilities(segnet, voxels[position : position + 1], frames_at_once=1)[0]
        shapes.append(shape[keep])
    images = [image[keep, None].contiguous(memory_format=torch.channels_last) for image in voxels]
    return Cycle(images, shapes, Stacks((len(images[0]),)), spacing)


def cycle_loss(
    model: CardioMorphNet, cycle: Cycle, settings: MotionTraining, generator: torch.Generator
) -> dict[str, Tensor]:
    """Every term of the loss, summed over the steps of the closed cycle, and their weighted sum as ``loss``."""
    with autocast(cycle.images[0].device):
        steps = list(closed_cycle(model, cycle.images, cycle.stacks, generator))
    totals = {name: cycle.images[0].new_zeros(()) for name in ("shape", "composed", "kl_motion", "kl_latent")}
    totals |= {name: cycle.images[0].new_zeros(()) for name in ("reconstruction", "smoothness")}
    composed: Tensor | None = None
    for t, step in steps:
        (displacement,) = model.displacements(step.motion.sample(generator), cycle.stacks)
        composed = displacement if composed is None else compose_displacements(displacement, composed)
        for name, value in _step_terms(cycle, t, step, displacement, composed, settings).items():
            totals[name] = totals[name] + value
    weights = asdict(settings.weights)
    return totals | {"loss": torch.stack([weights[name] * value for name, value in totals.items()]).sum()}


def _step_terms(
    cycle: Cycle, t: int, step: Step, displacement: Tensor, composed: Tensor, settings: MotionTraining
) -> dict[str, Tensor]:
    current = t % len(cycle.images)

    def mismatch(origin: Tensor, motion: Tensor) -> Tensor:
        (volume,) = cycle.stacks.volumes(origin)
        warped = cycle.stacks.slices([warp(volume, motion)])
        return losses.shape_pyramid(warped, cycle.shapes[current], levels=settings.pyramid_levels)

    return {
        "shape": mismatch(cycle.shapes[t - 1], displacement),
        "composed": mismatch(cycle.shapes[0], composed),
        "kl_motion": losses.kl_motion(step.motion),
        "kl_latent": losses.kl_latent(step.latent, step.latent_prior),
        "reconstruction": (cycle.images[current] - step.reconstruction).square().mean(),
        "smoothness": losses.bending_energy(displacement, cycle.spacing),
    }


@torch.no_grad()
def validate_motion(
    model: CardioMorphNet, cases: Sequence[TrainingCase], *, window: tuple[int, int]
) -> dict[str, float]:
    """Mean Dice in % of the reference ED mask carried to ES, of the unmoved mask, and mean folded voxels."""
    model.eval()
    figures: list[dict[str, float]] = []
    for case in cases:
        view = augmentation.straight_view(case.centre)
        frames = [case.ed, case.es]
        voxels = augmentation.view_image(case.voxels[frames], view, window)
        cycle = _cycle(case, frames, voxels, view, None, spacing=case.spacing, keep=slice(None))
        _, step = next(closed_cycle(model, cycle.images, cycle.stacks, None))
        (displacement,) = model.displacements(step.motion.mean, cycle.stacks)
        figures.append(_carried_figures(cycle, displacement))
    return _mean_terms(figures)


def _carried_figures(cycle: Cycle, displacement: Tensor) -> dict[str, float]:
    (volume,) = cycle.stacks.volumes(cycle.shapes[0])
    carried = cycle.stacks.slices([warp(volume, displacement)]).argmax(1)
    still, truth = (cycle.shapes[frame].argmax(1) for frame in (0, 1))
    field = from_voxels(displacement[0], cycle.spacing, fixed=1, moving=0)
    figures = {"folded_voxels": float((jacobian_determinant(field) <= 0).sum())}
    for label in (Label.LV, Label.MYO, Label.RV):
        name = label.name.lower()
        figures[f"dice_{name}_ed2es_pct"] = _dice_pct(carried == label, truth == label)
        figures[f"dice_{name}_still_pct"] = _dice_pct(still == label, truth == label)
    return figures


def _dice_pct(a: Tensor, b: Tensor) -> float:
    return float(200.0 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1))
