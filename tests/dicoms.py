"""Small made DICOMs: a stack of slices in which each image holds a number that tells where and when it belongs."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

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
    place_mm: float | None = None
    normal: str = "sax"
    series: int = 1
    instance: int | None = None
    trigger: bool = True

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


def dicom_bytes(image: Image, *, shape: tuple[int, int] = (6, 5), slope: float = 0.5) -> bytes:
    row, column, normal = directions(image.normal)
    place = image.z * image.gap_mm if image.place_mm is None else image.place_mm
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = f"1.2.3.{image.series}"
    dataset.SeriesNumber = image.series
    dataset.InstanceNumber = int(image.z * 100 + image.phase) if image.instance is None else image.instance
    dataset.ImagePositionPatient = [round(float(v), 6) for v in np.array([10.0, -20.0, 30.0]) + normal * place]
    dataset.ImageOrientationPatient = [round(float(v), 6) for v in (*row, *column)]
    dataset.PixelSpacing = [1.5, 1.25]
    dataset.SliceThickness = 8.0
    if image.trigger:
        dataset.TriggerTime = round((image.phase + 0.5) * image.step_ms, 3)
    dataset.HeartRate = round(60_000 / (image.phases * image.step_ms))
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, -3.0
    pixels = np.full(shape, round((image.value + 3.0) / slope), dtype="<i2")
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_zip(path: Path, images: Sequence[Image]) -> Path:
    """The images in one zip, as a data bank hands them out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number:04d}.dcm", dicom_bytes(image))
    return path
