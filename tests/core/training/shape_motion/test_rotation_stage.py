"""The stage that trains RotationNet: the loss falls, and the rotation that was drawn is the one that is found."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from cmnet_core.imaging.appearance import NO_VARIATION
from cmnet_core.labels import Label
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, mean_rotation
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes
from cmnet_core.training.loop import EpochRecord, Schedule
from cmnet_core.training.shape_motion.rotation_stage import draw_rotation_pair, draw_twist, train_rotation
from cmnet_core.training.shape_motion.settings import RotationTraining
from cmnet_core.training.training_case import TrainingCase
from cmnet_core.types import Spacing
from tests.training_cases import NO_AUGMENTATION, monitor

SIZE = 48
STILL = RotationTraining(window=(SIZE, SIZE), augmentation=NO_AUGMENTATION, appearance=NO_VARIATION)


def textured_case() -> TrainingCase:
    """Return a case with a ring of myocardium whose brightness varies with the direction."""
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    radius, direction = torch.hypot(y, x), torch.atan2(y, x)
    label = torch.zeros(64, 64, dtype=torch.uint8)
    label[radius < 14] = Label.MYO
    label[radius < 8] = Label.LV
    label[(radius >= 14) & (radius < 20) & (x < -8)] = Label.RV
    image = 0.5 + 0.15 * torch.cos(3 * direction) + 0.15 * torch.cos(5 * direction + 1) + 0.1 * (label == Label.LV)
    stack = image.expand(2, 4, 64, 64).clone()
    labels = label.expand(2, 4, 64, 64).clone()
    return TrainingCase(stack, labels, (0, 1), Spacing(10.0, 1.5, 1.5), 0, 1, (31.5, 31.5))


def test_drawn_rotation_is_that_of_the_wall() -> None:
    case = textured_case()
    mask = torch.nn.functional.one_hot(case.labels[0, :, 8:56, 8:56].long(), 4).movedim(-1, 1).float()
    twist = draw_twist(case.voxels[0, :, 8:56, 8:56], mask, STILL, torch.Generator().manual_seed(3))
    angle = mean_rotation(twist, mask[:, Label.LV] + mask[:, Label.MYO])
    y, x = twist[1, 0], twist[2, 0]
    # Four voxels from the centre along x: the displacement along y is the sine of the angle, scaled.
    along = torch.atan2(y[23:25, 28:30].mean(), 5.0 + x[23:25, 28:30].mean())
    assert math.isclose(float(angle[0]), float(along), abs_tol=0.02)
    assert float(angle.abs().max()) <= math.radians(STILL.rotation_deg) + 1e-4


def test_loss_falls_and_the_rotation_is_found(tmp_path: Path) -> None:
    case, records = textured_case(), list[EpochRecord]()
    settings = replace(STILL, schedule=Schedule(4, 4e-3, 0.0, seed=2, ema_decay=0.8))
    torch.manual_seed(1)
    start = ShapeMotionNet(ShapeMotionSizes(fine=4, middle=4, coarse=4, blocks=1, stack=8))
    model = train_rotation(
        [case] * 24, [case] * 4, settings=settings, monitor=monitor(tmp_path, records), start=start
    ).rotation
    assert records[-1].loss["loss"] < 0.7 * records[0].loss["loss"]
    assert records[-1].validation["rotation_error_deg"] < records[0].validation["rotation_error_deg"]
    pair = draw_rotation_pair(case, settings, torch.Generator().manual_seed(77))
    with torch.no_grad():
        found = model(pair.moving, pair.fixed, locate_lv(pair.fixed, Stacks((4,))), Stacks((4,)))
    assert math.degrees(float((found - pair.angle).abs().mean())) < 3.0
