"""The contours that experts drew on the Sunnybrook cines, placed in the frames and slices of our volume."""

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from PIL import Image, ImageDraw

from cmnet_core.types import CineSequence

_NAME = re.compile(r".*IM-0001-(\d{4})-([io])contour-manual\.txt")


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed line, with what it was drawn on.

    Attributes:
        kind: ``i`` for the endocardium, ``o`` for the epicardium.
        instance: Number of the DICOM file.
        frame: Frame of the cine, from 0.
        slice: Slice of the cine, from 0.
        points: (n, 2) pixel coordinates, x first.
    """

    kind: str
    instance: int
    frame: int
    slice: int
    points: np.ndarray

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels inside the line or on it, as (y, x)."""
        image = Image.new("1", (shape[1], shape[0]))
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in self.points], fill=1)
        return np.asarray(image)


def read_contours(folder: Path, subject: str, cine: CineSequence) -> list[Contour]:
    """Read the contours of a subject; each is placed by the position and share of the cycle of its DICOM file."""
    contours = []
    with (
        zipfile.ZipFile(folder / f"{subject}.zip") as images,
        zipfile.ZipFile(folder / f"{subject}_contours.zip") as lines,
    ):
        for name in sorted(lines.namelist()):
            if match := _NAME.fullmatch(name):
                header = _header(images, int(match[1]))
                frame, position = _place(header, cine)
                points = np.loadtxt(io.BytesIO(lines.read(name)), ndmin=2)
                contours.append(Contour(match[2], int(match[1]), frame, position, points))
    return contours


def _header(images: zipfile.ZipFile, instance: int) -> pydicom.Dataset:
    tags = ["ImagePositionPatient", "TriggerTime", "NominalInterval"]
    return pydicom.dcmread(io.BytesIO(images.read(f"{instance}.dcm")), stop_before_pixels=True, specific_tags=tags)


def _place(header: pydicom.Dataset, cine: CineSequence) -> tuple[int, int]:
    lps = torch.tensor([float(v) for v in header.ImagePositionPatient], dtype=torch.float64)
    ras = torch.cat([lps * torch.tensor([-1.0, -1.0, 1.0]), torch.ones(1)])
    z, y, x = (torch.linalg.inv(cine.affine) @ ras)[:3].tolist()
    assert abs(z - round(z)) < 0.05
    assert max(abs(y), abs(x)) < 0.05
    share_of_cycle = float(header.TriggerTime) / float(header.NominalInterval)
    return int(share_of_cycle * cine.frames), round(z)
