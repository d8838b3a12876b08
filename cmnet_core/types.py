"""The records that are passed through the project. Each is validated once, when it is created."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError, LabelError
from cmnet_core.labels import Label


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between voxel centres in millimetres, slice gap included.

    Raises:
        GeometryError: A distance is not a positive finite number.
    """

    z: float
    y: float
    x: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(mm) and mm > 0 for mm in self.zyx):
            raise GeometryError(
                f"Voxel spacing must be three positive numbers in mm, found {self.zyx} (z, y, x).",
                hint="Correct the header's voxel sizes, for instance by converting the DICOMs again.",
                code=ErrorCode.GEOMETRY,
            )

    @property
    def zyx(self) -> tuple[float, float, float]:
        """The three distances in the order of the axes."""
        return (self.z, self.y, self.x)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return self.z * self.y * self.x / 1000.0


def _check_affine(affine: Tensor) -> None:
    unusable = affine.shape != (4, 4) or not bool(torch.isfinite(affine).all()) or abs(torch.det(affine)) < 1e-9
    if unusable:
        raise GeometryError(
            "The affine must be an invertible 4 by 4 matrix of finite numbers.",
            hint="Check sform and qform of the image, or convert the DICOMs again.",
            code=ErrorCode.GEOMETRY,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CineSequence:
    """A short-axis cine: a stack of slices over one cardiac cycle.

    Attributes:
        voxels: Image intensities.
        spacing: Voxel spacing in mm.
        affine: Maps a voxel index ``(z, y, x, 1)`` to scanner millimetres (RAS+); column *i* belongs to axis *i*.
        frame_ms: Time between two frames in ms, or None if the file does not state it.
        ed: End-diastolic frame, from 0, or None if unknown.
        es: End-systolic frame, from 0, or None if unknown.
        flags: Quality flags raised while reading, see :class:`cmnet_core.flags.QCFlag`.

    Raises:
        ImageError: There are no voxels, or some are not finite.
        GeometryError: The affine is not valid, or ED or ES are not frames of the cine.
    """

    voxels: Float[Tensor, "t z y x"]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]
    frame_ms: float | None
    ed: int | None
    es: int | None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4 or self.voxels.numel() == 0:
            raise ImageError(
                f"A cine needs four dimensions (t, z, y, x), found shape {tuple(self.voxels.shape)}.",
                hint="Give a 4-D image, or two 3-D images as 'ED.nii.gz;ES.nii.gz'.",
                code=ErrorCode.IMAGE_DIMENSIONS,
            )
        # The extremes are finite only if all voxels are; this needs no mask as large as the cine.
        if not all(bool(extreme.isfinite()) for extreme in self.voxels.aminmax()):
            bad = [int(t) for t in range(len(self.voxels)) if not bool(torch.isfinite(self.voxels[t]).all())]
            raise ImageError(
                f"The image has NaN or infinite voxels in frame(s) {bad[:10]}.",
                hint="Convert the image again from its source, or leave the subject out.",
                code=ErrorCode.IMAGE_VALUES,
            )
        _check_affine(self.affine)
        for name, frame in (("ed", self.ed), ("es", self.es)):
            if frame is not None and not 0 <= frame < len(self.voxels):
                raise GeometryError(
                    f"{name}={frame} is not a frame of the cine, which has frames 0 to {len(self.voxels) - 1}.",
                    hint="Frames are counted from 0 in the manifest; leave the cell empty for automatic detection.",
                    code=ErrorCode.GEOMETRY,
                )

    @property
    def frames(self) -> int:
        """Number of frames in the cycle."""
        return int(self.voxels.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class LabelSequence:
    """Label maps of some frames of a cine.

    Attributes:
        labels: One label map per frame, with values of :class:`~cmnet_core.labels.Label`.
        frames: The frame of the cine, from 0, of each map.
        spacing: Voxel spacing in mm.
        affine: Affine, as in :class:`CineSequence`.

    Raises:
        LabelError: There are unknown values, or not one map per frame.
    """

    labels: UInt8[Tensor, "n z y x"]
    frames: tuple[int, ...]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]

    def __post_init__(self) -> None:
        if self.labels.ndim != 4 or len(self.labels) != len(self.frames):
            raise LabelError(
                f"Expected {len(self.frames)} label maps, found shape {tuple(self.labels.shape)}.",
                hint="Give one 3-D mask per frame, or a 4-D mask with as many frames as the image.",
                code=ErrorCode.LABEL_GEOMETRY,
            )
        if int(self.labels.max()) > max(Label):
            raise LabelError(
                f"Label values must be 0 to {int(max(Label))}, found {int(self.labels.max())}.",
                hint="Set the correct label_scheme in the manifest: acdc, mnms or cmnet.",
                code=ErrorCode.LABEL_VALUES,
            )
        _check_affine(self.affine)

    def at(self, frame: int) -> UInt8[Tensor, "z y x"]:
        """The label map of one frame of the cine.

        Raises:
            LabelError: The frame has no label map.
        """
        if frame not in self.frames:
            raise LabelError(
                f"There is no mask for frame {frame}; masks exist for {self.frames}.",
                hint="Check ed and es in the manifest against the frames that were contoured.",
                code=ErrorCode.LABEL_GEOMETRY,
            )
        return self.labels[self.frames.index(frame)]


@dataclass(frozen=True, slots=True, eq=False)
class MotionField:
    """A displacement field between two frames, as a pull-back: ``moving(p + u(p)) ≈ fixed(p)``.

    Attributes:
        displacement_mm: Displacement on the grid of the ``fixed`` frame; component *i* is along axis *i*, in mm.
        spacing: Voxel spacing of that grid.
        fixed: The frame on whose grid the field is defined.
        moving: The frame that the field points into.
    """

    displacement_mm: Float[Tensor, "3 z y x"]
    spacing: Spacing
    fixed: int
    moving: int

    def __post_init__(self) -> None:
        if self.displacement_mm.ndim != 4 or self.displacement_mm.shape[0] != 3:
            raise GeometryError(
                f"A motion field has shape (3, z, y, x), found {tuple(self.displacement_mm.shape)}.",
                hint="This is a defect in cmnet or a file of another program: please report it.",
                code=ErrorCode.GEOMETRY,
            )
