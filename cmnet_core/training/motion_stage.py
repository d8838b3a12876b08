"""The second training stage: CardioMorphNet is trained on segmentations, with a frozen SegNet."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cmnet_core.imaging import augmentation
from cmnet_core.imaging.appearance import vary_appearance
from cmnet_core.imaging.augmentation import View
from cmnet_core.labels import Label
from cmnet_core.models.build import build_motion
from cmnet_core.models.cardiomorphnet import CardioMorphNet, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.registration.displacement import from_voxels, jacobian_determinant, warp
from cmnet_core.training.cycle_loss import TrainingCycle, cycle_loss
from cmnet_core.training.loop import (
    TrainingMonitor,
    TrainingSample,
    TrainingTask,
    bfloat16_autocast,
    mean_metrics,
    run_training,
)
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.training.training_case import (
    CLASSES,
    TrainingCase,
    dice_metrics,
    drop_end_slices,
    metric_names,
    surface_metrics,
)
from cmnet_core.types import Spacing

METRICS = (*metric_names("ed2es"), "folded_voxels")
"""The metrics that can be monitored in this stage."""


def train_motion(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    segnet: SegNet,
    settings: MotionTraining,
    monitor: TrainingMonitor,
    start: CardioMorphNet | None,
) -> CardioMorphNet:
    """Train CardioMorphNet on cycles of the cases.

    Args:
        cases: Cases to train on.
        validation: Cases to validate on.
        segnet: The trained SegNet.
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The model to start from; None starts from random weights.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    model = start or build_motion(settings.sizes)
    segnet.to(monitor.device)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        cycles = []
        for sample in batch:
            cycle = _draw_cycle(cases[sample.index], segnet, settings, sample.generator)
            generator = _generator_on(monitor.device, sample.generator)
            cycles.append(cycle_loss(model, cycle, settings=settings, generator=generator))
        return {name: torch.stack([terms[name] for terms in cycles]).mean() for name in cycles[0]}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, CardioMorphNet)
        return validate_motion(average, validation, settings=settings)

    task = TrainingTask(len(cases), settings.cycles_per_step, loss, validate)
    run_training(model, task, schedule=settings.schedule, monitor=monitor)
    segnet.cpu()
    return model


def _generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator on a device; on the CPU it is the given one."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def draw_cycle_frames(frames: int, *, ed: int, es: int, count: int, generator: torch.Generator) -> list[int]:
    """Draw frames of a cycle in their order: ED, some of systole, ES, and some of diastole.

    Args:
        frames: Number of frames of the cine.
        ed: End-diastolic frame.
        es: End-systolic frame.
        count: Number of frames to draw, where the cine has enough; no frame is drawn twice.
        generator: Draws the frames.
    """
    systole = [(ed + step) % frames for step in range(1, (es - ed) % frames)]
    diastole = [(es + step) % frames for step in range(1, (ed - es) % frames)]
    number = count // 2 - 1
    return [ed, *_random_subset(systole, number, generator), es, *_random_subset(diastole, number, generator)]


def _random_subset(frames: list[int], count: int, generator: torch.Generator) -> list[int]:
    chosen = torch.randperm(len(frames), generator=generator)[: max(count, 0)]
    return [frames[index] for index in sorted(chosen.tolist())]


def _draw_cycle(
    case: TrainingCase, segnet: SegNet, settings: MotionTraining, generator: torch.Generator
) -> TrainingCycle:
    frames = draw_cycle_frames(len(case.voxels), ed=case.ed, es=case.es, count=settings.frames, generator=generator)
    view = augmentation.draw_view(case.centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)
    voxels = vary_appearance(voxels, settings.appearance, generator).to(_device_of(segnet))
    predicted = segment_frames(segnet, voxels)
    segmentations = _targets(case, frames, predicted, view)
    keep = drop_end_slices(int(voxels.shape[1]), settings.augmentation.missing_slice_probability, generator)
    return TrainingCycle(
        list(voxels[:, keep, None]),
        [segmentation[keep] for segmentation in segmentations],
        _view_spacing(case.spacing, view),
    )


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _view_spacing(spacing: Spacing, view: View) -> Spacing:
    """Return the voxel spacing of a view, which is larger where the view shrinks the heart."""
    scale = float(torch.linalg.det(view.matrix).abs().sqrt())
    return Spacing(spacing.z, spacing.y * scale, spacing.x * scale)


def segment_frames(segnet: SegNet, voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t z k y x"]:
    """Return SegNet's class probabilities of frames, computed in bfloat16 where that is fast."""
    with bfloat16_autocast(voxels.device):
        return class_probabilities(segnet, voxels, frames_at_once=len(voxels))


def _targets(
    case: TrainingCase, frames: list[int], predicted: Float[Tensor, "t z k y x"], view: View
) -> list[Float[Tensor, "z k y x"]]:
    """Return the reference mask of each frame that has one, otherwise SegNet's probabilities."""
    size = (int(predicted.shape[3]), int(predicted.shape[4]))
    return [
        augmentation.view_labels(case.mask(frame)[None], view, size, classes=CLASSES)[0].to(predicted.device)
        if frame in case.labelled
        else probabilities
        for frame, probabilities in zip(frames, predicted, strict=True)
    ]


@torch.no_grad()
def validate_motion(
    model: CardioMorphNet, cases: Sequence[TrainingCase], *, settings: MotionTraining
) -> dict[str, float]:
    """Compute the mean metrics of the motion from ED to ES over the cases.

    They are Dice in % and HD95 in mm of the reference ED mask warped to ES, Dice of the ED mask without motion, the
    number of folded voxels and, over the cases whose motion is known, the endpoint error in mm.
    """
    return mean_metrics([_case_metrics(model, case, settings) for case in cases])


def _case_metrics(model: CardioMorphNet, case: TrainingCase, settings: MotionTraining) -> dict[str, float]:
    view = augmentation.straight_view(case.centre, int(case.voxels.shape[1]))
    voxels = augmentation.view_image(case.voxels[[case.ed, case.es]], view, settings.window).to(_device_of(model))
    ed, es = (
        augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES)[0]
        for frame in (case.ed, case.es)
    )
    stacks = Stacks((len(ed),))
    step = next(iterate_cycle(model, list(voxels[:, :, None]), stacks, None))
    (displacement,) = model.displacements(step.sample.cpu(), stacks)
    warped = stacks.slices([warp(stacks.volumes(ed)[0], displacement)])
    field = from_voxels(displacement[0], case.spacing, fixed=1, moving=0)
    metrics = {"folded_voxels": float((jacobian_determinant(field) <= 0).sum())}
    if case.motion is not None:
        known = augmentation.view_motion(case.motion[[case.es]], view, settings.window)
        metrics |= _endpoint_errors(displacement - known, es[:, Label.MYO] > 0.5, case.spacing)
    return (
        surface_metrics(warped, es, case.spacing, phase="ed2es")
        | dice_metrics(warped, es, phase="ed2es")
        | dice_metrics(ed, es, phase="no_motion")
        | metrics
    )


def _endpoint_errors(
    error: Float[Tensor, "1 3 z y x"], myocardium: Bool[Tensor, "z y x"], spacing: Spacing
) -> dict[str, float]:
    """Return the mean in-plane and through-plane endpoint error in the myocardium, in mm."""
    z, y, x = (error[0] * torch.tensor(spacing.zyx).view(3, 1, 1, 1))[:, myocardium]
    return {
        "endpoint_in_plane_mm": float(torch.hypot(y, x).mean()),
        "endpoint_through_plane_mm": float(z.abs().mean()),
    }
