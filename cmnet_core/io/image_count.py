"""How many two-dimensional images a cine consists of, without reading them."""

import os
from itertools import islice
from pathlib import Path

from cmnet_core.errors import CaseError
from cmnet_core.io import nifti
from cmnet_core.io.dicom_file import open_members
from cmnet_core.io.file_content import FileFormat, file_format

_MOST_FILES = 100_000


def count_images(path: Path) -> int:
    """Return the number of slices times that of frames, roughly: the time that a cine takes is in proportion to it.

    It is read from the header of a NIfTI file; that of a zip or a folder is the number of its files.

    Args:
        path: The image of a subject.

    Returns:
        The number; 0 where it is not known without reading more, or the image cannot be read.
    """
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return sum(1 for _ in islice(entries, _MOST_FILES))
        if file_format(path) is FileFormat.ZIP:
            with open_members(path) as members:
                return len(members)
        header = nifti.inspect(path)
    except (CaseError, OSError, ValueError):  # the last for a name that no file can have
        return 0
    return header.frames * header.grid[0]
