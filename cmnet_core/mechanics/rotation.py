"""Rotation of the LV wall about the long axis, twist and torsion.

Rotation does not move the boundaries of the wall, so masks alone do not constrain it. An estimated rotation rests on
the texture of the images, on the regularisation, and on the motion that the network was trained on; docs/strain.md
gives the fraction of a known rotation that is recovered.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.strain import THIRDS, Direction, WallVoxels

MM_PER_CM = 10.0
_FEWEST_VOXELS = 12  # voxels of the wall that a slice needs for its rotation to be measured


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """Rotation of the wall since ED, in every frame of the motion.

    Angles are in degrees, positive counter-clockwise seen from the apex: in systole a normal apex rotates in this
    sense, and a normal base in the other. A level without slices is NaN, and so is every value that depends on it.

    Attributes:
        basal_deg: Mean rotation of the slices of the basal third.
        apical_deg: Mean rotation of the slices of the apical third.
        twist_deg: Apical minus basal rotation.
        torsion_deg_cm: Twist divided by the distance in cm, along the axis at ED, between the means of these slices.
        shear_deg: Circumferential-longitudinal shear angle: torsion in rad per mm times the mean mid-wall radius of
            both levels in mm, as an angle. It does not depend on the size of the ventricle, as torsion does.
    """

    basal_deg: Float[Tensor, " t"]
    apical_deg: Float[Tensor, " t"]
    twist_deg: Float[Tensor, " t"]
    torsion_deg_cm: Float[Tensor, " t"]
    shear_deg: Float[Tensor, " t"]


def rotation(wall: WallVoxels, motion: MaterialMotion) -> Rotation:
    """Compute the rotation of the basal and the apical third, each slice about its own moving centre.

    The shear angle is ``atan(Δφ (ρ_base + ρ_apex) / 2D)`` with the twist Δφ, the radii ρ and the distance D at ED
    (Young and Cowan, J Cardiovasc Magn Reson 14 (2012) 49; Rüssel et al., Am J Physiol 296 (2009) H379).

    Args:
        wall: Voxels of the wall at ED.
        motion: Their displacement.
    """
    basal, apical = (_level(wall, motion, third) for third in (0, THIRDS - 1))
    twist = apical.rotation_deg - basal.rotation_deg
    distance_cm = (apical.height_mm - basal.height_mm) / MM_PER_CM
    radius_cm = 0.5 * (basal.radius_mm + apical.radius_mm) / MM_PER_CM
    shear = torch.rad2deg(torch.atan(torch.deg2rad(twist) * radius_cm / distance_cm))
    return Rotation(basal.rotation_deg, apical.rotation_deg, twist, twist / distance_cm, shear)


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """A third of the length: mean rotation of its slices, their mean position along the axis and mid-wall radius."""

    rotation_deg: Float[Tensor, " t"]
    height_mm: float
    radius_mm: float


def _level(wall: WallVoxels, motion: MaterialMotion, third: int) -> _Level:
    along = (wall.position_mm * wall.directions[:, Direction.LONGITUDINAL]).sum(-1)
    measurable = (wall.slice_index[wall.ventricular].bincount() >= _FEWEST_VOXELS).nonzero()[:, 0]
    rings = [wall.ventricular & (wall.slice_index == index) for index in measurable]
    rings = [ring for ring in rings if min(int(wall.longitudinal[ring].mean() * THIRDS), THIRDS - 1) == third]
    if not rings:
        return _Level(torch.full((len(motion.frames),), torch.nan, dtype=torch.float64), math.nan, math.nan)
    angles = torch.stack([_rotation_deg(wall, motion, ring) for ring in rings]).mean(0)
    heights, radii = zip(*((along[ring].mean(), _radius_mm(wall, ring)) for ring in rings), strict=True)
    return _Level(angles, float(torch.stack(heights).mean()), float(torch.stack(radii).mean()))


def _radius_mm(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean mid-wall radius of a ring about its centroid at ED, in mm."""
    axis = wall.directions[ring, Direction.LONGITUDINAL][0]
    position = wall.position_mm[ring]
    radius = _across(position - position.mean(0), axis).norm(dim=-1)
    mean: Tensor = (radius + (0.5 - wall.transmural[ring]) * wall.thickness_mm[ring]).mean()
    return mean


def _rotation_deg(wall: WallVoxels, motion: MaterialMotion, ring: Bool[Tensor, " n"]) -> Float[Tensor, " t"]:
    """Rotation about the axis that fits a ring's motion best in the least-squares sense (Kabsch 1976, in-plane).

    A rigid motion is recovered exactly, whichever part of the ring is present.
    """
    axis = wall.directions[ring, Direction.LONGITUDINAL][0]
    before = wall.position_mm[ring]
    after = before + motion.displacement_mm[:, ring]
    before, after = (_across(points - points.mean(-2, keepdim=True), axis) for points in (before, after))
    tangent = torch.linalg.cross(axis.expand_as(before), before)
    angle = torch.rad2deg(torch.atan2((after * tangent).sum((-1, -2)), (after * before).sum((-1, -2))))
    return angle * _sense(wall, ring, axis)


def _across(points: Float[Tensor, "*r 3"], axis: Float[Tensor, "3"]) -> Float[Tensor, "*r 3"]:
    """The component of vectors across the axis."""
    across: Tensor = points - (points @ axis)[..., None] * axis
    return across


def _sense(wall: WallVoxels, ring: Bool[Tensor, " n"], axis: Float[Tensor, "3"]) -> float:
    """1 where a right-handed rotation about the axis follows the circumferential direction, else -1."""
    radial, circumferential = (wall.directions[ring][:, d] for d in (Direction.RADIAL, Direction.CIRCUMFERENTIAL))
    forward = (torch.linalg.cross(axis.expand_as(radial), radial) * circumferential).sum()
    return 1.0 if float(forward) >= 0 else -1.0
