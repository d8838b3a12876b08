"""Read and write NIfTI files.

Only this module and ``nifti_file`` use nibabel and its axis order (x, y, z, t).
"""

import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float64, Shaped, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError, LabelError
from cmnet_core.io.atomic import write_bytes
from cmnet_core.io.label_values import LabelMapping, LabelValues
from cmnet_core.io.nifti_file import (
    Header,
    decode,
    decode_cine,
    describe,
    grid_difference,
    mask_remedy,
    open_nifti,
    raw_header,
)
from cmnet_core.io.nifti_geometry import AxisOrder, geometry
from cmnet_core.labels import LabelScheme
from cmnet_core.types import CineSequence, LabelSequence, MotionField

_LPS_OF_RAS = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)

MOTION_STEPS_PER_MM = 128
"""Displacements are rounded to 1/128 mm, well below the resolution of a cine, so that they compress well."""


def inspect(path: Path) -> Header:
    """Read and check a header, without decoding voxels.

    Raises:
        ImageError: The file is missing, damaged, or has no usable dimensions.
        GeometryError: Voxel sizes or affine are not valid.
    """
    with open_nifti(path) as file:
        return describe(raw_header(file, path))


def inspect_cine(path: Path) -> Header:
    """Like :func:`inspect`, for a file that must be a 4-D cine.

    Raises:
        ImageError: As for :func:`inspect`, or the file holds a single volume.
        GeometryError: Voxel sizes or affine are not valid.
    """
    with open_nifti(path) as file:
        header = describe(raw_header(file, path))
        _require_frames(header)
        return header


def inspect_pair(ed: Path, es: Path) -> Header:
    """Like :func:`inspect`, for the two volumes of :func:`read_pair`.

    Raises:
        ImageError: As for :func:`inspect`, or a file holds more than one volume.
        GeometryError: Voxel sizes or affine are not valid, or the two grids differ.
    """
    headers = []
    for path in (ed, es):
        with open_nifti(path) as file:
            header = describe(raw_header(file, path))
            _require_volume(header)
            headers.append(header)
    _require_same_grid(*headers, es=es)
    return replace(headers[0], frames=2)


def read_cine(
    path: Path, *, frame_ms: float | None, check_header: Callable[[Header], None] | None = None
) -> CineSequence:
    """Read a 4-D cine.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        frame_ms: Time between two frames in ms, which overrides the header, or None.
        check_header: Called with the size and geometry by the header before any voxel is read.

    Raises:
        ImageError: The file is missing, damaged, not 4-D, or has voxels that are not finite.
        GeometryError: Voxel sizes or affine are not valid.
    """
    with open_nifti(path) as file:
        raw = raw_header(file, path)
        header = describe(raw)
        _require_frames(header)
        if check_header is not None:
            check_header(header)
        voxels = _float_voxels(file, raw, header)
        return header.cine(voxels, frame_ms=frame_ms)


def read_own(path: Path) -> tuple[Shaped[np.ndarray, "t z y x"], Float64[np.ndarray, "4 4"]]:
    """Read a 4-D file written by cmnet in its stored data type, with its affine, (z, y, x, 1) to mm.

    This is for images in the report, where converting every voxel to single precision would take longer than drawing.

    Raises:
        ImageError: The file is missing, damaged or not 4-D.
    """
    with open_nifti(path) as file:
        raw = raw_header(file, path)
        header = describe(raw)
        _require_frames(header)
        return decode(file, raw, as_stored=True).reshape(header.frames, *header.grid), header.affine.numpy()


def frame_of(cine: Path, volume: Path) -> int | None:
    """Index from 0 of the frame of a cine that equals a 3-D file, or None.

    Raises:
        CaseError: A file cannot be read.
    """
    frames = read_cine(cine, frame_ms=None).voxels
    _, voxels = _read_volume(volume)
    same = [t for t in range(len(frames)) if voxels[0].shape == frames[t].shape and torch.equal(frames[t], voxels[0])]
    return same[0] if same else None


def read_pair(ed: Path, es: Path) -> CineSequence:
    """Read the end-diastolic and the end-systolic volume as a cine of two frames, ED = 0 and ES = 1.

    Raises:
        ImageError: A file is missing, damaged, not 3-D, or has voxels that are not finite.
        GeometryError: Voxel sizes or affine are not valid, or the two grids differ.
    """
    header, ed_voxels = _read_volume(ed)
    es_header, es_voxels = _read_volume(es)
    _require_same_grid(header, es_header, es=es)
    return CineSequence(
        voxels=torch.cat([ed_voxels, es_voxels]),
        spacing=header.spacing,
        affine=header.affine,
        frame_ms=None,
        ed=0,
        es=1,
        flags=header.flags,
    )


def read_labels(
    paths: Sequence[Path],
    *,
    scheme: LabelScheme,
    cine: CineSequence,
    frames: Sequence[int],
    label_map: LabelMapping = (),
) -> LabelSequence:
    """Read 3-D reference masks, one per frame.

    Args:
        paths: One 3-D file per frame.
        scheme: Label convention of the masks.
        cine: The image that the masks belong to.
        frames: The cine's frame that each mask belongs to, from 0.
        label_map: Values of the masks and the tissue of each; takes precedence over the scheme.

    Raises:
        LabelError: Unknown values, values of another scheme, or a mask that is not on the image's grid.
        ImageError: A file is missing, damaged or not 3-D.
    """
    values = LabelValues(scheme, label_map)
    maps = [_read_label_maps(path, values=values, cine=cine, frames=1) for path in paths]
    return LabelSequence(labels=torch.cat(maps), frames=tuple(frames), spacing=cine.spacing, affine=cine.affine)


def read_label_cine(
    path: Path, *, scheme: LabelScheme, cine: CineSequence, label_map: LabelMapping = ()
) -> LabelSequence:
    """Read a 4-D reference mask with as many frames as the image; frames without any label are left out.

    Args:
        path: The mask.
        scheme: As in :func:`read_labels`.
        cine: The image that the mask belongs to.
        label_map: As in :func:`read_labels`.

    Raises:
        LabelError: Unknown values, values of another scheme, no label at all, or a mask that is not on the image's
            grid.
        ImageError: The file is missing or damaged.
    """
    maps = _read_label_maps(path, values=LabelValues(scheme, label_map), cine=cine, frames=cine.frames)
    frames = [t for t in range(len(maps)) if bool(maps[t].any())]
    if not frames:
        raise LabelError(
            f"{path}: no frame of this mask has a label.",
            hint="Give a mask with contours, or leave the cell empty.",
            code=ErrorCode.LABEL_VALUES,
        )
    return LabelSequence(labels=maps[frames], frames=tuple(frames), spacing=cine.spacing, affine=cine.affine)


def read_label_map(path: Path, *, image: Header) -> UInt8[Tensor, "z y x"]:
    """Read a 3-D label map with the values of cmnet.

    Args:
        path: The label map.
        image: Description of an image on the grid that the label map must have.

    Raises:
        LabelError: Unknown values, or another grid.
        ImageError: The file is missing, damaged or not 3-D.
    """
    return _read_label_maps(path, values=LabelValues(LabelScheme.CMNET), cine=image, frames=1)[0]


def write_image(
    path: Path, voxels: Shaped[Tensor, "*t z y x"], *, affine: Float64[Tensor, "4 4"], frame_ms: float | None
) -> None:
    """Write a volume or a cine in the data type of its tensor.

    Args:
        path: Final name; the file appears under it only when it is complete.
        voxels: Three or four axes.
        affine: Affine, as in :class:`CineSequence`; it is written as sform and qform.
        frame_ms: Time between two frames in ms, or None.
    """
    _save(path, _image(_storable(voxels), affine, frame_ms=frame_ms))


def write_labels(path: Path, labels: LabelSequence, *, frame_ms: float | None) -> None:
    """Write label maps: 3-D if there is one, else 4-D, in the order of the record."""
    maps = labels.labels if len(labels.labels) > 1 else labels.labels[0]
    write_image(path, maps, affine=labels.affine, frame_ms=frame_ms)


def write_motion(path: Path, field: MotionField, *, affine: Float64[Tensor, "4 4"]) -> None:
    """Write a displacement field in the convention of ITK, ANTs and nitransforms.

    On the grid of the fixed frame, each vector points to the corresponding position in the moving frame: 5-D
    (x, y, z, 1, 3), intent ``vector``, in mm along the LPS axes of the scanner, rounded to 1/128 mm. The two frame
    numbers are in the description.

    Args:
        path: Final name; the file appears under it only when it is complete.
        field: The displacement field.
        affine: Affine of the grid of the fixed frame.
    """
    lps = torch.einsum("ri,izyx->rzyx", _lps_directions(affine), field.displacement_mm.double())
    rounded = torch.round(lps * MOTION_STEPS_PER_MM) / MOTION_STEPS_PER_MM
    image = _image(rounded[:, None].float(), affine, frame_ms=None)
    image.header.set_intent("vector")
    image.header["descrip"] = f"cmnet displacement fixed={field.fixed} moving={field.moving}".encode()
    _save(path, image)


def read_motion(path: Path) -> MotionField:
    """Read a displacement field written by :func:`write_motion`.

    Raises:
        ImageError: The file is missing, damaged, or not such a field.
        GeometryError: Voxel sizes or affine are not valid.
    """
    with open_nifti(path) as file:
        raw = raw_header(file, path)
        named = re.search(r"fixed=(\d+) moving=(\d+)", raw["descrip"].item().decode("latin-1"))
        shape = raw.get_data_shape()
        if named is None or len(shape) != 5 or shape[3:] != (1, 3):
            raise ImageError(
                f"Expected a displacement with shape (x, y, z, 1, 3) written by cmnet, found shape {shape}.",
                hint="Give a file of a run folder that ends in _motion.nii.gz.",
                code=ErrorCode.IMAGE_DIMENSIONS,
            )
        spacing, affine, _ = geometry(raw, AxisOrder((2, 1, 0), None))
        lps = torch.from_numpy(decode(file, raw).astype(np.float64))[:, 0]
        along_axes = torch.einsum("ir,rzyx->izyx", torch.linalg.inv(_lps_directions(affine)), lps)
        return MotionField(along_axes.float(), spacing, fixed=int(named[1]), moving=int(named[2]))


def _require_frames(header: Header) -> None:
    if header.frames < 2:
        raise ImageError(
            f"Expected a 4-D cine with at least two frames, found one volume of {header.grid} voxels (z, y, x).",
            hint="Give a 4-D image, or two 3-D images as 'ED.nii.gz;ES.nii.gz'.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )


def _require_volume(header: Header) -> None:
    if header.frames != 1:
        raise ImageError(
            f"Expected one 3-D volume, found {header.frames} frames.",
            hint="Give a single frame here, or the whole cine as one 4-D image.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )


def _require_same_grid(ed_header: Header, es_header: Header, *, es: Path) -> None:
    difference = grid_difference(es_header, ed_header)
    if difference:
        raise GeometryError(
            f"{es}: the ES volume is not on the grid of the ED volume: {difference}.",
            hint="Give two frames of the same series.",
            code=ErrorCode.GEOMETRY,
        )


def _float_voxels(file: BufferedIOBase, raw: Any, header: Header) -> Tensor:
    return torch.from_numpy(decode_cine(file, raw)).reshape(header.frames, *header.grid)


def _read_volume(path: Path) -> tuple[Header, Tensor]:
    with open_nifti(path) as file:
        raw = raw_header(file, path)
        header = describe(raw)
        _require_volume(header)
        voxels = _float_voxels(file, raw, header)
        if not bool(torch.isfinite(voxels).all()):
            raise ImageError(
                "The image holds NaN or infinite voxels.",
                hint="Convert the image again from its source, or leave the subject out.",
                code=ErrorCode.IMAGE_VALUES,
            )
        return header, voxels


def _read_label_maps(
    path: Path, *, values: LabelValues, cine: Header | CineSequence, frames: int
) -> UInt8[Tensor, "n z y x"]:
    """Label maps (n, z, y, x) in cmnet's convention, on the grid of the cine."""
    with open_nifti(path) as file:
        raw = raw_header(file, path)
        header = describe(raw)
        difference = grid_difference(header, cine)
        if header.frames != frames:
            difference = f"{header.frames} frame(s) where {frames} were expected"
        if difference:
            raise LabelError(
                f"The mask is not on the grid of its image: {difference}.",
                hint=mask_remedy(header, cine),
                code=ErrorCode.LABEL_GEOMETRY,
            )
        return torch.from_numpy(values.to_labels(decode_cine(file, raw)))


def _storable(voxels: Tensor) -> Tensor:
    """Write floats in single precision, since few data types are read everywhere."""
    return voxels.detach().float() if voxels.is_floating_point() else voxels.detach()


def _image(voxels: Tensor, affine: Tensor, *, frame_ms: float | None) -> Any:
    xyz_affine = affine[:, [2, 1, 0, 3]].cpu().numpy()
    image = nib.Nifti1Image(voxels.cpu().numpy().T, xyz_affine)
    image.set_qform(xyz_affine, code="scanner")
    image.set_sform(xyz_affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec" if frame_ms else "unknown")
    if frame_ms:
        image.header["pixdim"][4] = frame_ms / 1000.0
    return image


def _save(path: Path, image: Any) -> None:
    # Without time stamp, the same voxels always give the same file. Noisy images are as small with level 4 as with the
    # usual 6, in half the time.
    content: bytes = image.to_bytes()
    write_bytes(path, gzip.compress(content, compresslevel=4, mtime=0) if path.suffix == ".gz" else content)


def _lps_directions(affine: Float64[Tensor, "4 4"]) -> Float64[Tensor, "3 3"]:
    """Unit vectors of the (z, y, x) axes in columns, in LPS."""
    columns = affine[:3, :3]
    directions: Tensor = _LPS_OF_RAS[:, None] * columns / columns.norm(dim=0)
    return directions
