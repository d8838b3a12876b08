"""A phantom: a cine with its masks and the motion that made it."""

from dataclasses import dataclass

import torch

from cmnet_core.phantom.acquisition import coil_shading, expose, make_camera
from cmnet_core.phantom.ground_truth import Truth, truth_of
from cmnet_core.phantom.scan_grid import affine_of, spacing_of
from cmnet_core.phantom.spec import PhantomSpec
from cmnet_core.types import CineSequence, LabelSequence, MotionField


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A synthetic subject.

    Attributes:
        cine: The images.
        labels: The tissue at every voxel's centre, on every frame; papillary muscles count as blood.
        truth: The motion in closed form, and all that follows from it.
    """

    cine: CineSequence
    labels: LabelSequence
    truth: Truth

    @property
    def spec(self) -> PhantomSpec:
        """What it was made from."""
        return self.truth.spec

    def from_ed(self, frame: int) -> MotionField:
        """Where every voxel of the ED frame has gone; see :meth:`Truth.from_ed`."""
        return self.truth.from_ed(frame)

    def to_ed(self, frame: int) -> MotionField:
        """Where every voxel of a frame was at ED; see :meth:`Truth.to_ed`."""
        return self.truth.to_ed(frame)


def make_phantom(spec: PhantomSpec, generator: torch.Generator) -> Phantom:
    """Make the images, masks and motion of a subject.

    ES is the frame with the smallest LV of the closed form.

    Args:
        spec: The subject.
        generator: Where textures and noise come from.
    """
    scan, truth = spec.scan, truth_of(spec)
    camera, bias_field = make_camera(spec, truth.beat, generator), coil_shading(spec)
    voxels = torch.empty(scan.frames, scan.slices, scan.rows, scan.columns)
    labels = torch.empty(voxels.shape, dtype=torch.uint8)
    for frame in range(scan.frames):
        signal, labels[frame] = camera.see(truth.at(frame))
        voxels[frame] = spec.look.gain * expose(signal * bias_field, spec.look, generator)
    affine, spacing = affine_of(scan), spacing_of(scan)
    frame_ms = 60_000.0 / spec.beat.heart_rate_bpm / scan.frames
    es = int(truth.volumes().lv_ml.argmin())
    return Phantom(
        cine=CineSequence(voxels, spacing, affine, frame_ms=frame_ms, ed=scan.ed, es=es),
        labels=LabelSequence(labels, tuple(range(scan.frames)), spacing, affine),
        truth=truth,
    )
