"""A stack is the magnitude cine of one person, one study and one acquisition; other files are named by their kind."""

import hashlib
import io
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import dicom
from tests.dicoms import Image, dataset_of, encoded, enhanced_bytes, set_pixels, stack

EXPECTED = 100.0 * np.arange(4)[None, :] + np.arange(10.0)[:, None]


def write(
    folder: Path, images: Sequence[Image], change: Callable[[Dataset], None] = lambda _: None, name: str = "a"
) -> Path:
    """Write images as single files, each changed before it is encoded."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        dataset = dataset_of(image)
        change(dataset)
        (folder / f"{name}{number:04d}").write_bytes(encoded(dataset))
    return folder


def values(path: Path) -> np.ndarray:
    """The number that fills each slice and phase: (t, z)."""
    return dicom.read_cine(path, frame_ms=None).voxels[:, :, 0, 0].numpy()


def setting(**tags: object) -> Callable[[Dataset], None]:
    """A change that sets these attributes."""

    def change(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(
    ("other", "different"),
    [({"PatientID": "B", "StudyInstanceUID": "1.2.8"}, "persons"), ({"StudyInstanceUID": "1.2.8"}, "studies")],
)
def test_two_studies_in_one_folder_are_refused_without_naming_anyone(
    tmp_path: Path, other: dict[str, object], different: str
) -> None:
    images = stack(slices=4, phases=10)
    first = {"PatientID": "Roe^Jane", "StudyInstanceUID": "1.2.7"}
    write(tmp_path / "d", images, setting(**first))
    shifted = [image.changed(position_mm=image.z * 9.0 + 4.0, series=2) for image in images]
    write(tmp_path / "d", shifted, setting(**(first | other)), name="b")
    with pytest.raises(CmnetError, match=f"those of 2 {different}: .*1.2.7; .*1.2.8") as caught:
        dicom.inspect(tmp_path / "d")
    assert (caught.value.code, "Roe" in str(caught.value)) == (ErrorCode.DICOM, False)
    first_affine, other_affine = (dicom.inspect(tmp_path / "d", study=study).affine for study in ("1.2.7", "1.2.8"))
    assert (other_affine - first_affine)[:3, 3].norm().item() == pytest.approx(4.0, abs=1e-3)
    digest = hashlib.sha256(b"Roe^Jane").hexdigest()[:8]
    if different == "persons":
        assert dicom.inspect(tmp_path / "d", study=digest).frames == 10
    with pytest.raises(CmnetError, match=r"Expected the study '1.2.9', found patient .*1.2.7"):
        dicom.inspect(tmp_path / "d", study="1.2.9")


def test_a_localiser_of_another_study_is_ignored(tmp_path: Path) -> None:
    write(tmp_path / "d", stack(slices=4, phases=10), setting(StudyInstanceUID="1.2.7"))
    write(tmp_path / "d", stack(slices=2, phases=1), setting(StudyInstanceUID="1.2.8", SeriesDescription="scout"), "b")
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED)


def test_of_rest_and_stress_the_last_stack_is_used_and_flagged(tmp_path: Path) -> None:
    rest = [image.changed(value=7000.0) for image in stack(slices=4, phases=10)]
    stress = [image.changed(position_mm=image.z * 9.0 + 4.5, series=2) for image in stack(slices=4, phases=10)]
    write(tmp_path / "d", rest)
    write(tmp_path / "d", stress, name="b")
    cine = dicom.read_cine(tmp_path / "d", frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 0, 0].numpy(), EXPECTED)
    assert (cine.flags, cine.spacing.z) == (("repeated-slices",), pytest.approx(9.0))


def test_an_interrupted_repetition_does_not_replace_the_whole_stack(tmp_path: Path) -> None:
    again = [image.changed(value=7000.0, series=2) for image in stack(slices=4, phases=10) if image.phase < 4]
    write(tmp_path / "d", stack(slices=4, phases=10))
    write(tmp_path / "d", again, name="b")
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED)


def test_odd_and_even_slices_of_two_series_are_one_stack(tmp_path: Path) -> None:
    images = stack(slices=8, phases=10)
    odd, even = ([image.changed(series=1 + n) for image in images if image.z % 2 == n] for n in (0, 1))
    write(tmp_path / "d", odd)
    write(tmp_path / "d", even, name="b")
    cine = dicom.read_cine(tmp_path / "d", frame_ms=None)
    assert (tuple(cine.voxels.shape[:2]), cine.flags, cine.spacing.z) == ((10, 8), (), pytest.approx(9.0))


@pytest.mark.parametrize("kind", ["R", "I", "P", "REAL", "IMAGINARY", "MIP"])
def test_only_magnitude_images_are_used(tmp_path: Path, kind: str) -> None:
    images = stack(slices=4, phases=10)
    write(tmp_path / "d", images, setting(ImageType=["ORIGINAL", "PRIMARY", "M", "FFE"]))
    others = [image.changed(value=5000.0, instance=9000 + n) for n, image in enumerate(images)]
    write(tmp_path / "d", others, setting(ImageType=["ORIGINAL", "PRIMARY", kind, "FFE"]), name="b")
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED)
    (folder := tmp_path / "only").mkdir()
    write(folder, others, setting(ImageType=["ORIGINAL", "PRIMARY", kind, "FFE"]))
    with pytest.raises(CmnetError, match="40 images that are not magnitude images"):
        dicom.inspect(folder)


def test_derived_images_are_used_only_if_there_are_no_others(tmp_path: Path) -> None:
    images = stack(slices=4, phases=10)
    derived = [image.changed(value=image.value + 1.0, series=2) for image in images]
    write(tmp_path / "d", derived, setting(ImageType=["DERIVED", "SECONDARY"]), name="b")
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED + 1.0)
    write(tmp_path / "d", images, setting(ImageType=["ORIGINAL", "PRIMARY"]))
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED)


@pytest.mark.parametrize(("signed", "bits"), [(0, 12), (0, 16), (1, 16)])
def test_monochrome1_is_inverted(tmp_path: Path, signed: int, bits: int) -> None:
    def negative(dataset: Dataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, dtype="<i2").reshape(dataset.Rows, dataset.Columns).astype(np.int64)
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = signed, bits, bits - 1
        dataset.PixelData = ((-1 if signed else 2**bits - 1) - pixels).astype("<i2" if signed else "<u2").tobytes()
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write(tmp_path / "d", stack(slices=4, phases=10), negative)
    np.testing.assert_allclose(values(tmp_path / "d"), EXPECTED)


def test_frames_of_an_enhanced_file_are_ordered_by_their_dimension_indices(tmp_path: Path) -> None:
    images = stack(slices=4, phases=10)
    random.Random(2).shuffle(images)
    dataset = _read(enhanced_bytes(images))
    dataset.DimensionIndexSequence = [_pointer("InStackPositionNumber"), _pointer("TemporalPositionIndex")]
    for image, groups in zip(images, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        del groups.CardiacSynchronizationSequence
        content = Dataset()
        content.DimensionIndexValues = [image.z + 1, int(image.phase) + 1]
        groups.FrameContentSequence = [content]
    (tmp_path / "enhanced.dcm").write_bytes(encoded(dataset))
    np.testing.assert_allclose(values(tmp_path / "enhanced.dcm"), EXPECTED)


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", stack(slices=4, phases=10))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_allclose(values(folder), EXPECTED)


@pytest.mark.parametrize("name", ["CINE_SAX_planned_on_4CH", "trufi_retro_SA_tra"])
def test_a_series_whose_name_mentions_short_axis_is_used_if_there_is_nothing_else(tmp_path: Path, name: str) -> None:
    images = [image.changed(description=name) for image in stack(slices=4, phases=10)]
    np.testing.assert_allclose(values(write(tmp_path / "d", images)), EXPECTED)
    tagging = [image.changed(description=f"{name} tagging") for image in images]
    with pytest.raises(CmnetError, match="only series of other views"):
        dicom.inspect(write(tmp_path / "tagging", tagging))


def _colour(dataset: Dataset) -> None:
    set_pixels(dataset, np.zeros((6, 5)))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 0, 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, bytes(6 * 5 * 3)


def _deflated(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def _without(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        (_colour, "4 in colour", "magnitude images"),
        (_deflated, "4 deflated", "dcmconv"),
        (_without("PixelSpacing"), "4 without pixel spacing", "with PixelSpacing"),
        (_without("ImagePositionPatient"), "4 without image position", "short-axis cine"),
        (setting(NumberOfFrames=2), "4 multi-frame without", "enhanced"),
    ],
)
def test_unusable_files_are_named_by_what_they_lack(
    tmp_path: Path, change: Callable[[Dataset], None], found: str, remedy: str
) -> None:
    write(tmp_path / "d", stack(slices=2, phases=2), change)
    with pytest.raises(CmnetError, match=found) as caught:
        dicom.inspect(tmp_path / "d")
    assert remedy in caught.value.hint


def test_files_of_other_formats_are_named_by_their_content(tmp_path: Path) -> None:
    header = bytearray(352)
    header[344:348] = b"n+1\0"
    (tmp_path / "a").write_bytes(header)
    with pytest.raises(CmnetError, match="1 NIfTI files"):
        dicom.inspect(tmp_path)
    (tmp_path / "a").unlink()
    with zipfile.ZipFile(tmp_path / "visit", "w") as archive:
        archive.writestr("IM0", b"x")
    with pytest.raises(CmnetError, match="1 zip files within"):
        dicom.inspect(tmp_path)


def test_phases_without_any_order_are_reported_with_the_missing_tags(tmp_path: Path) -> None:
    images = [image.changed(trigger=False, instance=1) for image in stack(slices=4, phases=10)]
    with pytest.raises(CmnetError, match="single phase") as caught:
        dicom.inspect(write(tmp_path / "d", images))
    assert "TriggerTime, TemporalPositionIdentifier or distinct InstanceNumbers" in caught.value.hint


def _read(content: bytes) -> Dataset:
    import pydicom

    return pydicom.dcmread(io.BytesIO(content))


def _pointer(keyword: str) -> Dataset:
    item = Dataset()
    item.DimensionIndexPointer = Tag(keyword)
    return item
