"""The training of the learned methods that cmnet is compared with: one loop, with the loss of each method's article.

All methods are given the same sequences of frames with the same augmentation. A sequence begins at ED or at ES, so that
both directions are trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.imaging import augmentation
from cmnet_core.imaging.appearance import AppearanceRanges, vary_appearance
from cmnet_core.imaging.augmentation import AugmentationRanges, View
from cmnet_core.models.baselines.build import build_baseline
from cmnet_core.models.baselines.interface import Baseline, FrameSequence
from cmnet_core.registration.displacement import volume_change, warp
from cmnet_core.training.loop import (
    Schedule,
    TrainingMonitor,
    TrainingSample,
    TrainingTask,
    bfloat16_autocast,
    mean_metrics,
    run_training,
)
from cmnet_core.training.motion_stage import draw_cycle_frames
from cmnet_core.training.training_case import (
    CLASSES,
    STRUCTURES,
    TrainingCase,
    dice_metrics,
    drop_end_slices,
)
from cmnet_core.types import Spacing

METRICS = ("dice_pct", *(f"dice_{phase}_pct" for phase in ("ed2es", "es2ed")), "folded_voxels")
"""The metrics that can be monitored in this stage."""


@dataclass(frozen=True, slots=True)
class BaselineTraining:
    """Settings of the training of a method that cmnet is compared with.

    Attributes:
        schedule: Duration and learning rate.
        views_per_epoch: Number of sequences of each case in an epoch.
        frames: Largest number of frames that are drawn from a cine: ED, ES, and equally many between them in systole
            and in diastole.
        window: In-plane size (y, x) of the sequences in voxels; multiples of 16.
        validation_window: The same of the images on which the method is validated, and which it is made for.
        spacing_mm: In-plane voxel spacing of the network's input, in mm.
        augmentation: Ranges of the spatial augmentation.
        appearance: Ranges of the appearance augmentation.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(6, 2e-3, 1e-5, seed=1, ema_decay=0.995))
    views_per_epoch: int = 2
    frames: int = 4
    window: tuple[int, int] = (96, 96)
    validation_window: tuple[int, int] = (128, 128)
    spacing_mm: float = 1.5
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))
    appearance: AppearanceRanges = field(default_factory=AppearanceRanges)


def train_baseline(
    method: str,
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    settings: BaselineTraining,
    monitor: TrainingMonitor,
) -> Baseline:
    """Train a method on sequences of the cases' frames, one sequence per step of the optimiser.

    Args:
        method: A key of :data:`cmnet_core.models.baselines.build.BASELINES`.
        cases: Cases to train on.
        validation: Cases to validate on.
        settings: Settings of the training.
        monitor: Device, state file and callbacks.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    model = build_baseline(method)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        (sample,) = batch
        sequence = draw_sequence(cases[sample.index % len(cases)], settings, sample.generator, device=monitor.device)
        with bfloat16_autocast(monitor.device):
            return model.loss(sequence, sample.generator)

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, Baseline)
        return validate_baseline(average, validation, settings=settings, device=monitor.device)

    task = TrainingTask(len(cases) * settings.views_per_epoch, 1, loss, validate)
    run_training(model, task, schedule=settings.schedule, monitor=monitor)
    return model


def draw_sequence(
    case: TrainingCase, settings: BaselineTraining, generator: torch.Generator, *, device: torch.device
) -> FrameSequence:
    """Draw an augmented sequence of frames that begins at ED or at ES."""
    frames = draw_cycle_frames(len(case.voxels), ed=case.ed, es=case.es, count=settings.frames, generator=generator)
    start = frames.index(case.es) if float(torch.rand((), generator=generator)) < 0.5 else 0
    frames = frames[start:] + frames[:start]
    depth = int(case.voxels.shape[1])
    view = augmentation.draw_view(case.centre, depth, settings.augmentation, generator)
    keep = drop_end_slices(depth, settings.augmentation.missing_slice_probability, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)[:, keep]
    voxels = vary_appearance(voxels, settings.appearance, generator)
    labelled = [number for number, frame in enumerate(frames) if frame in case.labelled]
    masks = _view_masks(case, [frames[number] for number in labelled], view, settings.window)[:, keep].to(device)
    scale = float(torch.linalg.det(view.matrix).abs().sqrt())
    spacing = Spacing(case.spacing.z, case.spacing.y * scale, case.spacing.x * scale)
    return FrameSequence(voxels.to(device), dict(zip(labelled, masks, strict=True)), spacing)


def _view_masks(
    case: TrainingCase, frames: Sequence[int], view: View, window: tuple[int, int]
) -> Float[Tensor, "n z k y x"]:
    """Resample reference masks to a view; only the box around the heart is read, which is several times as fast."""
    maps = torch.stack([case.mask(frame) for frame in frames])
    heart = (maps > 0).flatten(0, 1).any(0)
    box, corner = [], []
    for axis in range(2):
        found = heart.any(1 - axis).nonzero()
        # With a margin, at which the classes are interpolated between heart and background.
        first = max(int(found[0]) - 1, 0)
        box.append(slice(first, int(found[-1]) + 2))
        corner.append(float(first))
    view = View(view.matrix, view.centre - torch.tensor(corner), view.reverse_slices)
    return augmentation.view_labels(maps[:, :, box[0], box[1]], view, window, classes=CLASSES)


@torch.no_grad()
def validate_baseline(
    model: Baseline, cases: Sequence[TrainingCase], *, settings: BaselineTraining, device: torch.device
) -> dict[str, float]:
    """Compute the mean metrics of the motion between ED and ES over the cases.

    They are Dice in % of the reference mask of ED warped to ES and of that of ES warped to ED, the mean of both, Dice
    of the masks without motion, and the number of folded voxels of both fields.
    """
    return mean_metrics([_case_metrics(model, case, settings, device) for case in cases])


def _case_metrics(
    model: Baseline, case: TrainingCase, settings: BaselineTraining, device: torch.device
) -> dict[str, float]:
    view = augmentation.straight_view(case.centre, int(case.voxels.shape[1]))
    pair = (case.ed, case.es)
    voxels = augmentation.view_image(case.voxels[list(pair)], view, settings.validation_window).to(device)
    masks = _view_masks(case, pair, view, settings.validation_window)
    metrics = {**dice_metrics(masks[0], masks[1], phase="no_motion"), "folded_voxels": 0.0}
    for phase, order in (("ed2es", [0, 1]), ("es2ed", [1, 0])):
        with bfloat16_autocast(device):
            displacement = model(voxels[order]).displacements.float().cpu()
        moving, fixed = masks[order]
        warped = warp(moving.movedim(0, 1)[None], displacement)[0].movedim(1, 0)
        metrics |= dice_metrics(warped, fixed, phase=phase)
        metrics["folded_voxels"] += float((volume_change(displacement) <= 0).sum())
    for label in STRUCTURES:
        name = label.name.lower()
        both = [metrics.get(f"dice_{name}_{phase}_pct") for phase in ("ed2es", "es2ed")]
        if None not in both:
            metrics[f"dice_{name}_pct"] = sum(value for value in both if value is not None) / 2
    return metrics | {"dice_pct": (metrics["dice_ed2es_pct"] + metrics["dice_es2ed_pct"]) / 2}
