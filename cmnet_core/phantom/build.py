"""A phantom: a cine with its masks and the motion that made it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from cmnet_core.phantom.motion import Beat, carry, make_beat, pull_back
from cmnet_core.phantom.scan import (
    coil_shading,
    expose,
    frame_phase,
    grid_points,
    make_camera,
    slice_depths,
    spacing_of,
    to_image,
)
from cmnet_core.phantom.shape import Points, volumes
from cmnet_core.phantom.spec import PhantomSpec, ScanSpec
from cmnet_core.types import CineSequence, LabelSequence, MotionField


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A synthetic subject with its truth.

    Attributes:
        spec: What it was made from.
        cine: The images.
        labels: The tissue at every voxel centre, on every frame; papillary muscles count as blood.
        beat: The motion in closed form.
    """

    spec: PhantomSpec
    cine: CineSequence
    labels: LabelSequence
    beat: Beat

    def from_ed(self, frame: int) -> MotionField:
        """Where every voxel of the ED frame has gone: ``fixed`` ED, ``moving`` the frame."""
        points = _voxel_points(self.spec.scan)
        moved = carry(self.beat, self.beat.at(frame_phase(self.spec.scan, frame)), points)
        return _field(self.spec.scan, points, moved, fixed=self.spec.scan.ed, moving=frame)

    def to_ed(self, frame: int) -> MotionField:
        """Where every voxel of a frame was at ED: ``fixed`` the frame, ``moving`` ED."""
        points = _voxel_points(self.spec.scan)
        moved = pull_back(self.beat, self.beat.at(frame_phase(self.spec.scan, frame)), points)
        return _field(self.spec.scan, points, moved, fixed=frame, moving=self.spec.scan.ed)


def _voxel_points(scan: ScanSpec) -> Points:
    return grid_points(scan, slice_depths(scan))


def _field(scan: ScanSpec, points: Points, moved: Points, *, fixed: int, moving: int) -> MotionField:
    there, here = to_image(scan, moved), to_image(scan, points)
    displacement = torch.stack([(a - b).float() for a, b in zip(there, here, strict=True)])
    return MotionField(displacement, spacing_of(scan), fixed=fixed, moving=moving)


def affine_of(scan: ScanSpec) -> Float64[Tensor, "4 4"]:
    """Voxel (z, y, x, 1) to RAS mm for a heart that lies in the chest as hearts do.

    The LV's axis points left, forward and down; the RV lies in front of it and to the right. The scan's plane, not the
    heart, is what ``rv_deg`` turns.
    """
    yaw, pitch = math.radians(scan.yaw_deg), math.radians(scan.pitch_deg)
    to_apex = torch.tensor([-0.62, 0.55, -0.56], dtype=torch.float64)
    c, n, cp, np_ = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    to_apex = torch.tensor([[c, -n, 0], [n, c, 0], [0, 0, 1]], dtype=torch.float64) @ to_apex
    to_apex = torch.tensor([[1, 0, 0], [0, cp, -np_], [0, np_, cp]], dtype=torch.float64) @ to_apex
    to_apex = to_apex / to_apex.norm()
    lateral = torch.tensor([-0.75, -0.66, 0.0], dtype=torch.float64)
    lateral = lateral - (lateral @ to_apex) * to_apex
    lateral = lateral / lateral.norm()
    inferior = torch.linalg.cross(lateral, to_apex)
    turn = math.radians(scan.rv_deg)
    x = lateral * math.cos(turn) - inferior * math.sin(turn)
    y = inferior * math.cos(turn) + lateral * math.sin(turn)
    z = -to_apex if scan.apex_first else to_apex
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.stack([z * scan.slice_mm, y * scan.pixel_mm, x * scan.pixel_mm], dim=1)
    middle = torch.tensor([scan.slices - 1, scan.rows - 1, scan.columns - 1], dtype=torch.float64) / 2.0
    affine[:3, 3] = torch.tensor([-25.0, 15.0, 10.0], dtype=torch.float64) - affine[:3, :3] @ middle
    return affine


def make_phantom(spec: PhantomSpec, generator: torch.Generator) -> Phantom:
    """Make the images, masks and motion of a subject.

    Args:
        spec: The subject.
        generator: Where textures and noise come from.
    """
    scan = spec.scan
    beat = make_beat(spec.heart, spec.beat, lv_ml=volumes(spec.heart).lv)
    camera = make_camera(spec, beat, generator)
    shading = coil_shading(spec)
    voxels = torch.empty(scan.frames, scan.slices, scan.rows, scan.columns)
    labels = torch.empty(voxels.shape, dtype=torch.uint8)
    for frame in range(scan.frames):
        seen, labels[frame] = camera.see(beat.at(frame_phase(scan, frame)))
        voxels[frame] = spec.look.gain * expose(seen * shading, spec.look, generator)
    affine, spacing = affine_of(scan), spacing_of(scan)
    es = int((labels == 1).sum(dim=(1, 2, 3)).argmin())
    frame_ms = 60_000.0 / spec.beat.heart_rate_bpm / scan.frames
    return Phantom(
        spec=spec,
        cine=CineSequence(voxels, spacing, affine, frame_ms=frame_ms, ed=scan.ed, es=es),
        labels=LabelSequence(labels, tuple(range(scan.frames)), spacing, affine),
        beat=beat,
    )
