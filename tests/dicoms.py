"""Small made DICOMs: a stack of slices in which each image holds a number that tells where and when it belongs."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

STEP_MS = 40.0


@dataclass(frozen=True)
class Image:
    """One image to be written; ``value`` fills it."""

    z: int
    phase: float
    value: float
    phases: int
    step_ms: float = STEP_MS
    gap_mm: float = 9.0
    position_mm: float | None = None
    normal: str = "sax"
    series: int = 1
    instance: int | None = None
    trigger: bool = True
    description: str = ""
    shape: tuple[int, int] = (6, 5)
    pixel_mm: tuple[float, float] = (1.5, 1.25)
    right_mm: float = 0.0
    phases_told: bool = False

    def changed(self, **changes: object) -> "Image":
        """The same image with other fields."""
        return replace(self, **changes)


def directions(normal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and slice direction, LPS: a short axis from base to apex, or a long axis at a right angle to it."""
    tilt = np.deg2rad(35.0)
    row = np.array([np.cos(tilt), np.sin(tilt), 0.0])
    column = np.array([0.0, 0.0, -1.0])
    towards_apex = -np.cross(row, column)
    if normal == "sax":
        return row, column, towards_apex
    return towards_apex, column, row


def stack(*, slices: int, phases: int, step_ms: float = STEP_MS) -> list[Image]:
    """A whole cine whose voxels are ``100 z + phase``."""
    return [Image(z, t, 100.0 * z + t, phases, step_ms=step_ms) for z in range(slices) for t in range(phases)]


def dicom_bytes(image: Image, *, slope: float = 0.5) -> bytes:
    """A file as most scanners write it: one image, not compressed."""
    return encoded(dataset_of(image, slope=slope))


def encoded(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dataset_of(image: Image, *, slope: float = 0.5) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = f"1.2.3.{image.series}"
    dataset.SeriesNumber = image.series
    dataset.SeriesDescription = image.description
    dataset.InstanceNumber = int(image.z * 100 + image.phase) if image.instance is None else image.instance
    _set_place(dataset, image)
    if image.trigger:
        dataset.TriggerTime = round((image.phase + 0.5) * image.step_ms, 3)
    if image.phases_told:
        dataset.CardiacNumberOfImages = image.phases
    dataset.HeartRate = round(60_000 / (image.phases * image.step_ms))
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, -3.0
    set_pixels(dataset, np.full(image.shape, round((image.value + 3.0) / slope), dtype="<i2"))
    return dataset


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Store whole numbers of 16 bits."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelData = pixels.astype("<i2").tobytes()


def enhanced_bytes(images: Sequence[Image]) -> bytes:
    """All images in one multi-frame file; each has a rescale slope of its own."""
    dataset = dataset_of(images[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "TriggerTime"):
        delattr(dataset, keyword)
    dataset.SOPClassUID, dataset.NumberOfFrames = EnhancedMRImageStorage, len(images)
    shared, placed = Dataset(), dataset_of(images[0])
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = placed.PixelSpacing, placed.SliceThickness
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(image) for image in images]
    set_pixels(dataset, np.stack([np.full(i.shape, round((i.value + 3.0) / _slope(i))) for i in images]))
    return encoded(dataset)


def _slope(image: Image) -> float:
    return 0.25 if image.z % 2 else 0.5


def _frame_groups(image: Image) -> Dataset:
    groups, placed = Dataset(), dataset_of(image)
    position, orientation, heart, values = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = placed.ImagePositionPatient
    orientation.ImageOrientationPatient = placed.ImageOrientationPatient
    heart.NominalCardiacTriggerDelayTime = float(placed.TriggerTime)
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = _slope(image), -3.0, "US"
    groups.PlanePositionSequence, groups.PlaneOrientationSequence = [position], [orientation]
    groups.CardiacSynchronizationSequence, groups.PixelValueTransformationSequence = [heart], [values]
    return groups


def _set_place(dataset: Dataset, image: Image) -> None:
    row, column, normal = directions(image.normal)
    place = image.z * image.gap_mm if image.position_mm is None else image.position_mm
    position = np.array([10.0, -20.0, 30.0]) + normal * place + row * image.right_mm
    dataset.ImagePositionPatient = [round(float(v), 6) for v in position]
    dataset.ImageOrientationPatient = [round(float(v), 6) for v in (*row, *column)]
    dataset.PixelSpacing = list(image.pixel_mm)
    dataset.SliceThickness = 8.0


def write_zip(path: Path, images: Sequence[Image]) -> Path:
    """The images in one zip, as a data bank hands them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number:04d}.dcm", dicom_bytes(image))
    return path
