"""A folder or zip of DICOMs to a short-axis cine: its slices from base to apex on one grid, its phases on one cycle."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.flags import QCFlag
from cmnet_core.io.dicom_cycle import Cycle, on_cycle, onto_one_cycle
from cmnet_core.io.dicom_file import opened
from cmnet_core.io.dicom_image import ImageHeader, read_pixels
from cmnet_core.io.dicom_stack import Recording, find_stack, towards_apex
from cmnet_core.io.nifti_file import Header
from cmnet_core.types import CineSequence, Spacing

_UNEVEN_GAP = 0.1  # share of the mean distance
_SHIFTED_MM = 1.0
_SAME_PIXEL = 1e-3


def inspect(path: Path) -> Header:
    """Sort the images of a folder or zip by their headers, without decoding a pixel.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes make no sense.
    """
    with opened(path) as members:
        return _arranged(*find_stack(members))[0]


def read_cine(path: Path, *, frame_ms: float | None) -> CineSequence:
    """Read the short-axis cine of a folder or zip of DICOMs.

    Args:
        path: The folder or zip, or one enhanced DICOM; whatever else lies in it is left aside.
        frame_ms: Time between two frames, where the caller knows better than the headers; else None.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes make no sense.
    """
    with opened(path) as members:
        header, cycle, grid = _arranged(*find_stack(members))
        voxels = torch.zeros(header.frames, *header.grid)
        for z, place in enumerate(cycle.slices):
            pixels = torch.from_numpy(np.stack(list(read_pixels(place.images))))
            voxels[:, z] = on_cycle(grid.resample(pixels, place.images[0]), place, frames=cycle.frames)
        return header.cine(voxels, frame_ms=frame_ms)


class _Grid:
    """The pixel grid that most slices have; the others are brought onto it.

    Args:
        images: The first image of each slice.
    """

    def __init__(self, images: Sequence[ImageHeader]) -> None:
        kinds = Counter((image.shape, *(round(mm, 3) for mm in image.pixel_mm)) for image in images)
        kind = max(kinds, key=lambda k: (kinds[k], k[0]))
        usual = [image for image in images if (image.shape, *(round(mm, 3) for mm in image.pixel_mm)) == kind]
        self.shape, self.pixel_mm, self._axes = usual[0].shape, usual[0].pixel_mm, usual[0].orientation
        self.origin_mm = np.median([self._in_plane_mm(image) for image in usual], axis=0)
        self.shifted = any(self._shift_mm(image) > _SHIFTED_MM for image in usual)
        self.resampled = len(usual) < len(images)

    def resample(self, pixels: Float[Tensor, "n v u"], image: ImageHeader) -> Float[Tensor, "n y x"]:
        """Interpolate linearly in the plane where a slice lies on another grid; 0 outside of what it shows."""
        same = image.shape == self.shape and np.allclose(image.pixel_mm, self.pixel_mm, rtol=_SAME_PIXEL)
        if same and self._shift_mm(image) <= _SHIFTED_MM:
            return pixels
        along_x, along_y = self.origin_mm - self._in_plane_mm(image)
        down = self._weights(0, along_y / image.pixel_mm[0], image)
        across = self._weights(1, along_x / image.pixel_mm[1], image)
        return torch.einsum("yv,nvu,xu->nyx", down, pixels, across)

    def _weights(self, axis: int, offset: float, image: ImageHeader) -> Tensor:
        """Share of each of the slice's rows or columns in each of the grid's; exact where they coincide."""
        step = self.pixel_mm[axis] / image.pixel_mm[axis]
        places = np.round(offset + np.arange(self.shape[axis]) * step, 3)
        distances = np.abs(places[:, None] - np.arange(image.shape[axis])[None, :])
        return torch.from_numpy(np.maximum(1.0 - distances, 0.0)).float()

    def _in_plane_mm(self, image: ImageHeader) -> NDArray[np.float64]:
        return np.asarray(self._axes @ image.position)

    def _shift_mm(self, image: ImageHeader) -> float:
        return float(np.abs(self._in_plane_mm(image) - self.origin_mm).max())


def _arranged(recordings: Sequence[Recording], found: set[QCFlag]) -> tuple[Header, Cycle, _Grid]:
    cycle = onto_one_cycle(recordings)
    images = [place.images[0] for place in cycle.slices]
    grid = _Grid(images)
    spacing, affine, uneven = _geometry([place.place_mm for place in cycle.slices], images, grid)
    flags = found | cycle.flags | uneven
    flags |= {QCFlag.SLICES_SHIFTED} if grid.shifted else set()
    flags |= {QCFlag.SLICES_RESAMPLED} if grid.resampled else set()
    shape = (len(images), *grid.shape)
    return Header(cycle.frames, shape, spacing, affine, cycle.frame_ms, tuple(sorted(flags))), cycle, grid


def _geometry(
    places_mm: Sequence[float], images: Sequence[ImageHeader], grid: _Grid
) -> tuple[Spacing, Tensor, set[QCFlag]]:
    """Spacing, affine (RAS mm, columns z, y, x) and flags."""
    first, places = images[0], np.array(places_mm)
    along_x, along_y = first.orientation
    across = towards_apex(first) * (-1.0 if (images[-1].position - first.position) @ towards_apex(first) < 0 else 1.0)
    gap, flags = _slice_gap(places, told=first.slice_mm)
    spacing = Spacing(gap, *grid.pixel_mm)
    start = float((places - np.arange(len(places)) * gap).mean())
    origin = np.linalg.solve(np.stack([along_x, along_y, across]), [*grid.origin_mm, start])
    lps = np.eye(4)
    lps[:3] = np.stack([across * gap, along_y * spacing.y, along_x * spacing.x, origin], axis=1)
    return spacing, torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps), flags


def _slice_gap(places: NDArray[np.float64], *, told: float | None) -> tuple[float, set[QCFlag]]:
    gaps = np.diff(places)
    if len(gaps) == 0:
        if told is None:
            raise GeometryError(
                "A single slice without a slice thickness has no volume.",
                hint="Give the whole stack, or a NIfTI file with the right voxel sizes.",
                code=ErrorCode.GEOMETRY,
            )
        return told, set()
    mean = float(gaps.mean())
    return mean, {QCFlag.SLICE_GAP_UNEVEN} if np.abs(gaps - mean).max() > _UNEVEN_GAP * mean else set()
