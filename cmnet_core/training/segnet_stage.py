"""The first training stage: SegNet is trained on reference masks and, by distillation, on a teacher's probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.imaging import augmentation
from cmnet_core.imaging.appearance import AppearanceRanges, vary_appearance
from cmnet_core.imaging.augmentation import AugmentationRanges, View
from cmnet_core.models import losses
from cmnet_core.models.build import SegNetSizes, build_segnet
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.training.loop import (
    Schedule,
    TrainingMonitor,
    TrainingSample,
    TrainingTask,
    bfloat16_autocast,
    mean_metrics,
    run_training,
)
from cmnet_core.training.segmentation_case import ReferenceMasks, SegmentationCase
from cmnet_core.training.training_case import (
    CLASSES,
    TrainingCase,
    dice_metrics,
    drop_end_slices,
    metric_names,
    surface_metrics,
)

METRICS = (*metric_names("ed"), *metric_names("es"), "dice_pct")
"""The metrics that can be monitored in this stage."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection of subjects that supplements the main one.

    Attributes:
        name: Its name in the column ``collection`` of the manifest.
        fraction: Fraction of this collection among all draws from supplementary collections; the fractions are relative
            to their sum.
        masks: ``complete`` takes its reference masks as targets; ``pools`` the teacher's probabilities, corrected by
            the blood pools that were drawn; ``none`` the teacher's probabilities of every frame.
    """

    name: str
    fraction: float
    masks: ReferenceMasks = ReferenceMasks.COMPLETE


@dataclass(frozen=True, slots=True)
class SegNetTraining:
    """Settings of the first stage.

    Attributes:
        schedule: Duration and learning rate.
        stacks_per_batch: Number of stacks per step of the optimiser.
        teacher_weight: Weight of the teacher's probabilities against the reference mask where both exist.
        supplement_fraction: Fraction of the draws of an epoch that are from supplementary collections. An epoch
            consists of every labelled frame of the main collection once, and of these draws.
        frozen_norm_fraction: Fraction of the epochs, at the end, in which BatchNorm uses its running statistics and
            leaves them as they are, as in inference. Before, the few stacks of a batch are normalised by their own
            statistics, which conceals their appearance from the network.
        unaugmented_probability: Probability that a view is only shifted and loses slices, and keeps its orientation,
            scale and intensities. With augmented views alone, unaugmented images are at the margin of what the network
            has been trained on, and its volumes of them are biased.
        random_crop_probability: Probability that a view is centred anywhere in the image instead of near the heart.
        window: In-plane size (y, x) of a view, in voxels.
        spacing_mm: In-plane voxel spacing of a view, in mm.
        sizes: Sizes of the network.
        collections: Supplementary collections; subjects of all others belong to the main one.
        augmentation: Ranges of the spatial augmentation.
        appearance: Ranges of the appearance augmentation.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(60, 3e-3, 1e-2, seed=1))
    stacks_per_batch: int = 2
    teacher_weight: float = 0.5
    supplement_fraction: float = 0.25
    frozen_norm_fraction: float = 0.4
    unaugmented_probability: float = 0.0
    random_crop_probability: float = 0.06
    window: tuple[int, int] = (128, 128)
    spacing_mm: float = 1.5
    sizes: SegNetSizes = field(default_factory=SegNetSizes)
    collections: tuple[Collection, ...] = ()
    augmentation: AugmentationRanges = field(
        default_factory=lambda: AugmentationRanges(
            rotation_deg=30.0,
            random_orientation_probability=0.2,
            scale=0.18,
            shear=0.06,
            shift_voxels=12.0,
            slice_shift_voxels=1.5,
            breath_hold_probability=0.2,
            missing_slice_probability=0.2,
        )
    )
    appearance: AppearanceRanges = field(default_factory=AppearanceRanges)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationView:
    """An augmented view of one frame: its image, and the probability of every class."""

    image: Float[Tensor, "z 1 y x"]
    target: Float[Tensor, "z k y x"]


def train_segnet(
    cases: Sequence[SegmentationCase],
    validation: Sequence[TrainingCase],
    *,
    settings: SegNetTraining,
    monitor: TrainingMonitor,
    start: SegNet | None,
) -> SegNet:
    """Train SegNet on the frames of the cases.

    Args:
        cases: Cases to train on, of the main collection and of the supplementary ones.
        validation: Cases to validate on.
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The model to start from; None starts from random weights.

    Raises:
        ManifestError: A supplementary collection has no cases.
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    model = start or build_segnet(settings.sizes)
    sampler = FrameSampler(cases, settings)
    frozen_from = settings.schedule.epochs - round(settings.frozen_norm_fraction * settings.schedule.epochs)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        if batch[0].epoch >= frozen_from:
            freeze_norms(model)
        views = [draw_segmentation_view(*sampler.draw(sample), settings, sample.generator) for sample in batch]
        return {"loss": views_loss(model, views, monitor.device)}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, SegNet)
        return validate_segnet(average, validation, window=settings.window)

    task = TrainingTask(sampler.size, settings.stacks_per_batch, loss, validate)
    run_training(model, task, schedule=settings.schedule, monitor=monitor)
    return model


class FrameSampler:
    """Selects the frames of an epoch: every frame of the main collection once, and random ones of the others.

    Args:
        cases: Cases of all collections.
        settings: Collections, and the fraction of draws from the supplementary ones.

    Raises:
        ManifestError: A supplementary collection has no cases.
    """

    def __init__(self, cases: Sequence[SegmentationCase], settings: SegNetTraining) -> None:
        frames = [(case, frame) for case in cases for frame in range(len(case.voxels))]
        names = [collection.name for collection in settings.collections]
        self._main = [item for item in frames if item[0].collection not in names]
        self._supplements = [[item for item in frames if item[0].collection == name] for name in names]
        for name, items in zip(names, self._supplements, strict=True):
            if not items:
                raise missing_collection(name)
        self._fractions = torch.tensor([collection.fraction for collection in settings.collections])
        fraction = settings.supplement_fraction if names else 0.0
        self.size = len(self._main) + round(len(self._main) * fraction / (1.0 - fraction))

    def draw(self, sample: TrainingSample) -> tuple[SegmentationCase, int]:
        """Return the case and the frame of a sample."""
        if sample.index < len(self._main):
            return self._main[sample.index]
        items = self._supplements[int(torch.multinomial(self._fractions, 1, generator=sample.generator))]
        return items[int(torch.randint(len(items), (), generator=sample.generator))]


def missing_collection(name: str) -> ManifestError:
    """Return the error of a collection that the settings name and the manifest lacks."""
    return ManifestError(
        f"No usable subject of the manifest has '{name}' in the column collection, which segnet.collections names.",
        hint="Add its subjects to the manifest, or remove the collection from the settings.",
        code=ErrorCode.TRAINING_CASES,
    )


def freeze_norms(model: nn.Module) -> None:
    """Let BatchNorm use its running statistics and leave them as they are."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def draw_segmentation_view(
    case: SegmentationCase, frame: int, settings: SegNetTraining, generator: torch.Generator
) -> SegmentationView:
    """Draw an augmented view of a frame."""
    centre = case.centre
    if float(torch.rand((), generator=generator)) < settings.random_crop_probability:
        y, x = torch.rand(2, generator=generator).tolist()
        centre = (y * case.voxels.shape[2], x * case.voxels.shape[3])
    depth = int(case.voxels.shape[1])
    unaugmented = float(torch.rand((), generator=generator)) < settings.unaugmented_probability
    ranges = _only_shifted(settings.augmentation) if unaugmented else settings.augmentation
    view = augmentation.draw_view(centre, depth, ranges, generator)
    keep = drop_end_slices(depth, settings.augmentation.missing_slice_probability, generator)
    image = augmentation.view_image(case.voxels[frame : frame + 1].float(), view, settings.window)[:, keep]
    image = image if unaugmented else vary_appearance(image, settings.appearance, generator)
    corner = [case.centre[axis] - (case.targets.shape[3 + axis] - 1) / 2 for axis in range(2)]
    view_of_box = View(view.matrix, view.centre - torch.tensor(corner), view.reverse_slices)
    structures = augmentation.view_image(case.targets[frame].float(), view_of_box, settings.window)
    structures = structures[:, keep].movedim(0, 1)
    background = (1.0 - structures.sum(1, keepdim=True)).clamp(0.0, 1.0)
    return SegmentationView(image[0, :, None], torch.cat([background, structures], dim=1))


def _only_shifted(ranges: AugmentationRanges) -> AugmentationRanges:
    return AugmentationRanges(
        rotation_deg=0.0,
        random_orientation_probability=0.0,
        scale=0.0,
        shear=0.0,
        shift_voxels=ranges.shift_voxels,
        breath_hold_probability=0.0,
    )


def views_loss(model: SegNet, views: Sequence[SegmentationView], device: torch.device) -> Float[Tensor, ""]:
    """Compute the loss of views as one ragged batch, with convolutions in bfloat16 where that is fast."""
    image = torch.cat([view.image for view in views]).to(device)
    target = torch.cat([view.target for view in views]).to(device)
    with bfloat16_autocast(image.device):
        logits = model.logits(image, Stacks(tuple(len(view.image) for view in views)))
    return losses.segmentation_loss(logits.float(), target)


def validate_segnet(model: SegNet, cases: Sequence[TrainingCase], *, window: tuple[int, int]) -> dict[str, float]:
    """Compute the mean Dice in % and HD95 in mm of each structure at ED and ES, in a window centred on the heart."""
    return mean_metrics([_case_metrics(model, case, window) for case in cases])


def _case_metrics(model: SegNet, case: TrainingCase, window: tuple[int, int]) -> dict[str, float]:
    view = augmentation.straight_view(case.centre, int(case.voxels.shape[1]))
    device = next(model.parameters()).device
    metrics: dict[str, float] = {}
    for phase, frame in (("ed", case.ed), ("es", case.es)):
        image = augmentation.view_image(case.voxels[frame : frame + 1], view, window)
        target = augmentation.view_labels(case.mask(frame)[None], view, window, classes=CLASSES)[0]
        predicted = class_probabilities(model, image.to(device), frames_at_once=1)[0].cpu()
        metrics |= surface_metrics(predicted, target, case.spacing, phase=phase)
        metrics |= dice_metrics(predicted, target, phase=phase)
    return metrics | {"dice_pct": (metrics["dice_ed_pct"] + metrics["dice_es_pct"]) / 2}
