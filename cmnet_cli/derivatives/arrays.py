"""Files of NumPy arrays: opened without pickles, and every error while they are read reported as damage."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cmnet_core.errors import ErrorCode, ImageError


@contextmanager
def open_arrays(path: Path, *, content: str, hint: str) -> Iterator[Any]:
    """Open the arrays of a file by name; errors in the block count as damage of the file.

    Args:
        path: The ``.npz`` file.
        content: What the file contains, for the error message.
        hint: What the user can do if the file is missing or damaged.

    Raises:
        ImageError: The file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            yield stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(
            f"The {content} {path} cannot be read: {error}.",
            hint=hint,
            code=ErrorCode.FILE_DAMAGED if path.exists() else ErrorCode.FILE_MISSING,
        ) from error
