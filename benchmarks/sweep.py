"""What each part of the method is worth: a sweep of the smoothness, and parts left out or exchanged one at a time.

Trains CardioMorphNet many times from random weights, each time with the same budget, on training patients of ACDC at
3 mm in the plane with the shipped SegNet frozen, and judges each by the patients that validate. The figures of a
training are appended to a file as soon as it is done, and a call goes on where the one before it ended. The tables and
the plot of ``docs/validation.md`` are then written from that file.

    python -m benchmarks.sweep                  train what is missing, then write the page
    python -m benchmarks.sweep --page-only      write the page from what there is

Intensities of two frames are compared here and nowhere else: cmnet's own loss never does.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sweep_page import write_page
from cmnet_cli.cohort.datasets import from_acdc
from cmnet_cli.stages.training_case import load_training_case
from cmnet_core.imaging import augmentation
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.build import MotionSizes, build_motion
from cmnet_core.models.cardiomorphnet import CardioMorphNet, iterate_cycle
from cmnet_core.models.checkpoint import find_weights, load_checkpoint
from cmnet_core.models.layers import Stacks, upsample_displacement
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.registration.displacement import from_voxels, jacobian_determinant, warp
from cmnet_core.training.cycle_loss import ExtraTerm, TrainingCycle, cycle_loss
from cmnet_core.training.loop import EpochRecord, Schedule, TrainingMonitor, TrainingSample, TrainingTask, run_training
from cmnet_core.training.motion_settings import LossWeights, MotionTraining
from cmnet_core.training.motion_stage import network_inputs
from cmnet_core.training.training_case import CLASSES, TrainingCase, dice_metrics, surface_metrics
from cmnet_core.types import Spacing

FINE_MM = 1.5
"""In-plane spacing that SegNet knows, and that motion is judged at; the networks of the sweep see twice as much."""

KEPT = 64
"""Voxels of 3 mm that are kept around the heart, to cut views from."""

SEEN = 48
"""Voxels of 3 mm that a network sees."""

SLICES = 5
"""Neighbouring slices that a draw shows at most; judged is on whole stacks."""

VALIDATION_EVERY = 5
SIZES = MotionSizes(
    features=(8, 16, 16, 16), hidden=(32, 16), decoder=(16, 16, 16, 8), deform=(16, 24, 32, 32, 32), output_level=0
)
WEIGHTS = LossWeights(endpoint=0.0, overlap=0.0, folding=0.0, smoothness=0.05)
AUGMENTATION = AugmentationRanges(
    rotation_deg=30.0,
    random_orientation_probability=0.1,
    scale=0.0,
    shear=0.05,
    shift_voxels=3.0,
    slice_shift_voxels=0.0,
    gamma=0.2,
    brightness=0.1,
    noise=0.02,
    bias_field=0.2,
    blur_voxels=0.0,
    slice_blur=0.0,
    coarsening=1.0,
    artefact_probability=0.0,
    missing_slice_probability=0.0,
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train.

    Attributes:
        name: In tables.
        weights: Of the loss.
        sizes: Of the network.
        latent: Whether the RVAE takes part; without it φ_Z is zero and its terms have no weight.
        intensity: Weight of the intensity terms, as a multiple of that at which they are worth as much as the shape
            terms before anything has moved.
        references: Whether shapes are compared with the reference masks, or with what SegNet makes of them.
    """

    name: str
    weights: LossWeights = WEIGHTS
    sizes: MotionSizes = SIZES
    latent: bool = True
    intensity: float = 0.0
    references: bool = True


DEFAULT_MOTION = Variant("ours")
_IMAGES_ALONE = replace(SIZES, use_segmentation=False)
_NO_SHAPE_TERM = replace(WEIGHTS, shape=0.0, composed=0.0, closing=0.0)


def smoothness(rho: float) -> Variant:
    """Ours with another weight of the bending energy."""
    return Variant(f"ρ = {rho:g}", replace(WEIGHTS, smoothness=rho))


VARIANTS = (
    DEFAULT_MOTION,
    Variant("without RVAE", weights=replace(WEIGHTS, kl_latent=0.0, reconstruction=0.0), latent=False),
    Variant("without SegNet: intensity loss, images alone seen", _NO_SHAPE_TERM, _IMAGES_ALONE, intensity=1.0),
    Variant("intensity loss beside shape loss", intensity=1.0),
    Variant("images alone seen (`sees_shapes = false`)", sizes=_IMAGES_ALONE),
    Variant("displacement (`integration_steps = 0`)", sizes=replace(SIZES, integration_steps=0)),
    *(smoothness(rho) for rho in (0.3, 0.003, 1.0, 0.01, 0.1)),
    Variant("intensity loss instead of shape loss", _NO_SHAPE_TERM, intensity=1.0),
    smoothness(0.03),
    Variant("SegNet's masks as targets instead of reference masks", references=False),
)
"""What tells most comes first: a sweep that is cut short is worth the most then."""


# ── hearts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Heart:
    """A subject at ED and ES, around its heart.

    Attributes:
        subject: Its name.
        voxels: Intensities at 3 mm.
        found: SegNet's probabilities, found at 1.5 mm.
        masks: Reference masks as one-hot at 1.5 mm.
        spacing: Of ``masks``.
    """

    subject: str
    voxels: Float[Tensor, "2 z y x"]
    found: Float[Tensor, "2 z k y x"]
    masks: Float[Tensor, "2 z k yf xf"]
    spacing: Spacing

    @property
    def coarse(self) -> Spacing:
        """Spacing of ``voxels``."""
        return Spacing(self.spacing.z, 2.0 * self.spacing.y, 2.0 * self.spacing.x)

    @property
    def coarse_labels(self) -> UInt8[Tensor, "2 z y x"]:
        """The masks at 3 mm: of each 2 × 2 voxels the class that most of them have."""
        labels: Tensor = _halved(self.masks).argmax(2).to(torch.uint8)
        return labels


def heart_of(subject: str, case: TrainingCase, segnet: SegNet) -> Heart:
    """Look at the case's two phases straight, around the middle of its masks."""
    view, size = augmentation.straight_view(case.centre, int(case.voxels.shape[1])), (2 * KEPT, 2 * KEPT)
    voxels = augmentation.view_image(case.voxels[[case.ed, case.es]], view, size)
    labels = torch.stack([case.mask(case.ed), case.mask(case.es)])
    masks = augmentation.view_labels(labels, view, size, classes=CLASSES)
    found = class_probabilities(segnet, voxels, frames_at_once=1)
    return Heart(subject, _halved(voxels), _halved(found), masks, case.spacing)


def _halved(planes: Tensor) -> Tensor:
    """Half as fine in the plane."""
    return functional.avg_pool2d(planes.flatten(0, -3), 2).unflatten(0, planes.shape[:-2])


def load_hearts(acdc: Path, segnet: SegNet, *, training: int) -> tuple[list[Heart], list[Heart]]:
    """As many patients to train on as asked for, evenly chosen, and all that validate."""
    cases = sorted(from_acdc(acdc), key=lambda case: case.subject_id)
    kept_back = cases[::VALIDATION_EVERY]
    others = [case for case in cases if case not in kept_back]
    chosen = others[:: max(len(others) // training, 1)][:training]
    first, second = (
        [heart_of(case.case_id, load_training_case(case, spacing_mm=FINE_MM), segnet) for case in part]
        for part in (chosen, kept_back)
    )
    return first, second


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_cycle(heart: Heart, variant: Variant, generator: torch.Generator) -> TrainingCycle:
    """ED and ES through a view drawn at random; SegNet's probabilities are those of the unchanged images."""
    depth = int(heart.voxels.shape[1])
    first = int(torch.randint(0, max(depth - SLICES, 0) + 1, (), generator=generator))
    shown = slice(first, first + SLICES)
    voxels, probabilities = heart.voxels[:, shown], heart.found[:, shown]
    view = augmentation.draw_view(((KEPT - 1) / 2,) * 2, int(voxels.shape[1]), AUGMENTATION, generator)
    structures = augmentation.view_image(probabilities[:, :, 1:].movedim(2, 1).flatten(0, 1), view, (SEEN, SEEN))
    structures = structures.unflatten(0, (2, CLASSES - 1)).movedim(1, 2)
    found = torch.cat([1.0 - structures.sum(2, keepdim=True), structures], dim=2)
    seen = augmentation.augment_intensity(augmentation.view_image(voxels, view, (SEEN, SEEN)), AUGMENTATION, generator)
    masks = augmentation.view_labels(heart.coarse_labels[:, shown], view, (SEEN, SEEN), classes=CLASSES)
    return TrainingCycle(
        network_inputs(seen, found, variant.sizes), list(masks if variant.references else found), None, heart.coarse
    )


def intensity_term(weight: float) -> ExtraTerm:
    """Squared difference of a frame from the one before, and from ED, both warped onto it."""

    def term(cycle: TrainingCycle, t: int, displacement: Tensor, composed: Tensor) -> Tensor:
        now = cycle.frames[t % len(cycle.frames)][:, :1]
        warped = (
            warp(cycle.stacks.volumes(cycle.frames[origin][:, :1])[0], field)
            for origin, field in ((t - 1, displacement), (0, composed))
        )
        errors = [(cycle.stacks.slices([volume]) - now).square().mean() for volume in warped]
        return weight * torch.stack(errors).sum()

    return term


def worth_of_intensity(hearts: Sequence[Heart], settings: MotionTraining) -> float:
    """The weight at which the intensity terms are worth as much as the shape terms while nothing moves."""
    still, shape, intensity = start(DEFAULT_MOTION, 0), 0.0, 0.0
    for heart in hearts:
        cycle = draw_cycle(heart, DEFAULT_MOTION, torch.Generator().manual_seed(0))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            terms = cycle_loss(still, cycle, settings=settings, generator=generator, extra=intensity_term(1.0))
        shape, intensity = shape + float(terms["shape"] + terms["composed"]), intensity + float(terms["extra"])
    return shape / intensity


@dataclass(frozen=True, slots=True)
class Budget:
    """What every training may cost, alike for all.

    Attributes:
        training: Patients to train on.
        epochs: Passes over them.
        learning_rate: Its peak.
    """

    training: int = 40
    epochs: int = 3
    learning_rate: float = 2e-3

    def settings(self, variant: Variant, seed: int) -> MotionTraining:
        """Settings of one training; what is not named here is as shipped."""
        schedule = Schedule(self.epochs, self.learning_rate, 1e-5, seed=seed)
        return MotionTraining(schedule=schedule, weights=variant.weights, sizes=variant.sizes)


def start(variant: Variant, seed: int) -> CardioMorphNet:
    """A network with random weights."""
    torch.manual_seed(seed)
    model = build_motion(variant.sizes)
    if not variant.latent:
        for weight in model.feat_z.parameters():
            nn.init.zeros_(weight).requires_grad_(requires_grad=False)
    return model


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One training: what is tried, from which seed, at which cost, on which hearts."""

    variant: Variant
    seed: int
    budget: Budget
    hearts: Sequence[Heart]
    worth: float
    state: Path


def train(trial: Trial) -> CardioMorphNet:
    """Train one variant; a training that was stopped goes on."""
    variant, settings = trial.variant, trial.budget.settings(trial.variant, trial.seed)
    model = start(variant, trial.seed)
    extra = intensity_term(variant.intensity * trial.worth) if variant.intensity else None

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        (draw,) = batch
        cycle = draw_cycle(trial.hearts[draw.index], variant, draw.generator)
        return cycle_loss(model, cycle, settings=settings, generator=draw.generator, extra=extra)

    def told(record: EpochRecord) -> None:
        print(f"  epoch {record.epoch + 1}: loss {record.loss['loss']:.4f} ({record.seconds:.0f} s)", flush=True)

    identity = {"trial": json.dumps([asdict(variant), trial.seed, asdict(trial.budget)], sort_keys=True)}
    monitor = TrainingMonitor(
        trial.state, resume=True, on_batch=lambda done, of: None, on_epoch=told, identity=identity
    )
    run_training(
        model, TrainingTask(len(trial.hearts), 1, loss, lambda _: {}), schedule=settings.schedule, monitor=monitor
    )
    trial.state.unlink(missing_ok=True)
    return model


# ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def figures_of(model: CardioMorphNet, heart: Heart, sizes: MotionSizes) -> dict[str, float]:
    """Figures of the reference ED mask carried to ES by posterior means, at 1.5 mm."""
    inner = slice((KEPT - SEEN) // 2, (KEPT + SEEN) // 2)
    fine = slice(2 * inner.start, 2 * inner.stop)
    frames = network_inputs(heart.voxels[..., inner, inner], heart.found[..., inner, inner], sizes)
    ed, es = heart.masks[..., fine, fine]
    stacks = Stacks((len(ed),))
    (displacement,) = model.upsample_displacements(next(iterate_cycle(model, frames, stacks, None)).displacement)
    displacement = upsample_displacement(displacement, factor=2)
    carried = stacks.slices([warp(stacks.volumes(ed)[0], displacement)])
    folds = jacobian_determinant(from_voxels(displacement[0], heart.spacing, fixed=1, moving=0)) <= 0
    dice = dice_metrics(carried, es, phase="ed2es") | dice_metrics(ed, es, phase="still")
    return dice | surface_metrics(carried, es, heart.spacing, phase="ed2es") | {"folded_voxels": float(folds.sum())}


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """The file that holds what is done, a line a training."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def open(path: Path) -> "AttemptLog":
        """What the file holds; empty where there is none."""
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return AttemptLog(path, [json.loads(line) for line in text.splitlines()])

    def has(self, variant: Variant, seed: int, budget: Budget) -> bool:
        """Whether a training is done."""
        key = (variant.name, seed, asdict(budget))
        return any((line["variant"], line["seed"], line["budget"]) == key for line in self.lines)

    def add(self, line: dict[str, Any]) -> None:
        """Keep the figures of one more."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def sweep(acdc: Path, work: Path, *, seeds: Iterable[int], budget: Budget) -> AttemptLog:
    """Train all that is missing."""
    work.mkdir(parents=True, exist_ok=True)
    attempt_log = AttemptLog.open(work / "sweep.jsonl")
    missing = [(variant, seed) for seed in seeds for variant in VARIANTS if not attempt_log.has(variant, seed, budget)]
    if not missing:
        return attempt_log
    training, validation = load_hearts(acdc, load_checkpoint(find_weights("default")).segnet, training=budget.training)
    worth = worth_of_intensity(training, budget.settings(DEFAULT_MOTION, 0))
    for variant, seed in missing:
        print(f"{variant.name}, seed {seed}", flush=True)
        began = time.process_time()
        model = train(Trial(variant, seed, budget, training, worth, work / "state.safetensors"))
        trained_s = time.process_time() - began
        subjects = {heart.subject: figures_of(model, heart, variant.sizes) for heart in validation}
        line = {"variant": variant.name, "seed": seed, "budget": asdict(budget), "worth_of_intensity": worth}
        attempt_log.add(line | {"cpu_seconds": round(trained_s, 1), "subjects": subjects})
    return attempt_log


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then write the page."""
    root = Path(__file__).parents[1]
    beside = root.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--work", type=Path, default=Path("cmnet-sweep"), help="where figures and states are kept")
    parser.add_argument("--page", type=Path, default=root / "docs" / "validation.md")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=Budget().epochs)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    budget = Budget(epochs=given.epochs)
    if given.page_only:
        attempt_log = AttemptLog.open(given.work / "sweep.jsonl")
    else:
        attempt_log = sweep(given.data / "acdc", given.work, seeds=range(1, given.seeds + 1), budget=budget)
    missing = [variant.name for variant in VARIANTS if not attempt_log.has(variant, 1, budget)]
    write_page(given.page, [line for line in attempt_log.lines if line["budget"] == asdict(budget)], missing)


if __name__ == "__main__":
    main()
