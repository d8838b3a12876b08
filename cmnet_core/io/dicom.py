"""Read a short-axis cine from a folder or zip of DICOM files: slices from base to apex, phases on a common cycle."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.flags import QCFlag
from cmnet_core.io.dicom_cycle import CommonCycle, align_phases, interpolate_phases
from cmnet_core.io.dicom_file import open_members
from cmnet_core.io.dicom_image import ImageHeader, read_pixels
from cmnet_core.io.dicom_stack import Acquisition, find_stack, towards_apex
from cmnet_core.io.nifti_file import Header
from cmnet_core.types import CineSequence, Spacing

_UNEVEN_GAP = 0.1  # fraction of the mean slice distance
_SHIFTED_MM = 1.0
_SAME_PIXEL = 1e-3


def inspect(path: Path, *, study: str | None = None, follow_links: bool = False) -> Header:
    """Find the short-axis cine of a folder or zip by the headers, without decoding pixels.

    Args:
        path: As in :func:`read_cine`.
        study: As in :func:`read_cine`.
        follow_links: As in :func:`read_cine`.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes are not valid.
    """
    with open_members(path, follow_links=follow_links) as members:
        return _assemble(*find_stack(members, study=study))[0]


def read_cine(
    path: Path,
    *,
    frame_ms: float | None,
    study: str | None = None,
    follow_links: bool = False,
    check_header: Callable[[Header], None] | None = None,
) -> CineSequence:
    """Read the short-axis cine of a folder or zip of DICOMs.

    Args:
        path: A folder, a zip or one enhanced DICOM file; files of other series are ignored.
        frame_ms: Time between two frames in ms, which overrides the headers, or None.
        study: The person or study to read where there are several: the digest of the patient or the end of the
            StudyInstanceUID, as the error names them.
        follow_links: Whether to follow links that lead out of the folder.
        check_header: Called with the size and geometry by the headers before any pixel is read.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes are not valid.
    """
    with open_members(path, follow_links=follow_links) as members:
        header, cycle, grid = _assemble(*find_stack(members, study=study))
        if check_header is not None:
            check_header(header)
        voxels = torch.zeros(header.frames, *header.grid)
        for z, place in enumerate(cycle.slices):
            pixels = torch.from_numpy(np.stack(list(read_pixels(place.images))))
            voxels[:, z] = interpolate_phases(grid.resample(pixels, place.images[0]), place, frames=cycle.frames)
        return header.cine(voxels, frame_ms=frame_ms)


class _Grid:
    """The pixel grid of most slices; the others are resampled to it.

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
        """Resample a slice on another grid by in-plane linear interpolation; 0 outside the slice."""
        same = image.shape == self.shape and np.allclose(image.pixel_mm, self.pixel_mm, rtol=_SAME_PIXEL)
        if same and self._shift_mm(image) <= _SHIFTED_MM:
            return pixels
        along_x, along_y = self.origin_mm - self._in_plane_mm(image)
        down = self._weights(0, along_y / image.pixel_mm[0], image)
        across = self._weights(1, along_x / image.pixel_mm[1], image)
        return torch.einsum("yv,nvu,xu->nyx", down, pixels, across)

    def _weights(self, axis: int, offset: float, image: ImageHeader) -> Tensor:
        """Weight of each row or column of the slice in each of the grid; exact where they coincide."""
        step = self.pixel_mm[axis] / image.pixel_mm[axis]
        places = np.round(offset + np.arange(self.shape[axis]) * step, 3)
        distances = np.abs(places[:, None] - np.arange(image.shape[axis])[None, :])
        return torch.from_numpy(np.maximum(1.0 - distances, 0.0)).float()

    def _in_plane_mm(self, image: ImageHeader) -> NDArray[np.float64]:
        return np.asarray(self._axes @ image.position)

    def _shift_mm(self, image: ImageHeader) -> float:
        return float(np.abs(self._in_plane_mm(image) - self.origin_mm).max())


def _assemble(acquisitions: Sequence[Acquisition], found: set[QCFlag]) -> tuple[Header, CommonCycle, _Grid]:
    cycle = align_phases(acquisitions)
    images = [place.images[0] for place in cycle.slices]
    grid = _Grid(images)
    spacing, affine, uneven = _geometry([place.position_mm for place in cycle.slices], images, grid)
    flags = found | cycle.flags | uneven
    flags |= {QCFlag.SLICES_SHIFTED} if grid.shifted else set()
    flags |= {QCFlag.SLICES_RESAMPLED} if grid.resampled else set()
    shape = (len(images), *grid.shape)
    return Header(cycle.frames, shape, spacing, affine, cycle.frame_ms, tuple(sorted(flags))), cycle, grid


def _geometry(
    positions_mm: Sequence[float], images: Sequence[ImageHeader], grid: _Grid
) -> tuple[Spacing, Tensor, set[QCFlag]]:
    """Spacing, affine (RAS mm, columns z, y, x) and flags."""
    first, places = images[0], np.array(positions_mm)
    along_x, along_y = first.orientation
    across = towards_apex(first) * (-1.0 if (images[-1].position - first.position) @ towards_apex(first) < 0 else 1.0)
    gap, flags = _slice_gap(places, stated=first.slice_mm)
    spacing = Spacing(gap, *grid.pixel_mm)
    start = float((places - np.arange(len(places)) * gap).mean())
    origin = np.linalg.solve(np.stack([along_x, along_y, across]), [*grid.origin_mm, start])
    lps = np.eye(4)
    lps[:3] = np.stack([across * gap, along_y * spacing.y, along_x * spacing.x, origin], axis=1)
    return spacing, torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps), flags


def _slice_gap(places: NDArray[np.float64], *, stated: float | None) -> tuple[float, set[QCFlag]]:
    gaps = np.diff(places)
    if len(gaps) == 0:
        if stated is None:
            raise GeometryError(
                "A single slice without a slice thickness defines no volume.",
                hint="Give the whole stack, or a NIfTI file with correct voxel sizes.",
                code=ErrorCode.GEOMETRY,
            )
        return stated, set()
    mean = float(gaps.mean())
    return mean, {QCFlag.SLICE_GAP_UNEVEN} if np.abs(gaps - mean).max() > _UNEVEN_GAP * mean else set()
