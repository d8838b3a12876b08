"""Ground truth of a phantom in closed form: displacement, strain and volumes, independent of voxels.

The LV's axis, deformation gradient and strain are computed here independently of the modules that they test.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cmnet_core.function.volumes import Volumes
from cmnet_core.geometry.lv_coordinates import SEGMENTS, SEPTUM_MIDDLE_DEG
from cmnet_core.geometry.lv_coordinates import aha_segment as segment_at
from cmnet_core.labels import Label
from cmnet_core.phantom.kinematics import (
    Beat,
    Instant,
    cavity_volume_fraction,
    make_beat,
    pull_back,
    push_forward,
    rv_volume_fraction,
)
from cmnet_core.phantom.scan_grid import frame_phase, grid_points, heart_axes, slice_depths, spacing_of, to_image
from cmnet_core.phantom.shape import Points, direction, half_lines, labels_at, lv_volumes_ml, rv_volume_ml, surfaces
from cmnet_core.phantom.spec import HeartSpec, PhantomSpec, ScanSpec
from cmnet_core.types import MotionField


@dataclass(frozen=True, slots=True, eq=False)
class Strain:
    """Green-Lagrange strain of the LV's wall on the ED grid, 0 outside the wall.

    The directions are radial, circumferential and longitudinal with respect to the LV's axis at ED.

    Attributes:
        err: Radial.
        ecc: Circumferential.
        ell: Longitudinal.
        frame: The deformed frame; the reference is ED.
    """

    err: Float[Tensor, "z y x"]
    ecc: Float[Tensor, "z y x"]
    ell: Float[Tensor, "z y x"]
    frame: int


@dataclass(frozen=True, slots=True, eq=False)
class SegmentStrain:
    """Mean Green-Lagrange strain of the 16 AHA segments in every frame; segment *i* in column *i* - 1.

    Means over the volume of the wall at ED without the apical cap beyond the cavity.
    """

    err: Float[Tensor, "t 16"]
    ecc: Float[Tensor, "t 16"]
    ell: Float[Tensor, "t 16"]


def deformation_gradient(beat: Beat, now: Instant, points: Points) -> Float[Tensor, "3 3 ..."]:
    """F at points of the ED heart: the exact derivative of :func:`~cmnet_core.phantom.kinematics.carry`.

    Each point's image depends on that point alone, so automatic differentiation of the sum over all points gives a row
    of F at every point, without approximation.

    Returns:
        ``F[i, j]``, the derivative of coordinate *i* (s, y, x) at the instant with respect to coordinate *j* at ED.
    """
    shape = (points.s + points.y + points.x).shape
    start = Points(*(p.detach().expand(shape).clone().requires_grad_() for p in points))
    deformed = push_forward(beat, now, start)
    rows = [torch.autograd.grad(m.sum(), start, retain_graph=True, materialize_grads=True) for m in deformed]
    return torch.stack([torch.stack(row) for row in rows])


def wall_strain(beat: Beat, now: Instant, points: Points) -> Float[Tensor, "3 ..."]:
    """Radial, circumferential and longitudinal strain at points of the heart at ED.

    Green-Lagrange strain along a unit vector n is ``nᵀEn = ½(|Fn|² - 1)``.
    """
    gradient = deformation_gradient(beat, now, points)
    c, n = direction(points)
    stretched = torch.stack(
        [
            gradient[:, 1] * n + gradient[:, 2] * c,
            gradient[:, 1] * c - gradient[:, 2] * n,
            gradient[:, 0],
        ]
    )
    return 0.5 * (stretched.square().sum(dim=1) - 1.0)


def aha_segment(heart: HeartSpec, points: Points) -> Int64[Tensor, "..."]:
    """AHA segment 1 to 16 of points in the wall; 0 in the apical cap.

    Segments are thirds of the cavity's length and sectors that are centred on the septum.
    """
    past = SEPTUM_MIDDLE_DEG - torch.rad2deg(torch.atan2(points.y, points.x))
    return segment_at((-points.s / heart.cavity_length_mm).expand_as(past), past)


def _wall_nodes(heart: HeartSpec) -> tuple[Points, Tensor]:
    """Quadrature points of the wall at ED (midpoint rule), and their volume weights."""
    lines, _ = half_lines(-heart.cavity_length_mm, 0.0, steps=24, angles=48)
    wall = surfaces(heart, lines)
    depth = (torch.arange(4, dtype=torch.float64) + 0.5) / 4.0
    q = wall.endo[..., None] + (wall.epi - wall.endo)[..., None] * depth
    radius = q.sqrt()
    nodes = Points(lines.s[..., None].expand_as(q), lines.y[..., None] * radius, lines.x[..., None] * radius)
    return nodes, (wall.epi - wall.endo)[..., None].expand_as(q)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The exact motion of a phantom, which follows from its parameters alone.

    Attributes:
        spec: The parameters of the phantom.
        beat: The motion in closed form.
    """

    spec: PhantomSpec
    beat: Beat

    def at(self, frame: int) -> Instant:
        """The state at a frame."""
        return self.beat.at(frame_phase(self.spec.scan, frame))

    def from_ed(self, frame: int) -> MotionField:
        """Displacement of every voxel of the ED frame: ``fixed`` is ED, ``moving`` the frame."""
        points = _voxel_points(self.spec.scan)
        return _field(self.spec.scan, points, push_forward(self.beat, self.at(frame), points), self.spec.scan.ed, frame)

    def to_ed(self, frame: int) -> MotionField:
        """Displacement of every voxel of a frame to ED: ``fixed`` is the frame, ``moving`` ED."""
        points = _voxel_points(self.spec.scan)
        return _field(self.spec.scan, points, pull_back(self.beat, self.at(frame), points), frame, self.spec.scan.ed)

    def deformation_gradient(self, frame: int) -> Float[Tensor, "3 3 z y x"]:
        """F on the ED grid, along the image's axes (z, y, x)."""
        axes = heart_axes(self.spec.scan)
        gradient = deformation_gradient(self.beat, self.at(frame), _voxel_points(self.spec.scan))
        rotated: Tensor = torch.einsum("ia,ij...,jb->ab...", axes, gradient, axes)
        return rotated.float()

    def strain(self, frame: int) -> Strain:
        """Strain at every voxel of the wall on the ED grid."""
        points = _voxel_points(self.spec.scan)
        wall = labels_at(self.spec.heart, points) == Label.MYO
        maps = torch.zeros(3, *wall.shape)
        maps[:, wall] = wall_strain(self.beat, self.at(frame), Points(*(p[wall] for p in points))).float()
        return Strain(maps[0], maps[1], maps[2], frame)

    def segment_strain(self) -> SegmentStrain:
        """Mean strain of the AHA segments in every frame."""
        nodes, weight = _wall_nodes(self.spec.heart)
        segment = aha_segment(self.spec.heart, nodes)
        members = torch.stack([(segment == i + 1) * weight for i in range(SEGMENTS)])
        return SegmentStrain(*self._mean_strain(nodes, members).float())

    def global_strain(self) -> Float[Tensor, "3 t"]:
        """Mean radial, circumferential and longitudinal strain of the whole wall in every frame.

        The mean is over the volume of the wall at ED without the apical cap: segments are weighted by their volume.
        """
        nodes, weight = _wall_nodes(self.spec.heart)
        return self._mean_strain(nodes, weight[None])[..., 0].float()

    def _mean_strain(self, nodes: Points, members: Float[Tensor, "r ..."]) -> Float[Tensor, "3 t r"]:
        weights = members.flatten(1) / members.flatten(1).sum(1, keepdim=True)
        frames = [
            wall_strain(self.beat, self.at(t), nodes).flatten(1) @ weights.T for t in range(self.spec.scan.frames)
        ]
        return torch.stack(frames, dim=1)

    def volumes(self) -> Volumes:
        """Volumes of every frame, integrated over the continuous surfaces.

        Masks sampled on the stack differ from these by up to half a slice at the base; compare an estimate that
        counts voxels with :func:`cmnet_core.function.volumes.volumes_ml` of the phantom's masks.
        """
        lv_ml, myo_ml = lv_volumes_ml(self.spec.heart)
        rv_ml = rv_volume_ml(self.spec.heart)
        peak = self.beat.peak
        lv_stroke, rv_stroke = 1.0 - cavity_volume_fraction(self.beat, peak), 1.0 - rv_volume_fraction(self.beat, peak)
        activation = torch.tensor(
            [self.beat.activation(frame_phase(self.spec.scan, t)) for t in range(self.spec.scan.frames)]
        ).double()
        return Volumes(
            lv_ml=lv_ml * (1.0 - lv_stroke * activation),
            myo_ml=torch.full_like(activation, myo_ml),
            rv_ml=rv_ml * (1.0 - rv_stroke * activation),
        )


def truth_of(spec: PhantomSpec) -> Truth:
    """The ground truth that follows from the parameters of a phantom."""
    return Truth(spec, make_beat(spec.heart, spec.beat, lv_ml=lv_volumes_ml(spec.heart)[0]))


def twist_deg(truth: Truth, frame: int) -> tuple[float, float]:
    """Rotation at the base and at the apex in degrees, counter-clockwise seen from the apex."""
    now = truth.at(frame)
    return math.degrees(now.basal_rotation), math.degrees(now.apical_rotation)


def _voxel_points(scan: ScanSpec) -> Points:
    return grid_points(scan, slice_depths(scan))


def _field(scan: ScanSpec, points: Points, deformed: Points, fixed: int, moving: int) -> MotionField:
    there, here = to_image(scan, deformed), to_image(scan, points)
    displacement = torch.stack([(a - b).float() for a, b in zip(there, here, strict=True)])
    return MotionField(displacement, spacing_of(scan), fixed=fixed, moving=moving)
