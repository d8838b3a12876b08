"""Small cases and settings for tests of training."""

from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from cmnet_core.imaging.appearance import NO_VARIATION
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.build import SegNetSizes
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.training.loop import (
    EpochRecord,
    Schedule,
    TrainingMonitor,
)
from cmnet_core.training.motion_settings import LossWeights, MotionTraining
from cmnet_core.training.segmentation_case import SegmentationCase
from cmnet_core.training.segnet_stage import SegNetTraining
from cmnet_core.training.training_case import TrainingCase
from cmnet_core.types import Spacing

NO_AUGMENTATION = AugmentationRanges(*(0.0,) * len(fields(AugmentationRanges)))


SMALL_SEGNET = SegNetSizes(widths=(8, 16, 16, 16), depths=(1, 1, 1, 1))


SMALL_MOTION = MotionSizes(
    features=(4, 8, 8, 8),
    hidden=(8, 8),
    decoder=(8, 8, 8, 4),
    deform=(8, 16, 16, 16, 16),
    output_level=1,
    integration_steps=4,
)


def ring(*, cavity: float, wall: float, size: int) -> Tensor:
    """Return the labels of a slice with a round left ventricle, and a block beside it as the right ventricle."""
    y, x = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2,) * 2, indexing="ij")
    radius = torch.hypot(y, x)
    labels = torch.where(radius < cavity + wall, 2, 0)
    labels = torch.where(radius < cavity, 1, labels)
    return torch.where((labels == 0) & (y.abs() < 8) & (x > 0) & (x < cavity + wall + 8), 3, labels).to(torch.uint8)


def beating_case(*, cavities: tuple[float, ...], size: int = 64) -> TrainingCase:
    """Return a case whose cavity has a given radius in each frame, with bright blood and a dark wall."""
    labels = torch.stack([ring(cavity=cavity, wall=5.0, size=size) for cavity in cavities])
    brightness = torch.tensor([0.3, 0.9, 0.1, 0.8])[labels.long()]
    depth = (1, 3, 1, 1)
    es = cavities.index(min(cavities))
    return TrainingCase(
        brightness[:, None].repeat(depth),
        labels[:, None].repeat(depth),
        tuple(range(len(cavities))),
        Spacing(8.0, 1.5, 1.5),
        ed=0,
        es=es,
        centre=((size - 1) / 2, (size - 1) / 2),
    )


def beating_segmentation_case(*, cavities: tuple[float, ...], collection: str = "") -> SegmentationCase:
    """Return the frames of :func:`beating_case` with their masks as targets."""
    case = beating_case(cavities=cavities)
    targets = torch.nn.functional.one_hot(case.labels.long(), 4).movedim(-1, 1)[:, 1:]
    return SegmentationCase(collection, case.voxels.half(), targets.half(), case.centre)


def monitor(folder: Path, records: list[EpochRecord], *, resume: bool = False) -> TrainingMonitor:
    return TrainingMonitor(folder / "state.safetensors", resume, lambda done, of: None, records.append)


def motion_settings(epochs: int, *, weights: LossWeights | None = None) -> MotionTraining:
    return MotionTraining(
        schedule=Schedule(epochs, 3e-3, 0.0, seed=3),
        window=(64, 64),
        weights=weights or LossWeights(),
        sizes=SMALL_MOTION,
        augmentation=NO_AUGMENTATION,
        appearance=NO_VARIATION,
    )


def segnet_settings(epochs: int) -> SegNetTraining:
    return SegNetTraining(
        schedule=Schedule(epochs, 1e-2, 0.0, seed=3),
        random_crop_probability=0.0,
        window=(64, 64),
        sizes=SMALL_SEGNET,
        augmentation=NO_AUGMENTATION,
        appearance=NO_VARIATION,
    )


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0)[None].float()
