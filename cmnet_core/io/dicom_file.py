"""DICOM files one by one: finding them in a folder or a zip, their headers and their pixels.

Nothing is unpacked to disk, and only the tags listed here are read, so that nothing personal is ever in memory.
"""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_rescale

from cmnet_core.errors import CaseError, ErrorCode, ImageError

_MAX_FILES = 50_000
_MAX_FILE_BYTES = 256 * 2**20
_MAX_TOTAL_BYTES = 8 * 2**30
_MAX_DIRECTORY_BYTES = 16 * 2**20
_MAX_RATIO, _RATIO_FROM_BYTES = 100, 256 * 2**20  # cines shrink to a half or a third
_END_BYTES = 65535 + 22 + 20 + 56  # the longest comment and the three records that may end a zip
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAGIC_AT = 128

_HEADER_TAGS = [
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "NominalInterval",
    "HeartRate",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
]
_PIXEL_TAGS = [
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelData",
]

DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,  # encrypted members, missing decoders
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    InvalidDicomError,
    BytesLengthException,
)
"""What pydicom and zipfile raise on files that are not whole."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a folder or zip, and how to open it."""

    name: str
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class ImageHeader:
    """What places one image in space and time.

    Attributes:
        member: Where its pixels are.
        shape: Rows and columns.
        pixel_mm: Distance between rows, and between columns.
        position: Centre of the first pixel, LPS mm.
        orientation: Direction along a row (x) and down a column (y), LPS, one a line.
        slice_mm: Distance to the next slice as the header tells it, or None.
        trigger_ms: Time since the R wave, or None.
        cycle_ms: Length of the heart beat, or None.
        series: Number and identifier of the series.
        instance: Number within the series.
    """

    member: Member
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    slice_mm: float | None
    trigger_ms: float | None
    cycle_ms: float | None
    series: tuple[int, str]
    instance: int

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slice, LPS."""
        normal = np.cross(self.orientation[0], self.orientation[1])
        return np.asarray(normal / np.linalg.norm(normal))


@contextmanager
def opened(path: Path) -> Iterator[list[Member]]:
    """List the files of a folder or zip, sorted by name, and keep them within reach.

    Raises:
        ImageError: There is no such folder or zip, it cannot be read, or it is larger than any cine.
    """
    try:
        if path.is_dir():
            yield _in_folder(path)
        else:
            with path.open("rb") as file:
                _limit_directory(file)
                with zipfile.ZipFile(file) as archive:
                    yield _in_zip(archive)
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error
    except FileNotFoundError as error:
        raise ImageError(
            f"{path}: there is no such folder or zip.",
            hint="Correct the path in the manifest; relative paths start at the manifest's folder.",
            code=ErrorCode.FILE_MISSING,
        ) from error
    except DAMAGE as error:
        raise ImageError(
            f"{path}: expected a folder or zip of DICOM files, reading it failed: {error}.",
            hint="Copy or download it again.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


def read_header(member: Member) -> ImageHeader | None:
    """Read what places an image in space and time.

    Returns:
        The header, or None where the file is no single grey image with a place in the patient.

    Raises:
        ValueError: Or any other of ``DAMAGE``: the header is not whole.
    """
    with member.open() as file:
        if file.read(_MAGIC_AT + 4)[_MAGIC_AT:] != b"DICM":
            return None
        file.seek(0)
        with _tolerant():
            found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            return _placed(found, member)


def read_pixels(header: ImageHeader) -> NDArray[np.float32]:
    """Decode one image, with its rescale slope and intercept applied.

    Raises:
        ImageError: The pixels are damaged, or packed in a way that no installed decoder knows.
    """
    try:
        with header.member.open() as file, _tolerant():
            found = pydicom.dcmread(file, specific_tags=_PIXEL_TAGS)
            pixels = apply_rescale(found.pixel_array, found).astype(np.float32)
    except DAMAGE as error:
        raise ImageError(
            f"Decoding {header.member.name} failed: {error}.",
            hint="Copy the file again; if it is compressed, 'pip install pylibjpeg[all]' adds decoders.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error
    return pixels


@contextmanager
def _tolerant() -> Iterator[None]:
    """Read files that break the standard in ways that do not matter here, as research archives are full of them.

    What pydicom warns of either shows in the image or raises one of ``DAMAGE``.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


class _Bounded(io.BufferedReader):
    """A file that gives no more than it has: asked for 4 GB by a damaged length, Python would allocate them first."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, self._size))


def _in_folder(folder: Path) -> list[Member]:
    root = folder.resolve()
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.resolve().is_relative_to(root)]
    _limit([p.stat().st_size for p in files])
    return [Member(str(p.relative_to(folder)), lambda p=p: _Bounded(p)) for p in files]  # type: ignore[misc]


def _in_zip(archive: zipfile.ZipFile) -> list[Member]:
    files = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    _limit([info.file_size for info in files])  # zipfile never hands out more than a member declares
    unpacked, packed = sum(info.file_size for info in files), sum(info.compress_size for info in files)
    if unpacked > max(_RATIO_FROM_BYTES, _MAX_RATIO * packed):
        raise _trap(f"{unpacked / 2**20:.0f} MiB packed into {packed / 2**20:.1f} MiB")
    if any(info.compress_type not in _PACKINGS for info in files):
        raise _trap("files packed in a way that no data bank uses")
    return [Member(i.filename, lambda i=i: archive.open(i)) for i in files]  # type: ignore[misc]


def _limit(sizes: list[int]) -> None:
    if len(sizes) > _MAX_FILES or max(sizes, default=0) > _MAX_FILE_BYTES or sum(sizes) > _MAX_TOTAL_BYTES:
        raise _trap(f"{len(sizes)} files with {sum(sizes) / 2**20:.0f} MiB")


def _limit_directory(file: IO[bytes]) -> None:
    """Refuse a zip whose list of names is longer than any subject's, before it is read into memory.

    The length of the list stands at byte 12 of the record that ends a zip, or, where that holds only ones, at byte 40
    of the larger record before it: sections 4.3.16 and 4.3.14 of PKWARE's APPNOTE.
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
    tail = file.read()
    end, large_end = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if listed == 2**32 - 1 and large_end >= 0:
        listed = int.from_bytes(tail[large_end + 40 : large_end + 48], "little")
    if listed > _MAX_DIRECTORY_BYTES:
        raise _trap(f"a list of names with {listed / 2**20:.0f} MiB")


def _trap(found: str) -> ImageError:
    return ImageError(
        f"Expected one subject's DICOM files, found {found}.",
        hint="Give the folder or zip of one visit; a zip that swells like this may be a trap.",
        code=ErrorCode.DICOM,
    )


def _placed(found: Dataset, member: Member) -> ImageHeader | None:
    position, orientation = found.get("ImagePositionPatient"), found.get("ImageOrientationPatient")
    grey = int(found.get("SamplesPerPixel") or 1) == 1 and int(found.get("NumberOfFrames") or 1) == 1
    if not (position and orientation and found.get("PixelSpacing") and found.get("Rows") and grey):
        return None
    return ImageHeader(
        member=member,
        shape=(int(found.Rows), int(found.Columns)),
        pixel_mm=(float(found.PixelSpacing[0]), float(found.PixelSpacing[1])),
        position=_finite(np.asarray(position, dtype=np.float64)),
        orientation=_unit_rows(np.asarray(orientation, dtype=np.float64).reshape(2, 3)),
        slice_mm=_number(found, "SpacingBetweenSlices") or _number(found, "SliceThickness"),
        trigger_ms=_trigger_ms(found),
        cycle_ms=_cycle_ms(found),
        series=(int(found.get("SeriesNumber") or 0), str(found.get("SeriesInstanceUID") or "")),
        instance=int(found.get("InstanceNumber") or 0),
    )


def _finite(position: NDArray[np.float64]) -> NDArray[np.float64]:
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError("the image position is not three numbers")
    return position


def _unit_rows(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(orientation, axis=1, keepdims=True)
    if not np.allclose(lengths, 1.0, atol=0.01) or abs(orientation[0] @ orientation[1]) > 0.01:
        raise ValueError("the image orientation is not a pair of perpendicular unit vectors")
    return np.asarray(orientation / lengths)


def _number(found: Dataset, keyword: str) -> float | None:
    value = found.get(keyword)
    return None if value is None or value == "" else float(value)


def _trigger_ms(found: Dataset) -> float | None:
    trigger = _number(found, "TriggerTime")
    return _number(found, "NominalCardiacTriggerDelayTime") if trigger is None else trigger


def _cycle_ms(found: Dataset) -> float | None:
    rate = _number(found, "HeartRate")
    return _number(found, "NominalInterval") or (60_000.0 / rate if rate else None)
