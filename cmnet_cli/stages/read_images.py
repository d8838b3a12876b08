"""From a case to its image and its reference masks, whatever kind of file the manifest names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_core.errors import CaseError, ErrorCode, GeometryError, LabelError
from cmnet_core.io import dicom, nifti
from cmnet_core.io.cine import is_dicom, read_cine
from cmnet_core.io.nifti_file import Header, grid_difference
from cmnet_core.types import CineSequence, LabelSequence


def load_cine(case: Case) -> CineSequence:
    """Read the image of a case, with the frames and the time axis that the manifest gives it.

    ``frame_ms`` of the manifest goes before the header; the heart rate is used where neither tells. A pair has two
    frames, ED = 0 and ES = 1.

    Raises:
        CaseError: The image cannot be used; it says which file and why.
    """
    if len(case.image) == 2:
        return nifti.read_pair(*case.image)
    path = case.image[0]
    cine = read_cine(path, frame_ms=case.frame_ms)
    check_frames(case, frames=cine.frames)
    frame_ms = cine.frame_ms
    if frame_ms is None and case.heart_rate_bpm is not None:
        frame_ms = 60_000.0 / case.heart_rate_bpm / cine.frames
    return replace(cine, ed=case.ed, es=case.es, frame_ms=frame_ms)


def load_labels(case: Case, cine: CineSequence) -> LabelSequence | None:
    """Read the reference masks of a case, or None where the manifest names none.

    Args:
        case: The row of the manifest.
        cine: Its image, as :func:`load_cine` gives it.

    Raises:
        CaseError: A mask cannot be used; it says which file and why.
    """
    if case.labels is not None:
        return nifti.read_label_cine(case.labels, scheme=case.label_scheme, cine=cine)
    masks = _masks_by_frame(case)
    if not masks:
        return None
    return nifti.read_labels(list(masks.values()), scheme=case.label_scheme, cine=cine, frames=list(masks))


def inspect_image(case: Case) -> Header:
    """Check all that the headers of a case's image tell, without decoding a voxel.

    Raises:
        CaseError: The image cannot be used; it says which file and why.
    """
    if len(case.image) == 2:
        return nifti.inspect_pair(*case.image)
    path = case.image[0]
    header = dicom.inspect(path) if is_dicom(path) else nifti.inspect_cine(path)
    check_frames(case, frames=header.frames)
    return header


def inspect_mask(path: Path, *, image: Header, frames: int) -> None:
    """Check by its header that a mask fits its image.

    Raises:
        CaseError: It cannot be read or does not fit.
    """
    mask = nifti.inspect(path)
    difference = grid_difference(mask, image)
    if mask.frames != frames:
        difference = f"{mask.frames} frame(s) where {frames} were expected"
    if difference:
        raise LabelError(
            f"{path}: the mask does not lie on the grid of its image: {difference}.",
            hint="Resample the mask onto the image, or give the mask that was drawn on it.",
            code=ErrorCode.LABEL_GEOMETRY,
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let every error about a case's image from within the block name its file."""
    try:
        yield
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error


def check_frames(case: Case, *, frames: int) -> None:
    """Check that the frames that the manifest names are there.

    Raises:
        GeometryError: ED or ES lie outside the cine.
    """
    for name, frame in (("ed", case.ed), ("es", case.es)):
        if frame is not None and frame >= frames:
            raise GeometryError(
                f"{case.image[0]}: frame {name}={frame} lies outside the cine, which has frames 0 to {frames - 1}.",
                hint="Frames are counted from 0 in the manifest; leave the cell empty to have them found.",
                code=ErrorCode.GEOMETRY,
            )


def _masks_by_frame(case: Case) -> dict[int, Path]:
    named = ((case.ed, case.labels_ed), (case.es, case.labels_es))
    return {frame: mask for frame, mask in named if frame is not None and mask is not None}
