"""Reading a short-axis cine from whichever kind of file it is stored in."""

from collections.abc import Callable
from pathlib import Path

from cmnet_core.io import dicom, nifti
from cmnet_core.io.file_content import FileFormat, file_format
from cmnet_core.io.nifti_file import Header
from cmnet_core.types import CineSequence

_DICOM_SUFFIXES = (".zip", ".dcm", ".ima")


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder or zip of DICOM files, or one enhanced DICOM file: by its content, then its suffix."""
    if path.is_dir():
        return True
    found = file_format(path)
    return path.suffix.lower() in _DICOM_SUFFIXES if found is FileFormat.UNKNOWN else found is not FileFormat.NIFTI


def read_cine(
    path: str | Path,
    *,
    frame_ms: float | None = None,
    study: str | None = None,
    follow_links: bool = False,
    check_header: Callable[[Header], None] | None = None,
) -> CineSequence:
    """Read a short-axis cine from a 4-D NIfTI file, a folder or zip of DICOM files, or an enhanced DICOM file.

    Args:
        path: The file or folder; of a DICOM export of a whole visit, the short-axis stack is selected.
        frame_ms: Time between two frames in ms, where it is known better than from the header.
        study: For DICOM files of several persons or studies, the one to read: the digest of the patient or the end of
            the StudyInstanceUID, as the error names them.
        follow_links: Whether to follow links that lead out of a folder of DICOM files.
        check_header: Called with the size and geometry by the headers before any voxel is read; an error that it raises
            refuses the image.

    Raises:
        ImageError: The file is missing, damaged, not a cine, or has voxels that are not finite.
        GeometryError: Voxel sizes or affine cannot be used.
    """
    path = Path(path)
    if is_dicom(path):
        return dicom.read_cine(
            path, frame_ms=frame_ms, study=study, follow_links=follow_links, check_header=check_header
        )
    return nifti.read_cine(path, frame_ms=frame_ms, check_header=check_header)
