"""The tags of a header have the values that pydicom reads, however long the header is."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cmnet_core.io.dicom_file import Member
from cmnet_core.io.dicom_image import ImageHeader, read_headers
from cmnet_core.io.dicom_tags import Tags, parse_header
from tests.dicoms import Image, dataset_of, encoded

IMAGE = Image(2, 3.0, 5.0, 8, description="ciné SAX", shape=(208, 186), phases_told=True)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_values_are_those_of_pydicom(syntax: str) -> None:
    dataset = dataset_of(IMAGE)
    dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 192", "9900001"
    dataset.file_meta.TransferSyntaxUID = syntax
    content = encoded(dataset)
    found, complete = parse_header(content, truncated=False)
    tags, expected = Tags((found,)), pydicom.dcmread(io.BytesIO(content))
    assert complete
    for keyword in ("Rows", "Columns", "InstanceNumber", "TriggerTime", "RescaleSlope", "CardiacNumberOfImages"):
        assert tags.number(keyword) == float(expected[keyword].value)
    for keyword in ("PatientID", "SeriesDescription", "SeriesInstanceUID"):
        assert tags.get(keyword) == str(expected[keyword].value)
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        np.testing.assert_array_equal([float(mm) for mm in tags.get(keyword)], expected[keyword].value)
    assert tags.get("TemporalPositionIdentifier") is None


@pytest.mark.parametrize("length", [0, 20_000, 200_000])
def test_private_elements_of_any_length_precede_the_pixels(length: int) -> None:
    dataset = dataset_of(IMAGE)
    dataset.private_block(0x0029, "TEST", create=True).add_new(0x10, "OB", bytes(length))
    content = encoded(dataset)
    (header,) = read_headers(Member("a", len(content), lambda: io.BytesIO(content)))  # type: ignore[misc]
    assert isinstance(header, ImageHeader)
    assert (header.shape, header.phases, header.trigger_ms) == ((208, 186), 8, 140.0)
