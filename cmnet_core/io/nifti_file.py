"""Read one NIfTI file from its bytes: check and describe its header, decode its voxels.

The raw header is used, because nibabel's loader silently replaces a voxel size of 0 by 1.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float, Float64
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import CaseError, ErrorCode, ImageError
from cmnet_core.io.file_content import missing_file, pointer_remedy
from cmnet_core.io.nifti_geometry import AxisOrder, axis_order, geometry, length_unit_mm, time_step_ms
from cmnet_core.types import CineSequence, Spacing

_DAMAGE = (OSError, EOFError, ValueError, LookupError, OverflowError, zlib.error, HeaderDataError, WrapStructError)
_HEADER_BYTES = {1: 348, 2: 540}
_DEFLATE_LIMIT = 1032  # largest compression ratio of gzip: a header that declares more data is false
_TRAILING_BYTES = 2**20
_MAX_VOXELS = 2**28
_MAX_VOX_OFFSET = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """The description of an image file, without its voxels.

    Attributes:
        frames: Number of frames; 1 for a single volume.
        grid: Number of voxels along (z, y, x).
        spacing: Voxel spacing in mm.
        affine: Affine, as in :class:`CineSequence`.
        frame_ms: Time between two frames in ms, or None if the header has no plausible value.
        flags: Quality flags.
    """

    frames: int
    grid: tuple[int, int, int]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]
    frame_ms: float | None
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        require_size(self.frames * math.prod(self.grid))

    def cine(self, voxels: Float[Tensor, "t z y x"], *, frame_ms: float | None) -> CineSequence:
        """Build the cine of these voxels, with ED and ES unknown; a given frame time overrides the file's."""
        step_ms = self.frame_ms if frame_ms is None else frame_ms
        return CineSequence(voxels, self.spacing, self.affine, step_ms, ed=None, es=None, flags=self.flags)


def grid_difference(found: Header, expected: Header | CineSequence) -> str:
    """Describe how one grid differs from another; empty if they agree within half a voxel."""
    shape = expected.grid if isinstance(expected, Header) else tuple(expected.voxels.shape[1:])
    if found.grid != shape:
        return f"{found.grid} voxels (z, y, x) where {shape} were expected"
    corners = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in shape))
    homogeneous = torch.cat([corners, torch.ones(8, 1, dtype=torch.float64)], dim=1)
    apart = (homogeneous @ (found.affine - expected.affine).T).norm(dim=1).max().item()
    if apart > 0.5 * min(expected.spacing.zyx):
        return f"corners up to {apart:.1f} mm apart"
    return ""


def mask_remedy(mask: Header, image: Header | CineSequence) -> str:
    """Return what the user can do about a mask that is not on the grid of its image."""
    shape = image.grid if isinstance(image, Header) else tuple(image.voxels.shape[1:])
    directions = (mask.affine[:3, :3] / mask.affine[:3, :3].norm(dim=0)).abs()
    unplaced = bool((mask.affine[:3, 3] == 0).all()) and torch.allclose(directions, torch.eye(3).double().flip(1))
    if mask.grid == shape and unplaced:
        return (
            "The mask has no position in the scanner (its affine is the identity): if it was drawn on this image, copy "
            "the image's header to it; resampling would move it."
        )
    return "Resample the mask to the grid of the image, or give the mask that was drawn on this image."


@contextmanager
def open_nifti(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, decompressed if necessary; errors raised in the block name the file.

    Raises:
        ImageError: The file is missing or damaged.
    """
    if path.is_symlink() and not path.exists():
        raise missing_file(path)  # links in a circle raise another error when they are opened
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder, a pipe or a device")  # reading from a pipe would block
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if zipped else file
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except _DAMAGE as error:
        remedy = _pointer_remedy(path)
        if remedy is not None:
            raise ImageError(
                f"{path}: expected a NIfTI file, found a pointer to its content.",
                hint=f"Fetch the content with {remedy}.",
                code=ErrorCode.FILE_MISSING,
            ) from error
        raise ImageError(
            f"{path}: expected an intact NIfTI file, reading it failed: {error}.",
            hint="Copy or download the file again, or convert it again from its source.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


def _pointer_remedy(path: Path) -> str | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return pointer_remedy(file.read(512))
    except OSError:
        return None


def raw_header(file: BufferedIOBase, path: Path) -> Any:
    """Read nibabel's raw header, and check what must hold before memory is allocated.

    Raises:
        ImageError: The dimensions are not those of an image, or the voxels are in another file.
        ValueError: This is not a NIfTI file, or it declares more voxels than it can hold.
    """
    # Not from_fileobj, which also reads the extensions, whose offsets may be damaged.
    block = file.read(_HEADER_BYTES[2])
    version = next((v for v, size in _HEADER_BYTES.items() if size in _both_endians(block[:4])), None)
    if version is None:
        raise ValueError("this is not a NIfTI header")
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    raw = kind(block[: _HEADER_BYTES[version]], check=False)
    if raw["magic"].item()[:3] != b"n+%d" % version:
        raise ImageError(
            "Expected a NIfTI file with header and voxels, found the header of a pair '.hdr' and '.img'.",
            hint="Store the pair as one '.nii' or '.nii.gz' file, for instance with nibabel.load and nibabel.save.",
            code=ErrorCode.FILE_DAMAGED,
        )
    shape = raw.get_data_shape()
    if len(shape) < 3 or min(shape) < 1:
        raise ImageError(
            f"Expected a 3-D or 4-D image, found shape {tuple(map(int, shape))}.",
            hint="Give a 4-D image, or two 3-D images as 'ED.nii.gz;ES.nii.gz'.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    declared = math.prod(map(int, shape)) * raw.get_data_dtype().itemsize
    if declared > path.stat().st_size * (_DEFLATE_LIMIT if isinstance(file, gzip.GzipFile) else 1):
        raise ValueError(f"the header declares {declared} bytes of voxels, more than the file can hold")
    if not _HEADER_BYTES[version] <= raw.get_data_offset() <= _MAX_VOX_OFFSET:
        raise ValueError(f"by its header, the voxels start at byte {raw.get_data_offset()}")
    require_size(math.prod(map(int, shape)))
    return raw


def require_size(voxels: int) -> None:
    """Refuse an implausibly large image before memory is allocated for it.

    Raises:
        ImageError: It has too many voxels.
    """
    if voxels > _MAX_VOXELS:
        raise ImageError(
            f"Expected a short-axis cine, found {voxels} voxels; the limit is {_MAX_VOXELS}.",
            hint="Check the dimensions; give one cine of one visit.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )


def _both_endians(number: bytes) -> tuple[int, int]:
    return int.from_bytes(number, "little"), int.from_bytes(number, "big")


def describe(raw: Any) -> Header:
    """Convert nibabel's header to a :class:`Header`.

    Raises:
        ImageError: There is more than one non-spatial axis.
        GeometryError: Voxel sizes or affine are not valid.
    """
    shape = tuple(int(n) for n in raw.get_data_shape())
    axes = axis_order_of(raw)
    spacing, affine, flags = geometry(raw, axes)
    frames = 1 if axes.time is None else shape[axes.time]
    frame_ms: float | None = None
    if axes.time is not None:
        value, unit = float(raw["pixdim"][axes.time + 1]), raw.get_xyzt_units()[1]
        frame_ms, time_flags = time_step_ms(value, unit, frames=frames)
        flags += time_flags
    z, y, x = (shape[axis] for axis in axes.zyx)
    return Header(frames, (z, y, x), spacing, affine, frame_ms, tuple(sorted(flags)))


def axis_order_of(raw: Any) -> AxisOrder:
    """Identify the axes of a file.

    Raises:
        ImageError: There is more than one non-spatial axis.
    """
    zooms = tuple(float(zoom) * length_unit_mm(raw) for zoom in raw["pixdim"][1:8])
    return axis_order(tuple(int(n) for n in raw.get_data_shape()), zooms)


def decode(file: BufferedIOBase, raw: Any, *, as_stored: bool = False) -> NDArray[Any]:
    """Read the voxels, with axes reversed (…, z, y, x) and the header's scaling applied.

    A plain file is memory-mapped and a compressed one streamed by volume, so that there is never a second copy.

    Args:
        file: The open file.
        raw: Its header.
        as_stored: Whether unscaled voxels keep the data type of the file; otherwise they are in single precision.

    Raises:
        ImageError: The voxels are colours or complex numbers.
    """
    dtype = raw.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ImageError(
            f"Expected one number per voxel, found {dtype}.",
            hint="Export a magnitude image, not a colour or complex image.",
            code=ErrorCode.IMAGE_VALUES,
        )
    shape = tuple(int(n) for n in raw.get_data_shape())
    volumes = math.prod(shape[3:])
    slope, intercept = raw.get_slope_inter()
    scaled = slope is not None and (slope, intercept) != (1.0, 0.0)
    values = np.empty((volumes, math.prod(shape[:3])), dtype=dtype if as_stored and not scaled else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for n, stored in enumerate(_volumes(file, raw, volumes=volumes, voxels=values.shape[1])):
            values[n] = stored * np.float64(slope) + np.float64(intercept) if scaled else stored
    if isinstance(file, gzip.GzipFile):
        _compare_checksum(file)
    return values.reshape(shape[::-1])


def decode_cine(file: BufferedIOBase, raw: Any) -> NDArray[np.float32]:
    """Like :func:`decode`, with axes (t, z, y, x) whatever their order in the file."""
    axes, values = axis_order_of(raw), decode(file, raw)
    last = values.ndim - 1
    order = [last - axis for axis in axes.zyx]
    rest = [n for n in range(values.ndim) if n not in order]  # time, and axes of length 1
    ordered = values.transpose(*rest, *order)
    return np.ascontiguousarray(ordered.reshape(-1, *ordered.shape[-3:]))


def _volumes(file: BufferedIOBase, raw: Any, *, volumes: int, voxels: int) -> Iterator[NDArray[Any]]:
    dtype, offset = raw.get_data_dtype(), raw.get_data_offset()
    if not isinstance(file, gzip.GzipFile):
        yield from np.memmap(cast(IO[bytes], file), dtype=dtype, mode="r", offset=offset, shape=(volumes, voxels))
        return
    file.seek(offset)
    for _ in range(volumes):
        block = file.read(voxels * dtype.itemsize)
        if len(block) < voxels * dtype.itemsize:
            raise EOFError("the file ends before its last voxel")
        yield np.frombuffer(block, dtype=dtype)


def _compare_checksum(file: gzip.GzipFile) -> None:
    """Read to the end of the stream, where gzip compares the checksum."""
    if len(file.read(_TRAILING_BYTES)) == _TRAILING_BYTES:
        raise ValueError("the file has much data after its last voxel")
