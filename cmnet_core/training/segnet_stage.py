"""The first training stage: SegNet is trained on the reference masks at ED and ES."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.imaging import augmentation
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models import losses
from cmnet_core.models.build import DEFAULT_SEGNET, SegNetSizes, build_segnet
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
class SegNetTraining:
    """Settings of the first stage.

    Attributes:
        schedule: Duration and learning rate.
        stacks_per_batch: Number of stacks per step of the optimiser.
        random_crop_probability: Probability that a view is centred anywhere in the image instead of near the heart.
        window: In-plane size (y, x) of a view, in voxels.
        spacing_mm: In-plane voxel spacing of a view, in mm.
        sizes: Sizes of the network.
        augmentation: Ranges of the augmentation.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(60, 2e-3, 1e-4, seed=1))
    stacks_per_batch: int = 2
    random_crop_probability: float = 0.15
    window: tuple[int, int] = (128, 128)
    spacing_mm: float = 1.5
    sizes: SegNetSizes = DEFAULT_SEGNET
    augmentation: AugmentationRanges = field(default_factory=AugmentationRanges)


def train_segnet(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    settings: SegNetTraining,
    monitor: TrainingMonitor,
    start: SegNet | None,
) -> SegNet:
    """Train SegNet on the ED and ES frames of the cases.

    Args:
        cases: Cases to train on.
        validation: Cases to validate on.
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The model to start from; None starts from random weights.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    model = start or build_segnet(settings.sizes)
    stacks = [(case, frame) for case in cases for frame in (case.ed, case.es)]

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        views = [_draw_view(*stacks[sample.index], settings, sample.generator) for sample in batch]
        return {"loss": _loss(model, views, monitor.device)}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, SegNet)
        return validate_segnet(average, validation, window=settings.window)

    task = TrainingTask(len(stacks), settings.stacks_per_batch, loss, validate)
    run_training(model, task, schedule=settings.schedule, monitor=monitor)
    return model


def _draw_view(
    case: TrainingCase, frame: int, settings: SegNetTraining, generator: torch.Generator
) -> tuple[Float[Tensor, "z 1 y x"], Float[Tensor, "z k y x"]]:
    """Draw an augmented view of a frame; return its image and its one-hot mask."""
    centre = case.centre
    if float(torch.rand((), generator=generator)) < settings.random_crop_probability:
        y, x = torch.rand(2, generator=generator).tolist()
        centre = (y * case.voxels.shape[2], x * case.voxels.shape[3])
    view = augmentation.draw_view(centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    image = augmentation.view_image(case.voxels[frame : frame + 1], view, settings.window)
    image = augmentation.augment_intensity(image, settings.augmentation, generator)
    target = augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES)
    keep = drop_end_slices(int(image.shape[1]), settings.augmentation.missing_slice_probability, generator)
    return image[0, keep, None], target[0, keep]


def _loss(model: SegNet, views: list[tuple[Tensor, Tensor]], device: torch.device) -> Tensor:
    image = torch.cat([view[0] for view in views]).to(device).contiguous(memory_format=torch.channels_last)
    target = torch.cat([view[1] for view in views]).to(device)
    with bfloat16_autocast(image.device):
        each = model.member_logits(image, Stacks(tuple(len(view[0]) for view in views)))
    return torch.stack([losses.segmentation_loss(logits.float(), target) for logits in each]).mean()


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
