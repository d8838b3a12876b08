"""Generate a phantom: a cine, its masks and its ground-truth motion."""

from dataclasses import dataclass

import torch

from cmnet_core.phantom.acquisition import coil_sensitivity, make_scanner, measure_kspace
from cmnet_core.phantom.ground_truth import Truth, truth_of
from cmnet_core.phantom.scan_grid import affine_of, spacing_of
from cmnet_core.phantom.spec import PhantomSpec
from cmnet_core.types import CineSequence, LabelSequence, MotionField


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A phantom.

    Attributes:
        cine: The images.
        labels: The label at every voxel's centre in every frame; papillary muscles belong to the blood pool.
        truth: The ground truth in closed form.
    """

    cine: CineSequence
    labels: LabelSequence
    truth: Truth

    @property
    def spec(self) -> PhantomSpec:
        """The parameters of the phantom."""
        return self.truth.spec

    def from_ed(self, frame: int) -> MotionField:
        """Displacement of every voxel of the ED frame; see :meth:`Truth.from_ed`."""
        return self.truth.from_ed(frame)

    def to_ed(self, frame: int) -> MotionField:
        """Displacement field from a frame to ED; see :meth:`Truth.to_ed`."""
        return self.truth.to_ed(frame)


def make_phantom(spec: PhantomSpec, generator: torch.Generator) -> Phantom:
    """Generate the images, masks and motion of a phantom.

    ES is the frame with the smallest LV volume in closed form.

    Args:
        spec: The parameters of the phantom.
        generator: Source of textures and noise.
    """
    scan, truth = spec.scan, truth_of(spec)
    scanner, bias_field = make_scanner(spec, truth.beat, generator), coil_sensitivity(spec)
    voxels = torch.empty(scan.frames, scan.slices, scan.rows, scan.columns)
    labels = torch.empty(voxels.shape, dtype=torch.uint8)
    for frame in range(scan.frames):
        signal, labels[frame] = scanner.signal_and_labels(truth.at(frame))
        voxels[frame] = spec.contrast.gain * measure_kspace(signal * bias_field, spec.contrast, generator)
    affine, spacing = affine_of(scan), spacing_of(scan)
    frame_ms = 60_000.0 / spec.beat.heart_rate_bpm / scan.frames
    es = int(truth.volumes().lv_ml.argmin())
    return Phantom(
        cine=CineSequence(voxels, spacing, affine, frame_ms=frame_ms, ed=scan.ed, es=es),
        labels=LabelSequence(labels, tuple(range(scan.frames)), spacing, affine),
        truth=truth,
    )
