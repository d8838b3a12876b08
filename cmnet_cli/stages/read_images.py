"""Read the image and the reference masks of a case, NIfTI or DICOM, as the manifest names them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.malloc import memory_limit_bytes
from cmnet_core.errors import CaseError, ErrorCode, GeometryError, ImageError, LabelError
from cmnet_core.function.volumes import find_phases, volumes_ml
from cmnet_core.io import dicom, nifti
from cmnet_core.io.cine import is_dicom, read_cine
from cmnet_core.io.nifti_file import Header, grid_difference, mask_remedy
from cmnet_core.qc.image_checks import check_image
from cmnet_core.types import CineSequence, LabelSequence

_BYTES_PER_VOXEL = 32
"""Memory that infer needs per voxel of the image at most: single precision, and copies of it while it is resampled."""


def load_cine(case: Case) -> CineSequence:
    """Read the image of a case, with ED, ES and the time between frames as the manifest states them.

    ``frame_ms`` of the manifest takes precedence over the header. The heart rate gives it where both are missing. A
    pair of images has two frames, ED = 0 and ES = 1.

    Raises:
        CaseError: The image cannot be used; the message names the file and the reason.
    """
    if len(case.image) == 2:
        with naming(case.image[0]):
            require_memory(nifti.inspect_pair(*case.image))
        return nifti.read_pair(*case.image)
    cine = read_cine(
        case.image[0],
        frame_ms=case.frame_ms,
        study=case.dicom_study,
        follow_links=case.follow_links,
        check_header=require_memory,
    )
    check_frames(case, frames=cine.frames)
    frame_ms = cine.frame_ms
    if frame_ms is None and case.heart_rate_bpm is not None:
        frame_ms = 60_000.0 / case.heart_rate_bpm / cine.frames
    return replace(cine, ed=case.ed, es=case.es, frame_ms=frame_ms)


def load_checked_cine(case: Case) -> CineSequence:
    """Like :func:`load_cine`, with the flags of the checks of the image.

    Raises:
        CaseError: The image cannot be used; the message names the file and the reason.
    """
    cine = load_cine(case)
    return replace(cine, flags=(*cine.flags, *check_image(cine)))


def load_labels(case: Case, cine: CineSequence) -> LabelSequence | None:
    """Read the reference masks of a case, or return None where the manifest names none.

    Args:
        case: The row of the manifest.
        cine: The image of the case, as :func:`load_cine` returns it.

    Raises:
        CaseError: A mask cannot be used; the message names the file and the reason.
    """
    if case.labels is not None:
        return nifti.read_label_cine(case.labels, scheme=case.label_scheme, cine=cine, label_map=case.label_map)
    masks = _masks_by_frame(case)
    if not masks:
        return None
    return nifti.read_labels(
        list(masks.values()), scheme=case.label_scheme, cine=cine, frames=list(masks), label_map=case.label_map
    )


def load_reference_masks(case: Case, cine: CineSequence, *, purpose: str) -> LabelSequence:
    """Read the reference masks of a case, which must label at least two frames.

    Args:
        case: The row of the manifest.
        cine: The image of the case, as :func:`load_cine` returns it.
        purpose: What the masks are needed for, with which the error message starts.

    Raises:
        CaseError: A mask cannot be used, or fewer than two frames have a mask.
    """
    labels = load_labels(case, cine)
    if labels is None or len(labels.frames) < 2:
        raise missing_masks(case, purpose, labelled=len(labels.frames) if labels else 0)
    return labels


def labelled_phases(case: Case, labels: LabelSequence) -> tuple[int, int]:
    """Return the frames of ED and ES of a labelled case.

    They are those of the manifest. Without them, they are the labelled frames in which the LV is largest and smallest.

    Raises:
        ImageError: The manifest does not name ED and ES, and no mask has an LV.
    """
    if case.ed is not None and case.es is not None:
        return case.ed, case.es
    largest, smallest = find_phases(volumes_ml(labels.labels, labels.spacing).lv_ml)
    ed = labels.frames[largest] if case.ed is None else case.ed
    es = labels.frames[smallest] if case.es is None else case.es
    return ed, es


def missing_masks(case: Case, purpose: str, *, labelled: int = 0) -> LabelError:
    """Return the error of a case without reference masks at ED and ES."""
    return LabelError(
        f"{purpose} needs reference masks at ED and ES; {case.case_id} has {labelled} of them.",
        hint="Name labels_ed and labels_es, or a 4-D mask in the column labels, or leave the subject out.",
        code=ErrorCode.LABEL_GEOMETRY,
    )


def inspect_image(case: Case) -> Header:
    """Check the headers of a case's image without decoding a voxel.

    Raises:
        CaseError: The image cannot be used; the message names the file and the reason.
    """
    if len(case.image) == 2:
        return nifti.inspect_pair(*case.image)
    path = case.image[0]
    if is_dicom(path):
        header = dicom.inspect(path, study=case.dicom_study, follow_links=case.follow_links)
    else:
        header = nifti.inspect_cine(path)
    with naming(path):
        require_memory(header)
    check_frames(case, frames=header.frames)
    return header


def require_memory(header: Header) -> None:
    """Refuse an image that would not fit into memory, before its voxels are read.

    Raises:
        ImageError: Its declared size needs more memory than this process may use.
    """
    voxels = header.frames * math.prod(header.grid)
    needed, limit = voxels * _BYTES_PER_VOXEL, memory_limit_bytes()
    if needed > limit:
        raise ImageError(
            f"Its header declares {voxels} voxels, which need about {needed / 1e9:.1f} GB of memory; "
            f"{limit / 1e9:.1f} GB may be used.",
            hint="Check that it is one cine of one visit; otherwise use a larger --memory-limit or fewer --workers.",
            code=ErrorCode.OUT_OF_MEMORY,
        )


def inspect_mask(path: Path, *, image: Header, frames: int) -> None:
    """Check by its header that a mask has the grid of its image and the expected number of frames.

    Raises:
        CaseError: The mask cannot be read or does not match the image.
    """
    mask = nifti.inspect(path)
    difference = grid_difference(mask, image)
    if mask.frames != frames:
        difference = f"{mask.frames} frame(s) where {frames} were expected"
    if difference:
        raise LabelError(
            f"{path}: the mask is not on the grid of its image: {difference}.",
            hint=mask_remedy(mask, image),
            code=ErrorCode.LABEL_GEOMETRY,
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of an image file to every error about the image that is raised in the block."""
    try:
        yield
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error


def check_frames(case: Case, *, frames: int) -> None:
    """Check that the image has the frames that the manifest names.

    Raises:
        GeometryError: ED or ES is outside the cine.
    """
    for name, frame in (("ed", case.ed), ("es", case.es)):
        if frame is not None and frame >= frames:
            raise GeometryError(
                f"{case.image[0]}: frame {name}={frame} is outside the cine, which has frames 0 to {frames - 1}.",
                hint="Frames are counted from 0 in the manifest. Leave the cell empty to detect the frame.",
                code=ErrorCode.GEOMETRY,
            )


def _masks_by_frame(case: Case) -> dict[int, Path]:
    named = ((case.ed, case.labels_ed), (case.es, case.labels_es))
    return {frame: mask for frame, mask in named if frame is not None and mask is not None}
