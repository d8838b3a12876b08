"""The stage ``rotation``: RotationNet is trained on pairs of frames whose rotation is known.

Cases with known motion, as phantoms have, give ED and another frame with all of its motion. A frame of any other case
is rotated and contracted artificially, which gives real texture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.imaging import augmentation
from cmnet_core.imaging.appearance import vary_appearance
from cmnet_core.labels import Label
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import RotationNet, locate_lv, mean_rotation
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.registration.displacement import warp
from cmnet_core.training.loop import TrainingMonitor, TrainingSample, TrainingTask, mean_metrics, run_training
from cmnet_core.training.shape_motion.settings import RotationTraining
from cmnet_core.training.training_case import CLASSES, TrainingCase

METRICS = ("rotation_error_deg",)
"""The metrics that can be monitored in this stage."""

RIGID_RADII = 1.3
"""Distance from the LV's centre, in epicardial radii, up to which the artificial motion does not decay."""

DECAY_RADII = 0.7
"""Standard deviation of the Gaussian by which it decays further out, in epicardial radii."""

VALIDATION_SEED = 1


@dataclass(frozen=True, slots=True, eq=False)
class RotationPair:
    """Two frames and the rotation of each slice between them.

    Attributes:
        moving: Image and probabilities of the structures of the frame into which the rotation points.
        fixed: The same of the frame on which it is defined.
        angle: Rotation of the wall in each slice in radians, from axis x towards axis y.
        weight: Presence of the left ventricle in each slice of the fixed frame.
    """

    moving: Float[Tensor, "z c y x"]
    fixed: Float[Tensor, "z c y x"]
    angle: Float[Tensor, " z"]
    weight: Float[Tensor, " z"]


def train_rotation(
    cases: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    *,
    settings: RotationTraining,
    monitor: TrainingMonitor,
    start: ShapeMotionNet,
) -> ShapeMotionNet:
    """Train RotationNet; all other parts of the network remain as they are.

    Args:
        cases: Cases to train on.
        validation: Cases to validate on.
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The network to start from.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    start.requires_grad_(False)
    start.rotation.requires_grad_(True)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        pairs = [draw_rotation_pair(cases[sample.index], settings, sample.generator) for sample in batch]
        return {"loss": rotation_error(start.rotation, pairs, monitor.device)}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, ShapeMotionNet)
        return validate_rotation(average.rotation, validation, settings=settings, device=monitor.device)

    task = TrainingTask(len(cases), settings.pairs_per_step, loss, validate)
    run_training(start, task, schedule=settings.schedule, monitor=monitor)
    return start.requires_grad_(True)


def rotation_error(network: RotationNet, pairs: Sequence[RotationPair], device: torch.device) -> Float[Tensor, ""]:
    """Compute the mean absolute error of the slices' rotations in radians, weighted by the presence of the LV."""
    stacks = Stacks(tuple(len(pair.angle) for pair in pairs))
    moving = torch.cat([pair.moving for pair in pairs]).to(device)
    fixed = torch.cat([pair.fixed for pair in pairs]).to(device)
    angle = torch.cat([pair.angle for pair in pairs]).to(device)
    weight = torch.cat([pair.weight for pair in pairs]).to(device)
    found = network(moving, fixed, locate_lv(fixed, stacks), stacks)
    error: Tensor = (weight * (found - angle).abs()).sum() / weight.sum().clamp_min(1.0)
    return error


@torch.no_grad()
def validate_rotation(
    network: RotationNet, cases: Sequence[TrainingCase], *, settings: RotationTraining, device: torch.device
) -> dict[str, float]:
    """Compute the mean error of the rotation in degrees over one pair of each case, the same pairs at every call."""
    records = []
    for number, case in enumerate(cases):
        generator = torch.Generator().manual_seed(VALIDATION_SEED + number)
        pair = draw_rotation_pair(case, settings, generator)
        records.append({"rotation_error_deg": math.degrees(float(rotation_error(network, [pair], device)))})
    return mean_metrics(records)


def draw_rotation_pair(case: TrainingCase, settings: RotationTraining, generator: torch.Generator) -> RotationPair:
    """Draw a pair of frames in a random view, with independent variations of both images.

    Args:
        case: A case; where its motion is known, the second frame is another labelled frame of it.
        settings: Settings of the stage.
        generator: Draws the view, the frames, the artificial motion and the variations.
    """
    view = augmentation.draw_view(case.centre, int(case.voxels.shape[1]), settings.augmentation, generator)
    others = [frame for frame in case.labelled if frame != case.ed]
    chosen = others[int(torch.randint(0, len(others), (), generator=generator))]
    known = case.motion is not None
    first = case.ed if known or float(torch.rand((), generator=generator)) < 0.5 else chosen
    frames = [first, chosen if known else first]
    images = augmentation.view_image(case.voxels[frames], view, settings.window)
    masks = torch.cat(
        [augmentation.view_labels(case.mask(frame)[None], view, settings.window, classes=CLASSES) for frame in frames]
    )
    if case.motion is not None:
        (displacement,) = augmentation.view_motion(case.motion[[chosen]], view, settings.window)
    else:
        displacement = draw_twist(images[0], masks[0], settings, generator)
        volume = torch.cat([images[1][None], masks[1].movedim(1, 0)])
        warped = warp(volume[None], displacement[None])[0]
        images, masks = torch.stack([images[0], warped[0]]), torch.stack([masks[0], warped[1:].movedim(0, 1)])
    wall = masks[1][:, Label.LV] + masks[1][:, Label.MYO]
    angle = mean_rotation(displacement, wall)
    varied = [vary_appearance(image[None], settings.appearance, generator)[0] for image in images]
    moving, fixed = (
        torch.cat([image[:, None], mask[:, Label.LV :]], dim=1) for image, mask in zip(varied, masks, strict=True)
    )
    return RotationPair(moving, fixed, angle, locate_lv(fixed, Stacks((len(fixed),))).presence)


def draw_twist(
    image: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z k y x"],
    settings: RotationTraining,
    generator: torch.Generator,
) -> Float[Tensor, "3 z y x"]:
    """Draw an in-plane motion that rotates and contracts each slice about the LV, smooth over the slices, in voxels.

    Args:
        image: The image.
        mask: Its one-hot label map.
        settings: Largest rotation and contraction.
        generator: Draws both.
    """
    depth, rows, columns = image.shape
    lv = locate_lv(torch.cat([image[:, None], mask[:, Label.LV :]], dim=1), Stacks((depth,)))
    # Three control points over the stack make base, middle and apex independent and the slices between them smooth.
    ends = 2.0 * torch.rand(1, 1, 3, generator=generator) - 1.0
    angle = functional.interpolate(ends, size=depth, mode="linear", align_corners=True)[0, 0]
    angle = angle * math.radians(settings.rotation_deg)
    scale = 1.0 / (1.0 - settings.contraction * float(torch.rand((), generator=generator)))
    y = torch.arange(rows)[None, :, None] - lv.centre[:, 0, None, None]
    x = torch.arange(columns)[None, None, :] - lv.centre[:, 1, None, None]
    distance = (y.square() + x.square()).sqrt() / lv.radius[:, None, None]
    decay = torch.exp(-0.5 * ((distance - RIGID_RADII).clamp_min(0.0) / DECAY_RADII).square())
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    to_y, to_x = scale * (cosine * y + sine * x), scale * (cosine * x - sine * y)
    return torch.stack([torch.zeros_like(decay), decay * (to_y - y), decay * (to_x - x)])
