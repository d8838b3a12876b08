"""Reading a short-axis cine from whichever kind of file it is stored in."""

from pathlib import Path

from cmnet_core.io import dicom, nifti
from cmnet_core.types import CineSequence

_DICOM_SUFFIXES = (".zip", ".dcm", ".ima")


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder or zip of DICOM files, or one enhanced DICOM file."""
    return path.is_dir() or path.suffix.lower() in _DICOM_SUFFIXES


def read_cine(path: str | Path, *, frame_ms: float | None = None) -> CineSequence:
    """Read a short-axis cine from a 4-D NIfTI file, a folder or zip of DICOM files, or an enhanced DICOM file.

    Args:
        path: The file or folder; of a DICOM export of a whole visit, the short-axis stack is selected.
        frame_ms: Time between two frames in ms, where it is known better than from the header.

    Raises:
        ImageError: The file is missing, damaged, not a cine, or has voxels that are not finite.
        GeometryError: Voxel sizes or affine cannot be used.
    """
    path = Path(path)
    read = dicom.read_cine if is_dicom(path) else nifti.read_cine
    return read(path, frame_ms=frame_ms)
