"""The records that flow through the project. Each is checked once, when it is made."""

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
        frame_ms: Time between two frames, or None where the file does not tell.
        ed: End-diastolic frame, from 0, or None until it is known.
        es: End-systolic frame, from 0, or None until it is known.
        flags: Quality flags raised while reading, each one of the documented words.

    Raises:
        ImageError: No voxels, or voxels that are not finite.
        GeometryError: The affine cannot be used, or ED or ES lie outside the cine.
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
        if not bool(torch.isfinite(self.voxels).all()):
            bad = [int(t) for t in range(len(self.voxels)) if not bool(torch.isfinite(self.voxels[t]).all())]
            raise ImageError(
                f"The image holds NaN or infinite voxels in frame(s) {bad[:10]}.",
                hint="Convert the image again from its source, or leave the subject out.",
                code=ErrorCode.IMAGE_VALUES,
            )
        _check_affine(self.affine)
        for name, frame in (("ed", self.ed), ("es", self.es)):
            if frame is not None and not 0 <= frame < len(self.voxels):
                raise GeometryError(
                    f"Frame {name}={frame} lies outside the cine, which has frames 0 to {len(self.voxels) - 1}.",
                    hint="Frames are counted from 0 in the manifest; leave the cell empty to have them found.",
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
        labels: One label map a frame, values of :class:`Label`.
        frames: The cine's frame that each map belongs to, from 0.
        spacing: Voxel spacing in mm.
        affine: As in :class:`CineSequence`.

    Raises:
        LabelError: Unknown values, or not one map a frame.
    """

    labels: UInt8[Tensor, "n z y x"]
    frames: tuple[int, ...]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]

    def __post_init__(self) -> None:
        if self.labels.ndim != 4 or len(self.labels) != len(self.frames):
            raise LabelError(
                f"Expected {len(self.frames)} label maps, found shape {tuple(self.labels.shape)}.",
                hint="Give one 3-D mask a frame, or a 4-D mask with as many frames as the image.",
                code=ErrorCode.LABEL_GEOMETRY,
            )
        if int(self.labels.max()) > max(Label):
            raise LabelError(
                f"Label values must be 0 to {int(max(Label))}, found {int(self.labels.max())}.",
                hint="Name the right label_scheme in the manifest: acdc, mnms or cmnet.",
                code=ErrorCode.LABEL_VALUES,
            )
        _check_affine(self.affine)

    def at(self, frame: int) -> UInt8[Tensor, "z y x"]:
        """The label map of one frame of the cine.

        Raises:
            LabelError: That frame has no map.
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
    """A displacement that pulls one frame back onto the grid of another: ``moving(p + u(p)) ≈ fixed(p)``.

    Attributes:
        displacement_mm: Component *i* moves along axis *i*, in mm, on the grid of the ``fixed`` frame.
        spacing: Voxel spacing of that grid.
        fixed: The frame on whose grid the field lives.
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
                hint="This is a defect in cmnet or a foreign file: please report it.",
                code=ErrorCode.GEOMETRY,
            )
