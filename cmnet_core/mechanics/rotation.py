"""Rotation of the wall about the LV's axis, twist and torsion.

Turning moves no boundary: masks alone do not show it. What a motion says about it rests on the texture of the images,
on smoothness, and on what its network learnt from hearts whose motion is known. See docs/strain.md for the share that
was recovered.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.strain import THIRDS, Direction, WallVoxels

MM_PER_CM = 10.0
_FEWEST_VOXELS = 12  # of a slice's wall, to tell how it turned


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """How the wall turned since ED, in every frame of the motion.

    Angles in degrees, positive counter-clockwise seen from the apex, in which sense a normal apex turns in systole and
    a normal base does not. A level without slices is NaN, and so is what is computed from it.

    Attributes:
        basal_deg: Mean of the slices of the basal third.
        apical_deg: Mean of the slices of the apical third.
        twist_deg: Apical less basal rotation.
        torsion_deg_cm: Twist over the distance, along the axis at ED, between the middles of these slices.
    """

    basal_deg: Float[Tensor, " t"]
    apical_deg: Float[Tensor, " t"]
    twist_deg: Float[Tensor, " t"]
    torsion_deg_cm: Float[Tensor, " t"]


def rotation(wall: WallVoxels, motion: MaterialMotion) -> Rotation:
    """Rotation of the basal and the apical third, each slice about its own moving centre."""
    basal, apical = (_level(wall, motion, third) for third in (0, THIRDS - 1))
    twist = apical.turned_deg - basal.turned_deg
    distance_cm = (apical.height_mm - basal.height_mm) / MM_PER_CM
    return Rotation(basal.turned_deg, apical.turned_deg, twist, twist / distance_cm)


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """A third of the length: how its slices turned, and their mean height along the axis."""

    turned_deg: Float[Tensor, " t"]
    height_mm: float


def _level(wall: WallVoxels, motion: MaterialMotion, third: int) -> _Level:
    along = (wall.position_mm * wall.directions[:, Direction.LONGITUDINAL]).sum(-1)
    enough = (wall.slice_index[wall.ventricular].bincount() >= _FEWEST_VOXELS).nonzero()[:, 0]
    rings = [wall.ventricular & (wall.slice_index == number) for number in enough]
    rings = [ring for ring in rings if min(int(wall.longitudinal[ring].mean() * THIRDS), THIRDS - 1) == third]
    if not rings:
        return _Level(torch.full((len(motion.frames),), torch.nan, dtype=torch.float64), math.nan)
    turned = torch.stack([_turn_deg(wall, motion, ring) for ring in rings]).mean(0)
    return _Level(turned, float(torch.stack([along[ring].mean() for ring in rings]).mean()))


def _turn_deg(wall: WallVoxels, motion: MaterialMotion, ring: Bool[Tensor, " n"]) -> Float[Tensor, " t"]:
    """The rotation about the axis that fits a ring's motion best, in the least squares (Kabsch 1976, in the plane).

    Rigid motion is found exactly, whatever part of the ring there is.
    """
    axis = wall.directions[ring, Direction.LONGITUDINAL][0]
    before = wall.position_mm[ring]
    after = before + motion.displacement_mm[:, ring]
    before, after = (_across(points - points.mean(-2, keepdim=True), axis) for points in (before, after))
    turned = torch.linalg.cross(axis.expand_as(before), before)
    angle = torch.rad2deg(torch.atan2((after * turned).sum((-1, -2)), (after * before).sum((-1, -2))))
    return angle * _sense(wall, ring, axis)


def _across(points: Float[Tensor, "*r 3"], axis: Float[Tensor, "3"]) -> Float[Tensor, "*r 3"]:
    across: Tensor = points - (points @ axis)[..., None] * axis
    return across


def _sense(wall: WallVoxels, ring: Bool[Tensor, " n"], axis: Float[Tensor, "3"]) -> float:
    """1 where turning right-handed about the axis is what the circumferential direction calls forward, else -1."""
    radial, around = (wall.directions[ring][:, d] for d in (Direction.RADIAL, Direction.CIRCUMFERENTIAL))
    forward = (torch.linalg.cross(axis.expand_as(radial), radial) * around).sum()
    return 1.0 if float(forward) >= 0 else -1.0
