"""Ablation study: a sweep of the smoothness weight, and variants with one part of the method removed or replaced.

CardioMorphNet is trained many times from random weights, each time with the same budget, on training patients of ACDC
at 3 mm in-plane with the shipped SegNet frozen, and evaluated on the validation patients. The metrics of each training
are appended to a file, and a later call continues from it. The tables and the plot of ``docs/validation.md`` are
written from that file.

    python -m benchmarks.sweep                  train the missing variants, then write the page
    python -m benchmarks.sweep --page-only      write the page from the existing trainings

The baseline has neither the cost volume, RotationNet, the cascade nor the velocity fit of the shipped model, and
estimates the motion from ED to ES only. Some variants have a loss term that compares the intensities of two frames,
which the training losses of cmnet do not have.
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
"""In-plane spacing in mm of SegNet and of the evaluation; the motion networks of the sweep have twice this spacing."""

KEPT_VOXELS = 64
"""In-plane size around the heart from which views are drawn, in voxels of 3 mm."""

INPUT_VOXELS = 48
"""In-plane size of the networks' input, in voxels of 3 mm."""

MAX_SLICES = 5
"""Largest number of neighbouring slices of a training sample; the evaluation is on whole stacks."""

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
    """One variant of the training.

    Attributes:
        name: Name in the tables.
        weights: Weights of the loss terms.
        sizes: Sizes of the network.
        latent: Whether the recurrent variational autoencoder is used; without it φ_Z is zero and its terms have no
            weight.
        intensity: Weight of the intensity terms, as a multiple of the weight at which they equal the segmentation terms
            without motion.
        references: Whether warped segmentations are compared with the reference masks; otherwise with SegNet's
            probabilities.
    """

    name: str
    weights: LossWeights = WEIGHTS
    sizes: MotionSizes = SIZES
    latent: bool = True
    intensity: float = 0.0
    references: bool = True


BASELINE = Variant("baseline")
_IMAGES_ALONE = replace(SIZES, use_segmentation=False)
_NO_SHAPE_TERM = replace(WEIGHTS, shape=0.0, composed=0.0, closing=0.0)


def smoothness(rho: float) -> Variant:
    """Return the baseline with another weight of the bending energy."""
    return Variant(f"ρ = {rho:g}", replace(WEIGHTS, smoothness=rho))


VARIANTS = (
    BASELINE,
    Variant("without RVAE", weights=replace(WEIGHTS, kl_latent=0.0, reconstruction=0.0), latent=False),
    Variant("without SegNet: intensity loss, images alone as input", _NO_SHAPE_TERM, _IMAGES_ALONE, intensity=1.0),
    Variant("intensity loss beside segmentation loss", intensity=1.0),
    Variant("images alone as input (`use_segmentation = false`)", sizes=_IMAGES_ALONE),
    Variant("displacement (`integration_steps = 0`)", sizes=replace(SIZES, integration_steps=0)),
    *(smoothness(rho) for rho in (0.3, 0.003, 1.0, 0.01, 0.1)),
    Variant("intensity loss instead of segmentation loss", _NO_SHAPE_TERM, intensity=1.0),
    smoothness(0.03),
    Variant("SegNet's masks as targets instead of reference masks", references=False),
)
"""The variants in the order of their importance, for a sweep that is stopped early."""


# ── subjects ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class SweepSubject:
    """A subject at ED and ES, cropped around its heart.

    Attributes:
        subject: Id of the subject.
        voxels: Normalised intensities at 3 mm.
        probabilities: SegNet's class probabilities, predicted at 1.5 mm and averaged to 3 mm.
        masks: One-hot reference masks at 1.5 mm.
        spacing: Voxel spacing of ``masks`` in mm.
    """

    subject: str
    voxels: Float[Tensor, "2 z y x"]
    probabilities: Float[Tensor, "2 z k y x"]
    masks: Float[Tensor, "2 z k yf xf"]
    spacing: Spacing

    @property
    def coarse(self) -> Spacing:
        """Voxel spacing of ``voxels`` in mm."""
        return Spacing(self.spacing.z, 2.0 * self.spacing.y, 2.0 * self.spacing.x)

    @property
    def coarse_labels(self) -> UInt8[Tensor, "2 z y x"]:
        """The masks at 3 mm: the most frequent class of each 2 × 2 voxels."""
        labels: Tensor = _halved(self.masks).argmax(2).to(torch.uint8)
        return labels


def prepare_subject(subject: str, case: TrainingCase, segnet: SegNet) -> SweepSubject:
    """Crop ED and ES of a case around the centre of its masks, and segment them."""
    view, size = augmentation.straight_view(case.centre, int(case.voxels.shape[1])), (2 * KEPT_VOXELS, 2 * KEPT_VOXELS)
    voxels = augmentation.view_image(case.voxels[[case.ed, case.es]], view, size)
    labels = torch.stack([case.mask(case.ed), case.mask(case.es)])
    masks = augmentation.view_labels(labels, view, size, classes=CLASSES)
    probabilities = class_probabilities(segnet, voxels, frames_at_once=1)
    return SweepSubject(subject, _halved(voxels), _halved(probabilities), masks, case.spacing)


def _halved(planes: Tensor) -> Tensor:
    """Average to half the in-plane resolution."""
    return functional.avg_pool2d(planes.flatten(0, -3), 2).unflatten(0, planes.shape[:-2])


def load_subjects(acdc: Path, segnet: SegNet, *, training: int) -> tuple[list[SweepSubject], list[SweepSubject]]:
    """Load a number of training patients, evenly chosen, and all validation patients of ACDC."""
    cases = sorted(from_acdc(acdc).cases, key=lambda case: case.subject_id)
    kept_back = cases[::VALIDATION_EVERY]
    others = [case for case in cases if case not in kept_back]
    chosen = others[:: max(len(others) // training, 1)][:training]
    first, second = (
        [prepare_subject(case.case_id, load_training_case(case, spacing_mm=FINE_MM), segnet) for case in part]
        for part in (chosen, kept_back)
    )
    return first, second


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_cycle(heart: SweepSubject, variant: Variant, generator: torch.Generator) -> TrainingCycle:
    """Draw an augmented view of ED and ES; SegNet's probabilities are those of the original images."""
    depth = int(heart.voxels.shape[1])
    first = int(torch.randint(0, max(depth - MAX_SLICES, 0) + 1, (), generator=generator))
    shown = slice(first, first + MAX_SLICES)
    voxels, probabilities = heart.voxels[:, shown], heart.probabilities[:, shown]
    view = augmentation.draw_view(((KEPT_VOXELS - 1) / 2,) * 2, int(voxels.shape[1]), AUGMENTATION, generator)
    structures = augmentation.view_image(
        probabilities[:, :, 1:].movedim(2, 1).flatten(0, 1), view, (INPUT_VOXELS, INPUT_VOXELS)
    )
    structures = structures.unflatten(0, (2, CLASSES - 1)).movedim(1, 2)
    probabilities = torch.cat([1.0 - structures.sum(2, keepdim=True), structures], dim=2)
    inputs = augmentation.augment_intensity(
        augmentation.view_image(voxels, view, (INPUT_VOXELS, INPUT_VOXELS)), AUGMENTATION, generator
    )
    masks = augmentation.view_labels(heart.coarse_labels[:, shown], view, (INPUT_VOXELS, INPUT_VOXELS), classes=CLASSES)
    return TrainingCycle(
        network_inputs(inputs, probabilities, variant.sizes),
        list(masks if variant.references else probabilities),
        None,
        heart.coarse,
    )


def intensity_term(weight: float) -> ExtraTerm:
    """Return a loss term: the squared difference of a frame from the moving frame and from ED, both warped onto it."""

    def term(cycle: TrainingCycle, t: int, displacement: Tensor, composed: Tensor) -> Tensor:
        now = cycle.frames[t % len(cycle.frames)][:, :1]
        warped = (
            warp(cycle.stacks.volumes(cycle.frames[origin][:, :1])[0], field)
            for origin, field in ((t - 1, displacement), (0, composed))
        )
        errors = [(cycle.stacks.slices([volume]) - now).square().mean() for volume in warped]
        return weight * torch.stack(errors).sum()

    return term


def equal_intensity_weight(subjects: Sequence[SweepSubject], settings: MotionTraining) -> float:
    """Compute the weight at which the intensity terms equal the segmentation terms without motion."""
    still, shape, intensity = start(BASELINE, 0), 0.0, 0.0
    for heart in subjects:
        cycle = draw_cycle(heart, BASELINE, torch.Generator().manual_seed(0))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            terms = cycle_loss(still, cycle, settings=settings, generator=generator, extra=intensity_term(1.0))
        shape, intensity = shape + float(terms["shape"] + terms["composed"]), intensity + float(terms["extra"])
    return shape / intensity


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget of every training.

    Attributes:
        training: Number of training patients.
        epochs: Number of passes over them.
        learning_rate: Peak of the learning rate.
    """

    training: int = 40
    epochs: int = 3
    learning_rate: float = 2e-3

    def settings(self, variant: Variant, seed: int) -> MotionTraining:
        """Return the settings of one training; all others have their defaults."""
        schedule = Schedule(self.epochs, self.learning_rate, 1e-5, seed=seed)
        return MotionTraining(schedule=schedule, weights=variant.weights, sizes=variant.sizes)


def start(variant: Variant, seed: int) -> CardioMorphNet:
    """Build a network with random weights."""
    torch.manual_seed(seed)
    model = build_motion(variant.sizes)
    if not variant.latent:
        for weight in model.feat_z.parameters():
            nn.init.zeros_(weight).requires_grad_(requires_grad=False)
    return model


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One training: its variant, seed, budget, subjects, weight of the intensity terms, and state file."""

    variant: Variant
    seed: int
    budget: Budget
    subjects: Sequence[SweepSubject]
    intensity_weight: float
    state: Path


def train(trial: Trial) -> CardioMorphNet:
    """Train one variant, from its saved state where there is one."""
    variant, settings = trial.variant, trial.budget.settings(trial.variant, trial.seed)
    model = start(variant, trial.seed)
    extra = intensity_term(variant.intensity * trial.intensity_weight) if variant.intensity else None

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        (draw,) = batch
        cycle = draw_cycle(trial.subjects[draw.index], variant, draw.generator)
        return cycle_loss(model, cycle, settings=settings, generator=draw.generator, extra=extra)

    def print_epoch(record: EpochRecord) -> None:
        print(f"  epoch {record.epoch + 1}: loss {record.loss['loss']:.4f} ({record.seconds:.0f} s)", flush=True)

    identity = {"trial": json.dumps([asdict(variant), trial.seed, asdict(trial.budget)], sort_keys=True)}
    monitor = TrainingMonitor(
        trial.state, resume=True, on_batch=lambda done, of: None, on_epoch=print_epoch, identity=identity
    )
    run_training(
        model, TrainingTask(len(trial.subjects), 1, loss, lambda _: {}), schedule=settings.schedule, monitor=monitor
    )
    trial.state.unlink(missing_ok=True)
    return model


# ── evaluation ─────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def evaluate_subject(model: CardioMorphNet, heart: SweepSubject, sizes: MotionSizes) -> dict[str, float]:
    """Compute the metrics of the reference ED mask warped to ES by the posterior's mean, at 1.5 mm."""
    inner = slice((KEPT_VOXELS - INPUT_VOXELS) // 2, (KEPT_VOXELS + INPUT_VOXELS) // 2)
    fine = slice(2 * inner.start, 2 * inner.stop)
    frames = network_inputs(heart.voxels[..., inner, inner], heart.probabilities[..., inner, inner], sizes)
    ed, es = heart.masks[..., fine, fine]
    stacks = Stacks((len(ed),))
    (displacement,) = model.upsample_displacements(next(iterate_cycle(model, frames, stacks, None)).displacement)
    displacement = upsample_displacement(displacement, factor=2)
    warped = stacks.slices([warp(stacks.volumes(ed)[0], displacement)])
    folds = jacobian_determinant(from_voxels(displacement[0], heart.spacing, fixed=1, moving=0)) <= 0
    dice = dice_metrics(warped, es, phase="ed2es") | dice_metrics(ed, es, phase="no_motion")
    return dice | surface_metrics(warped, es, heart.spacing, phase="ed2es") | {"folded_voxels": float(folds.sum())}


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SweepLog:
    """The file of finished trainings, one line of JSON per training."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def open(path: Path) -> "SweepLog":
        """Read the file; empty where there is none."""
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return SweepLog(path, [json.loads(line) for line in text.splitlines()])

    def has(self, variant: Variant, seed: int, budget: Budget) -> bool:
        """Return whether a training is finished."""
        key = (variant.name, seed, asdict(budget))
        return any((line["variant"], line["seed"], line["budget"]) == key for line in self.lines)

    def add(self, line: dict[str, Any]) -> None:
        """Append the metrics of one more training."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def sweep(acdc: Path, work: Path, *, seeds: Iterable[int], budget: Budget) -> SweepLog:
    """Train all missing variants."""
    work.mkdir(parents=True, exist_ok=True)
    sweep_log = SweepLog.open(work / "sweep.jsonl")
    missing = [(variant, seed) for seed in seeds for variant in VARIANTS if not sweep_log.has(variant, seed, budget)]
    if not missing:
        return sweep_log
    training, validation = load_subjects(
        acdc, load_checkpoint(find_weights("default")).segnet, training=budget.training
    )
    intensity_weight = equal_intensity_weight(training, budget.settings(BASELINE, 0))
    for variant, seed in missing:
        print(f"{variant.name}, seed {seed}", flush=True)
        began = time.process_time()
        model = train(Trial(variant, seed, budget, training, intensity_weight, work / "state.safetensors"))
        trained_s = time.process_time() - began
        subjects = {heart.subject: evaluate_subject(model, heart, variant.sizes) for heart in validation}
        line = {"variant": variant.name, "seed": seed, "budget": asdict(budget), "intensity_weight": intensity_weight}
        sweep_log.add(line | {"cpu_seconds": round(trained_s, 1), "subjects": subjects})
    return sweep_log


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the missing variants, then write the page."""
    root = Path(__file__).parents[1]
    beside = root.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--work", type=Path, default=Path("cmnet-sweep"), help="folder of metrics and training states")
    parser.add_argument("--page", type=Path, default=root / "docs" / "validation.md")
    parser.add_argument("--page-only", action="store_true", help="write the page without training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=Budget().epochs)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    budget = Budget(epochs=given.epochs)
    if given.page_only:
        sweep_log = SweepLog.open(given.work / "sweep.jsonl")
    else:
        sweep_log = sweep(given.data / "acdc", given.work, seeds=range(1, given.seeds + 1), budget=budget)
    missing = [variant.name for variant in VARIANTS if not sweep_log.has(variant, 1, budget)]
    write_page(given.page, [line for line in sweep_log.lines if line["budget"] == asdict(budget)], missing)


if __name__ == "__main__":
    main()
