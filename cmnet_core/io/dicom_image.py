"""Read one DICOM file: position and time of each of its images, and their pixels.

Of personal data only PatientID is read, of which a digest is kept. Files are parsed from memory, where a false length
cannot run away; the declared size of a compressed image is checked before decoding.
"""

import hashlib
import io
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io.dicom_file import DAMAGE, Link, Member
from cmnet_core.io.dicom_tags import PIXEL_GROUP, Tags, parse_header
from cmnet_core.io.dicom_unusable import Unusable
from cmnet_core.io.file_content import FileFormat, format_of, pointer_remedy

_MAGIC_AT = 128
_HEAD_BYTES = (8 * 2**10, 64 * 2**10)  # private headers of some scanners are longer than the first number
_MAX_HEADER_BYTES = 16 * 2**20  # of the longest enhanced header
_MAX_SIDE = 4096
_MAX_FRAMES = 20_000
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_DECODERS = {"gdcm", "pylibjpeg"}
_JPEG = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)

_PIXEL_TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "NumberOfFrames",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
    )
]


_CARDIAC_PHASE_TAGS = frozenset(
    Tag(keyword)
    for keyword in (
        "TemporalPositionIndex",
        "NominalCardiacTriggerDelayTime",
        "NominalPercentageOfCardiacPhase",
        "ActualCardiacTriggerDelayTime",
        "TriggerTime",
        "TemporalPositionTimeOffset",
    )
)
"""Attributes that a dimension index of an enhanced file may point to and that order its frames in time."""


@dataclass(frozen=True, slots=True)
class Study:
    """The person and the study that an image belongs to; the person is known by a digest only.

    Attributes:
        patient: First digits of the SHA-256 of PatientID, or an empty text.
        uid: StudyInstanceUID.
        frame_of_reference: FrameOfReferenceUID.
    """

    patient: str
    uid: str
    frame_of_reference: str


@dataclass(frozen=True, slots=True, eq=False)
class ImageHeader:
    """Position, time and identity of one image.

    Attributes:
        member: The file with its pixels.
        frame: Its index in that file, from 0.
        shape: Rows and columns.
        pixel_mm: Distance between rows and between columns in mm.
        position: Centre of the first pixel in LPS mm.
        orientation: Unit vectors along a row (x) and along a column (y), LPS.
        slice_mm: Distance to the next slice in mm by the header, or None.
        thickness_mm: Slice thickness in mm, or None.
        trigger_ms: Time since the R wave in ms, or None.
        phase: Index of the phase, or None.
        phases: Number of phases by the header, or None.
        cycle_ms: Duration of the cardiac cycle in ms, or None.
        series: Number and UID of the series.
        acquired: Time of day of the acquisition.
        instance: Instance number within the series.
        uid: UID of the image; copies share it.
        description: Description of the series.
        image_type: Values of ImageType and ComplexImageComponent, upper case.
        study: The person and study.
        rescale: Rescale slope and intercept.
    """

    member: Member
    frame: int
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    slice_mm: float | None
    thickness_mm: float | None
    trigger_ms: float | None
    phase: int | None
    phases: int | None
    cycle_ms: float | None
    series: tuple[int, str]
    acquired: str
    instance: int
    uid: str
    description: str
    image_type: tuple[str, ...]
    study: Study
    rescale: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slice, LPS."""
        # For three numbers, np.cross takes most of the time of reading a header.
        (x, y, z), (u, v, w) = self.orientation.tolist()
        normal = (y * w - z * v, z * u - x * w, x * v - y * u)
        return np.array(normal) / math.hypot(*normal)


def read_headers(member: Member) -> list[ImageHeader] | Unusable:
    """Read the headers of all images of a file.

    Returns:
        One header per image, or the reason why the file has no greyscale images with a position in the patient.

    Raises:
        ValueError: Or another exception of ``DAMAGE``: the file is damaged.
    """
    if member.link is not Link.FOLLOWED:
        return Unusable.LINK_OUTSIDE if member.link is Link.OUTSIDE else Unusable.LINK_BROKEN
    with member.open() as file:
        content = file.read(min(_HEAD_BYTES[0], member.size))
        if not _is_dicom(content):
            return _other_format(content)
        if _is_deflated(content):
            return Unusable.DEFLATED
        found, complete = parse_header(content, truncated=member.size > len(content))
        for limit in (*_HEAD_BYTES[1:], _MAX_HEADER_BYTES):
            if not complete and len(content) < min(member.size, limit):
                content += file.read(min(member.size, limit) - len(content))
                found, complete = parse_header(content, truncated=len(content) < min(member.size, _MAX_HEADER_BYTES))
    return _headers_of(found, member) if complete else Unusable.NO_IMAGE


def _other_format(content: bytes) -> Unusable:
    """The format of a file that is not DICOM, by its first bytes."""
    if pointer_remedy(content) is not None:
        return Unusable.POINTER
    named = {FileFormat.ZIP: Unusable.ZIP, FileFormat.TAR: Unusable.TAR, FileFormat.NIFTI: Unusable.NIFTI}
    return named.get(format_of(content), Unusable.NOT_DICOM)


def read_pixels(images: Sequence[ImageHeader]) -> Iterator[NDArray[np.float32]]:
    """Decode images one by one, with rescale slope and intercept applied.

    Raises:
        ImageError: The pixels are damaged, or no installed decoder supports their compression.
    """
    for member, group in groupby(images, key=lambda image: image.member):
        of_member = list(group)
        try:
            yield from _decoded(member, of_member)
        except DAMAGE as error:
            raise ImageError(
                f"Decoding {member.name} failed: {error}.",
                hint="Copy the file again; if it is intact, convert it to uncompressed DICOM or to NIfTI.",
                code=ErrorCode.FILE_DAMAGED,
            ) from error


def _decoded(member: Member, images: Sequence[ImageHeader]) -> Iterator[NDArray[np.float32]]:
    with member.open() as file:
        content = file.read(member.size)
    if _is_deflated(content):
        raise ValueError("the file is deflated, and may expand without limit")
    # Identifiers in research archives often violate the standard in ways that do not matter here.
    with pydicom.config.disable_value_validation():
        dataset = read_partial(io.BytesIO(content), _is_behind_pixels, specific_tags=_PIXEL_TAGS, force=True)
        frames = [image.frame for image in images]
        _check_packing(dataset, frames)
        for image, pixels in zip(images, iter_pixels(dataset, indices=frames, raw=True), strict=True):
            if pixels.shape != image.shape:
                raise ValueError(f"expected {image.shape} pixels, found {pixels.shape}")
            if str(dataset.get("PhotometricInterpretation") or "").upper() == "MONOCHROME1":
                pixels = _inverted(pixels, dataset)
            slope, intercept = image.rescale
            yield (pixels * np.float64(slope) + np.float64(intercept)).astype(np.float32)


def _inverted(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.int64]:
    """Pixels of MONOCHROME1, in which the smallest value is white, as those of MONOCHROME2 (PS3.3 C.7.6.3.1.2)."""
    signed, bits = bool(dataset.PixelRepresentation), int(dataset.BitsStored)
    # The smallest and the largest storable value add up to this.
    return np.asarray((-1 if signed else 2**bits - 1) - pixels.astype(np.int64))


def _is_behind_pixels(tag: BaseTag, _: str | None, __: int) -> bool:
    return tag.group > PIXEL_GROUP


def _check_packing(dataset: Dataset, frames: Sequence[int]) -> None:
    """Require a decoder, and that the stream declares the size of the header: decoders allocate what it declares."""
    syntax = _transfer_syntax(dataset)
    if max(dataset.Rows, dataset.Columns) > _MAX_SIDE or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise ValueError("this is not a greyscale image of a plausible size")
    if syntax in _NATIVE or syntax == RLELossless:
        return
    if syntax not in _JPEG:
        raise ValueError(f"no decoder for {syntax.name}")
    # Pillow, which is always installed, decodes some images of other kinds of JPEG, and fails at those of 16 bits.
    if syntax != JPEGBaseline8Bit and not _DECODERS & set(get_decoder(syntax).available_plugins):
        raise ImageError(
            f"The images are compressed ({syntax.name}), and no decoder is installed.",
            hint="pip install 'cmnet[jpeg]', or convert them to uncompressed DICOM or to NIfTI.",
            code=ErrorCode.TOOL,
        )
    for frame in frames:
        stream = get_frame(dataset.PixelData, frame, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
        if _stream_shape(stream) != (dataset.Rows, dataset.Columns):
            raise ValueError("the compressed image and its header differ in size")


def _transfer_syntax(dataset: Dataset) -> UID:
    """The transfer syntax; files without it are in the default one, implicit little endian."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return UID(dataset.file_meta.TransferSyntaxUID)


def _stream_shape(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns declared by a JPEG or JPEG 2000 stream."""
    if stream[:4] == b"\xff\x4f\xff\x51":  # a JPEG 2000 codestream starts with its extent and offset
        width, height, left, top = struct.unpack(">4I", stream[8:24])
        return height - top, width - left
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack(">2H", stream[at + 5 : at + 9])
            return height, width
        at += 2 + length
    return None


def _is_dicom(content: bytes) -> bool:
    """Whether a file has the DICM prefix, or starts with group 2 or 8 as files without preamble do."""
    if content[_MAGIC_AT : _MAGIC_AT + 4] == b"DICM":
        return True
    return content[:2] in (b"\x02\0", b"\x08\0") and content[3:4] == b"\0"


def _is_deflated(content: bytes) -> bool:
    return DeflatedExplicitVRLittleEndian.encode() in content


def _headers_of(found: Dataset, member: Member) -> list[ImageHeader] | Unusable:
    with pydicom.config.disable_value_validation():
        tags = Tags((found,))
        frames = tags.integer("NumberOfFrames") or 1
        if (tags.integer("SamplesPerPixel") or 1) != 1:
            return Unusable.COLOUR
        if not tags.get("Rows") or not 1 <= frames <= _MAX_FRAMES:
            return Unusable.NO_IMAGE
        own = list(tags.get("PerFrameFunctionalGroupsSequence") or [])
        if frames > 1 and len(own) != frames:
            return Unusable.PLAIN_MULTI_FRAME
        shared = [group for item in tags.get("SharedFunctionalGroupsSequence") or [] for group in _groups(item)]
        layers = [(*(_groups(own[n]) if n < len(own) else ()), *shared, found) for n in range(frames)]
        temporal_index = _temporal_index(found)
        headers: list[ImageHeader] = []
        for frame, layer in enumerate(layers):
            header = _header(Tags(layer), member, frame, single=frames == 1, temporal_index=temporal_index)
            if isinstance(header, Unusable):
                return header
            headers.append(header)
        return headers


def _temporal_index(found: Dataset) -> int | None:
    """The position within DimensionIndexValues of the index that orders the frames of an enhanced file in time."""
    for number, item in enumerate(Tags((found,)).get("DimensionIndexSequence") or []):
        pointer = item.get("DimensionIndexPointer")
        if pointer is not None and Tag(pointer) in _CARDIAC_PHASE_TAGS:
            return number
    return None


def _groups(item: Dataset) -> list[Dataset]:
    """The functional groups of an enhanced DICOM: sequences of one item each."""
    return [element.value[0] for element in item if element.VR == "SQ" and len(element.value) == 1]


def _header(
    tags: Tags, member: Member, frame: int, *, single: bool, temporal_index: int | None
) -> ImageHeader | Unusable:
    position, orientation = tags.get("ImagePositionPatient"), tags.get("ImageOrientationPatient")
    if not (position and orientation):
        return Unusable.NO_POSITION
    pixel_mm = tags.get("PixelSpacing")
    if not pixel_mm:
        return Unusable.NO_PIXEL_SPACING
    return ImageHeader(
        member=member,
        frame=frame,
        shape=_shape(int(tags.get("Rows")), int(tags.get("Columns"))),
        pixel_mm=_pixel_mm(pixel_mm),
        position=_finite(np.asarray(position, dtype=np.float64)),
        orientation=_unit_rows(np.asarray(orientation, dtype=np.float64).reshape(2, 3)),
        slice_mm=tags.positive("SpacingBetweenSlices") or tags.positive("SliceThickness"),
        thickness_mm=tags.positive("SliceThickness"),
        trigger_ms=_trigger_ms(tags),
        phase=_phase(tags, temporal_index),
        phases=tags.integer("CardiacNumberOfImages"),
        cycle_ms=_cycle_ms(tags),
        series=(tags.integer("SeriesNumber") or 0, str(tags.get("SeriesInstanceUID") or "")),
        acquired=str(tags.get("AcquisitionTime") or ""),
        instance=(tags.integer("InstanceNumber") or 0) if single else frame + 1,
        uid=str(tags.get("SOPInstanceUID") or member.name),
        description=str(tags.get("SeriesDescription") or tags.get("ProtocolName") or ""),
        image_type=_image_type(tags),
        study=_study(tags),
        rescale=_rescale(tags),
    )


def _shape(rows: int, columns: int) -> tuple[int, int]:
    if not (1 <= rows <= _MAX_SIDE and 1 <= columns <= _MAX_SIDE):
        raise ValueError(f"the image has {rows} rows and {columns} columns")
    return rows, columns


def _pixel_mm(value: Any) -> tuple[float, float]:
    if isinstance(value, str):
        raise ValueError("the pixel spacing is not two numbers")
    between_rows, between_columns = (float(mm) for mm in value)
    if not (0 < between_rows < math.inf and 0 < between_columns < math.inf):
        raise ValueError("the pixel spacing is not two positive numbers")
    return between_rows, between_columns


def _finite(position: NDArray[np.float64]) -> NDArray[np.float64]:
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError("the image position is not three numbers")
    return position


def _unit_rows(orientation: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = [math.hypot(*row) for row in orientation.tolist()]
    # Not a number compares as false.
    unit = all(abs(length - 1.0) <= 0.01 for length in lengths)
    if not unit or abs(float(orientation[0] @ orientation[1])) > 0.01:
        raise ValueError("the image orientation is not a pair of perpendicular unit vectors")
    return np.asarray(orientation / np.array(lengths)[:, None])


def _trigger_ms(tags: Tags) -> float | None:
    trigger = tags.number("TriggerTime")
    if trigger is None:
        trigger = tags.number("NominalCardiacTriggerDelayTime")
    phase_pct, cycle_ms = tags.number("NominalPercentageOfCardiacPhase"), tags.positive("RRIntervalTimeNominal")
    if trigger is None and phase_pct is not None and cycle_ms is not None:
        return phase_pct / 100.0 * cycle_ms
    return trigger


def _cycle_ms(tags: Tags) -> float | None:
    rate = tags.positive("HeartRate")
    interval = tags.positive("NominalInterval") or tags.positive("RRIntervalTimeNominal")
    return interval or (60_000.0 / rate if rate else None)


def _phase(tags: Tags, temporal_index: int | None) -> int | None:
    """Index of the phase: the temporal position, or else the dimension index that orders the frames in time."""
    phase = tags.integer("TemporalPositionIndex") or tags.integer("TemporalPositionIdentifier")
    values = tags.get("DimensionIndexValues")
    if phase is None and temporal_index is not None and values is not None:
        indices = [values] if isinstance(values, int) else list(values)
        return int(indices[temporal_index]) if temporal_index < len(indices) else None
    return phase


def _image_type(tags: Tags) -> tuple[str, ...]:
    values = tags.get("FrameType") or tags.get("ImageType") or ()
    component = tags.get("ComplexImageComponent")
    parts = [*([values] if isinstance(values, str) else values), *([component] if component else [])]
    return tuple(str(part).strip().upper() for part in parts)


def _study(tags: Tags) -> Study:
    patient = str(tags.get("PatientID") or "").strip()
    return Study(
        patient=hashlib.sha256(patient.encode()).hexdigest()[:8] if patient else "",
        uid=str(tags.get("StudyInstanceUID") or ""),
        frame_of_reference=str(tags.get("FrameOfReferenceUID") or ""),
    )


def _rescale(tags: Tags) -> tuple[float, float]:
    slope, intercept = tags.number("RescaleSlope"), tags.number("RescaleIntercept")
    if slope == 0:
        raise ValueError("the rescale slope is 0")
    return 1.0 if slope is None else slope, intercept or 0.0
