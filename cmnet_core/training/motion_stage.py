"""Stage 2: CardioMorphNet learns the motion that makes shapes fit, with SegNet frozen."""

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
from cmnet_core.training.cycle_loss import Cycle, cycle_loss, rotation_loss
from cmnet_core.training.loop import Draw, Stage, TrainingMonitor, fast_convolutions, mean_of_each, run
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
"""What can be watched while this stage trains."""


def train_motion(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    segnet: SegNet,
    settings: MotionTraining,
    watch: TrainingMonitor,
    start: CardioMorphNet | None,
) -> CardioMorphNet:
    """Train on whole cycles of the cases, from ``start`` or from random weights."""
    torch.manual_seed(settings.schedule.seed)
    model = start or build_motion(settings.sizes)
    _let_learn(model, settings.trainable)
    cases = _of_use(cases, settings)
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
    _let_learn(model, Trainable.ALL)
    return model


def _let_learn(model: CardioMorphNet, trainable: Trainable) -> None:
    model.requires_grad_(trainable == Trainable.ALL)
    chosen: dict[Trainable, list[nn.Module | None]] = {
        Trainable.ALL: [],
        Trainable.ROTATION: [model.rotation_net],
        Trainable.POSTERIOR_VARIANCE: [model.deform_net.log_variance, model.deform_net.factor],
    }
    for network in chosen[trainable]:
        if network is not None:
            network.requires_grad_(True)


def _of_use(cases: Sequence[TrainingCase], settings: MotionTraining) -> Sequence[TrainingCase]:
    """The cases that say something of what is to be learnt.

    Raises:
        ManifestError: There are none, or there is nothing to learn.
    """
    if settings.trainable != Trainable.ROTATION:
        return cases
    known = [case for case in cases if case.motion is not None]
    if not settings.sizes.rotation or not known:
        missing = "sizes.rotation is false" if known else "no case's motion is known"
        raise ManifestError(
            f"Rotation is to be learnt, but {missing}.",
            hint="Add made cines (cmnet phantom --from) and set sizes.rotation, or set trainable to 'all'.",
            code=ErrorCode.TRAINING_CASES,
        )
    return known


def _draw_loss(
    model: CardioMorphNet, segnet: SegNet, case: TrainingCase, settings: MotionTraining, generator: torch.Generator
) -> dict[str, Tensor]:
    """Terms of the loss of one cycle, drawn from a case."""
    cycle = _draw_cycle(case, segnet, settings, generator)
    if settings.trainable == Trainable.ROTATION:
        return rotation_loss(model, cycle)
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
    frames = pause(frames, share=settings.repeat_frame_probability, generator=generator)
    view = augmentation.draw_view(case.centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    voxels = augmentation.view_image(case.voxels[frames], view, settings.window)
    voxels = augmentation.augment_intensity(voxels, settings.augmentation, generator).to(_device_of(segnet))
    found = find_shapes(segnet, voxels)
    shapes = _targets(case, frames, found, view)
    keep = drop_end_slices(int(voxels.shape[1]), settings.augmentation.missing_slice_probability, generator)
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
    stride = next(iterate_cycle(model, frames, stacks, None))
    (displacement,) = model.enlarged([stride.displacement[0].cpu()])
    carried = stacks.slices([warp(stacks.volumes(ed)[0], displacement)])
    field = from_voxels(displacement[0], case.spacing, fixed=1, moving=0)
    figures = {"folded_voxels": float((jacobian_determinant(field) <= 0).sum())}
    if case.motion is not None:
        known = augmentation.view_motion(case.motion[[case.es]], view, settings.window)
        figures |= _endpoint_figures(displacement - known, es[:, Label.MYO] > 0.5, case.spacing)
    return (
        surface_metrics(carried, es, case.spacing, phase="ed2es")
        | dice_metrics(carried, es, phase="ed2es")
        | dice_metrics(ed, es, phase="still")
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
