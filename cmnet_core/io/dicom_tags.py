"""The tags of a DICOM header that are read, and their values.

A header is parsed from memory, where a false length cannot run away. Of personal data only PatientID is read.
"""

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator, read_dataset, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import VR

from cmnet_core.io.dicom_file import DAMAGE

_PREAMBLE_BYTES = 128
_META_GROUP, _TRANSFER_SYNTAX = 0x0002, Tag("TransferSyntaxUID")
PIXEL_GROUP = 0x7FE0
"""Group of the pixel data, which follows the header."""

_IMAGE_GROUP, _NUMBER_OF_FRAMES = 0x0028, int(Tag("NumberOfFrames"))
# Tags are in ascending order. Behind this group are tags that are read only in files with a number of frames: their
# functional groups. In other files private elements follow, which may have 100 kB and more.

_MAX_ELEMENTS = 4096

_TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "NumberOfFrames",
        "ImageType",
        "PhotometricInterpretation",
        "ComplexImageComponent",
        "PatientID",
        "StudyInstanceUID",
        "FrameOfReferenceUID",
        "DimensionIndexSequence",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
        "SpacingBetweenSlices",
        "TriggerTime",
        "NominalCardiacTriggerDelayTime",
        "NominalInterval",
        "HeartRate",
        "CardiacNumberOfImages",
        "TemporalPositionIdentifier",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDescription",
        "ProtocolName",
        "AcquisitionTime",
        "InstanceNumber",
        "SOPInstanceUID",
        "RescaleSlope",
        "RescaleIntercept",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
    )
}
"""The tags of a header that are read."""

_FRAME_TAGS = {
    keyword: Tag(keyword)
    for keyword in (
        "DimensionIndexValues",
        "FrameType",
        "NominalPercentageOfCardiacPhase",
        "RRIntervalTimeNominal",
        "TemporalPositionIndex",
    )
}
"""Further tags in the sequences of an enhanced file."""

_TEXT_VRS = frozenset({VR.CS, VR.DS, VR.IS, VR.LO, VR.SH, VR.TM, VR.UI})


def parse_header(content: bytes, *, truncated: bool) -> tuple[Dataset, bool]:
    """Parse the header of a file.

    Args:
        content: The file, or its beginning.
        truncated: Whether it is only the beginning, which may end within an element.

    Returns:
        The header, and whether all tags that are read, or else the pixel data, were reached.

    Raises:
        ValueError: Or another exception of ``DAMAGE``: the file is damaged.
    """
    reached, elements, has_frames = False, 0, False

    def at_end(tag: BaseTag, _: str | None, __: int) -> bool:
        nonlocal reached, elements, has_frames
        # The comparisons and properties of pydicom's tags would take longer than the rest.
        number, elements = tag.real, elements + 1
        group, has_frames = number >> 16, has_frames or number == _NUMBER_OF_FRAMES
        reached = group == PIXEL_GROUP or (group > _IMAGE_GROUP and not has_frames)
        if elements > _MAX_ELEMENTS:
            raise ValueError("the header does not end")
        return reached

    with pydicom.config.disable_value_validation():
        try:
            found = _read_until(content, at_end)
        except DAMAGE:
            if truncated:
                return Dataset(), False
            raise
    return found, reached


def _read_until(content: bytes, stop_when: Callable[[BaseTag, str | None, int], bool]) -> Dataset:
    """Read the elements of a file until a condition is met.

    Where the file says that it is little endian, as nearly all are, only its elements are read; pydicom's function for
    any file takes longer to describe the file than to read it.
    """
    stream = io.BytesIO(content)
    wanted: list[BaseTag | int] = list(_TAGS.values())
    if content[_PREAMBLE_BYTES:].startswith(b"DICM"):
        stream.seek(_PREAMBLE_BYTES + 4)
        meta = {
            element.tag: element.value
            for element in data_element_generator(stream, False, True, lambda tag, *_: tag.group != _META_GROUP)
        }
        syntax = (meta.get(_TRANSFER_SYNTAX) or b"").decode("ascii").strip(" \0")
        explicit = syntax.startswith(f"{ImplicitVRLittleEndian}.") and syntax != ExplicitVRBigEndian
        if explicit or syntax == ImplicitVRLittleEndian:
            return read_dataset(stream, not explicit, True, stop_when=stop_when, specific_tags=wanted)
    return read_partial(io.BytesIO(content), stop_when, specific_tags=wanted, force=True)


def _value(layer: Dataset, tag: BaseTag) -> Any:
    """The value of an element, or None where it is missing: a list, where a text has several parts.

    Texts of ASCII and small numbers are decoded here, since pydicom's conversions take most of the time that a header
    takes.
    """
    element = layer.get_item(tag)
    if element is None:
        return None
    if isinstance(element, RawDataElement) and element.value is not None:
        kind = element.VR or dictionary_VR(tag)
        # An escape sequence selects another character set.
        if kind in _TEXT_VRS and element.value.isascii() and b"\x1b" not in element.value:
            parts = [part.strip(" \0") for part in element.value.decode("ascii").split("\\")]
            return parts if len(parts) > 1 else parts[0]
        if kind == VR.US and len(element.value) == struct.calcsize("H"):
            return struct.unpack("<H" if element.is_little_endian else ">H", element.value)[0]
    return layer[tag].value


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one image: per-frame values take precedence over shared ones."""

    layers: tuple[Dataset, ...]

    def get(self, keyword: str) -> Any:
        """Return the value, or None where it is missing or empty; a number may be a text still."""
        for layer in self.layers:
            value = _value(layer, _TAGS.get(keyword) or _FRAME_TAGS[keyword])
            if value is not None and value != "":
                return value
        return None

    def number(self, keyword: str) -> float | None:
        """Return a finite number, or None."""
        value = self.get(keyword)
        number = None if value is None else float(value)
        return number if number is not None and math.isfinite(number) else None

    def positive(self, keyword: str) -> float | None:
        """Return a positive number, or None."""
        number = self.number(keyword)
        return number if number is not None and number > 0 else None

    def integer(self, keyword: str) -> int | None:
        """Return a whole number, or None."""
        number = self.number(keyword)
        return None if number is None else int(number)
