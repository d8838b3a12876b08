"""The second training stage: CardioMorphNet is trained on segmentations and known motion, with a frozen SegNet."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.imaging import augmentation
from cmnet_core.imaging.augmentation import View
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes, build_motion, frame_channels
from cmnet_core.models.cardiomorphnet import CardioMorphNet, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.registration.displacement import from_voxels, jacobian_determinant, warp
from cmnet_core.training.cycle_loss import TrainingCycle, cycle_loss, rotation_loss
from cmnet_core.training.loop import (
    TrainingMonitor,
    TrainingSample,
    TrainingTask,
    bfloat16_autocast,
    mean_metrics,
    run_training,
)
from cmnet_core.training.motion_settings import MotionTraining, Trainable
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
        ManifestError: RotationNet is to be trained but does not exist, or no case has known motion.
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    model = start or build_motion(settings.sizes)
    _set_trainable(model, settings.trainable)
    cases = _usable_cases(cases, settings)
    segnet.to(monitor.device)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        cycles = [_sample_loss(model, segnet, cases[sample.index], settings, sample.generator) for sample in batch]
        return {name: torch.stack([terms[name] for terms in cycles]).mean() for name in cycles[0]}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, CardioMorphNet)
        return validate_motion(average, validation, segnet=segnet, settings=settings)

    task = TrainingTask(len(cases), settings.cycles_per_step, loss, validate)
    run_training(model, task, schedule=settings.schedule, monitor=monitor)
    segnet.cpu()
    _set_trainable(model, Trainable.ALL)
    return model


def _set_trainable(model: CardioMorphNet, trainable: Trainable) -> None:
    model.requires_grad_(trainable == Trainable.ALL)
    chosen: dict[Trainable, list[nn.Module | None]] = {
        Trainable.ALL: [],
        Trainable.ROTATION: [model.rotation_net],
        Trainable.POSTERIOR_VARIANCE: [model.deform_net.log_variance, model.deform_net.factor],
    }
    for network in chosen[trainable]:
        if network is not None:
            network.requires_grad_(True)


def _usable_cases(cases: Sequence[TrainingCase], settings: MotionTraining) -> Sequence[TrainingCase]:
    """Return the cases that the trained weights can be trained on."""
    if settings.trainable != Trainable.ROTATION:
        return cases
    known = [case for case in cases if case.motion is not None]
    if not settings.sizes.rotation or not known:
        missing = "sizes.rotation is false" if known else "no case's motion is known"
        raise ManifestError(
            f"RotationNet cannot be trained: {missing}.",
            hint="Add simulated cines (cmnet phantom --from) and set sizes.rotation, or set trainable to 'all'.",
            code=ErrorCode.TRAINING_CASES,
        )
    return known


def _sample_loss(
    model: CardioMorphNet, segnet: SegNet, case: TrainingCase, settings: MotionTraining, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the loss terms of one random cycle of a case."""
    cycle = _draw_cycle(case, segnet, settings, generator)
    if settings.trainable == Trainable.ROTATION:
        return rotation_loss(model, cycle)
    return cycle_loss(model, cycle, settings=settings, generator=_generator_on(cycle.frames[0].device, generator))


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


def repeat_frame(frames: list[int], *, probability: float, generator: torch.Generator) -> list[int]:
    """Repeat one frame with some probability; its two images differ only in their noise and show no motion.

    In long cines the motion from frame to frame is small. A network that was trained on large motion only would
    accumulate drift over them.
    """
    if float(torch.rand((), generator=generator)) >= probability:
        return frames
    at = int(torch.randint(0, len(frames), (), generator=generator))
    return [*frames[: at + 1], *frames[at:]]


def _random_subset(frames: list[int], count: int, generator: torch.Generator) -> list[int]:
    chosen = torch.randperm(len(frames), generator=generator)[: max(count, 0)]
    return [frames[index] for index in sorted(chosen.tolist())]


def _draw_cycle(
    case: TrainingCase, segnet: SegNet, settings: MotionTraining, generator: torch.Generator
) -> TrainingCycle:
    frames = draw_cycle_frames(len(case.voxels), ed=case.ed, es=case.es, count=settings.frames, generator=generator)
    frames = repeat_frame(frames, probability=settings.repeat_frame_probability, generator=generator)
    view = augmentation.draw_view(case.centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)
    voxels = augmentation.augment_intensity(voxels, settings.augmentation, generator).to(_device_of(segnet))
    predicted = segment_frames(segnet, voxels)
    segmentations = _targets(case, frames, predicted, view)
    keep = drop_end_slices(int(voxels.shape[1]), settings.augmentation.missing_slice_probability, generator)
    motion = None
    if case.motion is not None:
        motion = [field[:, keep] for field in augmentation.view_motion(case.motion[frames], view, settings.window)]
    return TrainingCycle(
        network_inputs(voxels[:, keep], predicted[:, keep], settings.sizes),
        [segmentation[keep] for segmentation in segmentations],
        motion,
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


def network_inputs(
    voxels: Float[Tensor, "t z y x"], probabilities: Float[Tensor, "t z k y x"], sizes: MotionSizes
) -> list[Tensor]:
    """Return frames as CardioMorphNet takes them: images and, with ``use_segmentation``, probabilities.

    Args:
        voxels: Normalised intensities.
        probabilities: SegNet's class probabilities, background first.
        sizes: Sizes of the network.
    """
    inputs = torch.cat([voxels[:, :, None], probabilities[:, :, 1:]], dim=2)[:, :, : frame_channels(sizes)]
    return [frame.contiguous(memory_format=torch.channels_last) for frame in inputs]


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
    model: CardioMorphNet, cases: Sequence[TrainingCase], *, segnet: SegNet, settings: MotionTraining
) -> dict[str, float]:
    """Compute the mean metrics of the motion from ED to ES over the cases.

    They are Dice in % and HD95 in mm of the reference ED mask warped to ES, Dice of the ED mask without motion, the
    number of folded voxels and, over the cases whose motion is known, the endpoint error in mm.
    """
    return mean_metrics([_case_metrics(model, case, segnet, settings) for case in cases])


def _case_metrics(
    model: CardioMorphNet, case: TrainingCase, segnet: SegNet, settings: MotionTraining
) -> dict[str, float]:
    view = augmentation.straight_view(case.centre, int(case.voxels.shape[1]))
    voxels = augmentation.view_image(case.voxels[[case.ed, case.es]], view, settings.window).to(_device_of(segnet))
    frames = network_inputs(voxels, segment_frames(segnet, voxels), settings.sizes)
    ed, es = (
        augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES)[0]
        for frame in (case.ed, case.es)
    )
    stacks = Stacks((len(ed),))
    cycle_step = next(iterate_cycle(model, frames, stacks, None))
    (displacement,) = model.upsample_displacements([cycle_step.displacement[0].cpu()])
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
