"""One NIfTI file from its bytes: opening, checking and describing it, and decoding its voxels.

Files are read through the bare header, because nibabel's loader silently turns a voxel size of 0 into 1.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float, Float64
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import CaseError, ErrorCode, GeometryError, ImageError
from cmnet_core.types import CineSequence, Spacing

SPACING_FROM_ZOOMS = "spacing-from-zooms"
"""Quality flag: affine and voxel sizes of the header disagree; direction from the one, scale from the other."""

_DAMAGE = (OSError, EOFError, ValueError, LookupError, OverflowError, zlib.error, HeaderDataError, WrapStructError)
_HEADER_BYTES = {1: 348, 2: 540}
_DEFLATE_LIMIT = 1032  # the largest ratio that gzip can reach: a header that declares more cannot be true
_MOST_VOXELS = 2**28  # 512 x 512 x 20 x 50
_TRAILING_BYTES = 2**20
_MILLISECONDS = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_PLAUSIBLE_FRAME_MS = (5.0, 500.0)


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a file says of itself, without its voxels.

    Attributes:
        frames: Number of frames; 1 for a single volume.
        grid: Number of voxels along (z, y, x).
        spacing: Voxel spacing in mm.
        affine: As in :class:`CineSequence`.
        frame_ms: Time between two frames, or None where the header holds nothing plausible.
        flags: Quality flags.
    """

    frames: int
    grid: tuple[int, int, int]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]
    frame_ms: float | None
    flags: tuple[str, ...]

    def cine(self, voxels: Float[Tensor, "t z y x"], *, frame_ms: float | None) -> CineSequence:
        """The cine with these voxels, its phases not known yet; a time step that is given goes before the file's."""
        step_ms = self.frame_ms if frame_ms is None else frame_ms
        return CineSequence(voxels, self.spacing, self.affine, step_ms, ed=None, es=None, flags=self.flags)


def grid_difference(found: Header, expected: Header | CineSequence) -> str:
    """Say in words how one grid differs from another; empty where they agree to half a voxel."""
    shape = expected.grid if isinstance(expected, Header) else tuple(expected.voxels.shape[1:])
    if found.grid != shape:
        return f"{found.grid} voxels (z, y, x) where {shape} were expected"
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in shape))
    homogeneous = torch.cat([corners, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    apart = (homogeneous @ (found.affine - expected.affine).T).norm(dim=1).max().item()
    if apart > 0.5 * min(expected.spacing.zyx):
        return f"corners up to {apart:.1f} mm apart"
    return ""


@contextmanager
def reading(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, unzipped on the way; every error from within the block names it.

    Raises:
        ImageError: The file is missing, or what the block read from it is not whole.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder, a pipe or a device")  # reading from a pipe would wait for ever
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if zipped else file
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error
    except FileNotFoundError as error:
        raise ImageError(
            f"{path}: there is no such file.",
            hint="Correct the path in the manifest; relative paths start at the manifest's folder.",
            code=ErrorCode.FILE_MISSING,
        ) from error
    except _DAMAGE as error:
        raise ImageError(
            f"{path}: expected a whole NIfTI file, reading it failed: {error}.",
            hint="Copy or download the file again, or convert it again from its source.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


def raw_header(file: BufferedIOBase, path: Path) -> Any:
    """Read nibabel's header as it stands; only what must hold before anything is allocated is checked.

    Raises:
        ImageError: The dimensions are not those of an image.
        ValueError: This is no NIfTI file, or it declares more voxels than it can hold.
    """
    # Not from_fileobj, which also follows the extensions, where a damaged file can lead it anywhere.
    block = file.read(_HEADER_BYTES[2])
    version = next((v for v, size in _HEADER_BYTES.items() if size in _both_endians(block[:4])), None)
    if version is None:
        raise ValueError("this is no NIfTI header")
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    raw = kind(block[: _HEADER_BYTES[version]], check=False)
    if raw["magic"].item()[:3] != b"n+%d" % version:
        raise ValueError("this is no single-file NIfTI")
    shape = raw.get_data_shape()
    if not 3 <= len(shape) <= 5 or min(shape) < 1:
        raise ImageError(
            f"Expected a 3-D or 4-D image, found shape {tuple(map(int, shape))}.",
            hint="Give a 4-D image, or two 3-D images as 'ED.nii.gz;ES.nii.gz'.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    declared = math.prod(map(int, shape)) * raw.get_data_dtype().itemsize
    if declared > path.stat().st_size * (_DEFLATE_LIMIT if isinstance(file, gzip.GzipFile) else 1):
        raise ValueError(f"the header declares {declared} bytes of voxels, more than the file can hold")
    if math.prod(map(int, shape)) > _MOST_VOXELS:
        raise ImageError(
            f"Expected at most {_MOST_VOXELS} voxels, found shape {tuple(map(int, shape))}.",
            hint="Crop the cine to the chest: no short-axis stack is as large as this.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    return raw


def _both_endians(number: bytes) -> tuple[int, int]:
    return int.from_bytes(number, "little"), int.from_bytes(number, "big")


def describe(raw: Any) -> Header:
    """Turn nibabel's header into ours.

    Raises:
        ImageError: There is more than one axis beyond space.
        GeometryError: Voxel sizes or affine make no sense.
    """
    shape = tuple(int(n) for n in raw.get_data_shape())
    spacing, affine, flags = geometry(raw)
    beyond = [axis for axis in range(3, len(shape)) if shape[axis] > 1]
    if len(beyond) > 1:
        raise ImageError(
            f"Expected one time axis, found shape {shape}.",
            hint="Give one channel as a 4-D image (x, y, z, t).",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    time = beyond[0] if beyond else 3
    return Header(
        frames=shape[time] if beyond else 1,
        grid=(shape[2], shape[1], shape[0]),
        spacing=spacing,
        affine=affine,
        frame_ms=_frame_ms(float(raw["pixdim"][time + 1]), raw.get_xyzt_units()[1]) if beyond else None,
        flags=flags,
    )


def geometry(raw: Any) -> tuple[Spacing, Float64[Tensor, "4 4"], tuple[str, ...]]:
    """Take direction from the affine and scale from the voxel sizes, with a flag where the two disagree.

    Raises:
        GeometryError: Voxel sizes or affine make no sense.
    """
    to_mm = _MILLIMETRES[raw.get_xyzt_units()[0]]
    spacing = Spacing(*(float(mm) * to_mm for mm in raw["pixdim"][3:0:-1]))
    affine = torch.from_numpy(np.asarray(raw.get_best_affine(), dtype=np.float64))[:, [2, 1, 0, 3]]
    affine[:3] *= to_mm
    scale = affine[:3, :3].norm(dim=0)
    if not bool(torch.isfinite(affine).all()) or bool((scale == 0).any()):
        raise GeometryError(
            "The affine must be an invertible matrix of finite numbers.",
            hint="Check sform and qform of the image, or convert the DICOMs again.",
            code=ErrorCode.GEOMETRY,
        )
    zooms = torch.tensor(spacing.zyx, dtype=torch.float64)
    if bool(torch.allclose(scale, zooms, rtol=1e-3)):
        return spacing, affine, ()
    affine[:3, :3] *= zooms / scale
    return spacing, affine, (SPACING_FROM_ZOOMS,)


def _frame_ms(value: float, unit: str) -> float | None:
    """Time step in ms, if it can be one: many converters leave 0 or 1 there, or forget the unit."""
    units = [_MILLISECONDS[unit]] if unit in _MILLISECONDS else [_MILLISECONDS["sec"], _MILLISECONDS["msec"]]
    low, high = _PLAUSIBLE_FRAME_MS
    plausible = [value * to_ms for to_ms in units if low <= value * to_ms <= high]
    return plausible[0] if plausible else None


def decode(file: BufferedIOBase, raw: Any) -> NDArray[Any]:
    """Read the voxels, axes reversed (…, z, y, x), with the header's scaling applied.

    Raises:
        ImageError: The voxels are colours or complex numbers.
    """
    stored = raw.raw_data_from_fileobj(file)
    if isinstance(file, gzip.GzipFile):
        _compare_checksum(file)
    if stored.dtype.kind not in "iuf":
        raise ImageError(
            f"Expected one number a voxel, found {stored.dtype}.",
            hint="Export a magnitude image, not colours or complex numbers.",
            code=ErrorCode.IMAGE_VALUES,
        )
    slope, intercept = raw.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return np.asarray(stored.T)
    with np.errstate(over="ignore", invalid="ignore"):  # whoever uses the voxels refuses what is not finite
        return np.asarray(stored.T * np.float64(slope) + np.float64(intercept))


def _compare_checksum(file: gzip.GzipFile) -> None:
    """Read on to the end of the stream: only there is its checksum compared."""
    if len(file.read(_TRAILING_BYTES)) == _TRAILING_BYTES:
        raise ValueError("the file goes on long after its last voxel")
