"""The format of a file by its first bytes, and errors about files without content."""

import os
import zlib
from enum import StrEnum
from pathlib import Path

from cmnet_core.errors import ErrorCode, ImageError

_HEAD_BYTES = 512
_POINTERS = {
    b"/annex/objects/": "'datalad get' or 'git annex get'",
    b"version https://git-lfs": "'git lfs pull'",
}


class FileFormat(StrEnum):
    """A format that cmnet can name."""

    DICOM = "DICOM"
    NIFTI = "NIfTI"
    ZIP = "zip"
    TAR = "tar"
    UNKNOWN = "unknown"


_MARKS = (
    (FileFormat.ZIP, 0, (b"PK\3\4", b"PK\5\6")),
    (FileFormat.DICOM, 128, (b"DICM",)),
    (FileFormat.TAR, 257, (b"ustar",)),
    (FileFormat.NIFTI, 344, (b"n+1", b"ni1")),
    (FileFormat.NIFTI, 4, (b"n+2", b"ni2")),
)
"""Format, place of its mark and the mark."""


def format_of(content: bytes) -> FileFormat:
    """Return the format of a file from its first 512 bytes, decompressed if it is compressed by gzip."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, _HEAD_BYTES)
        except zlib.error:
            return FileFormat.UNKNOWN
    for kind, place, marks in _MARKS:
        if any(content.startswith(mark, place) for mark in marks):
            return kind
    # Files without preamble start with an element of group 2 or 8.
    without_preamble = content[:2] in (b"\x02\0", b"\x08\0") and content[3:4] == b"\0"
    return FileFormat.DICOM if without_preamble else FileFormat.UNKNOWN


def file_format(path: Path) -> FileFormat:
    """Return the format of a file by its content; that of a folder, a pipe or a missing file is unknown."""
    try:
        if not path.is_file():
            return FileFormat.UNKNOWN
        with path.open("rb") as file:
            return format_of(file.read(_HEAD_BYTES))
    except OSError:
        return FileFormat.UNKNOWN


def missing_file(path: Path) -> ImageError:
    """Return the error of a path that does not exist, or of a link whose target does not."""
    if path.is_symlink():
        target = os.readlink(path)
        return ImageError(
            f"{path}: the target of this link does not exist.",
            hint="Its content was not fetched: use 'datalad get' or 'git annex get'."
            if "annex/objects" in target
            else "Restore the file that it leads to, or correct the link.",
            code=ErrorCode.FILE_MISSING,
        )
    return ImageError(
        f"{path}: this folder or file does not exist.",
        hint="Separate the images of ED and ES by a semicolon."
        if path.name.count(".nii") > 1
        else "Correct the path in the manifest; relative paths start at the manifest's folder.",
        code=ErrorCode.FILE_MISSING,
    )


def pointer_remedy(content: bytes) -> str | None:
    """Return how to fetch the content of a file of which only a pointer of git-annex or Git LFS is stored, or None."""
    return next((remedy for mark, remedy in _POINTERS.items() if mark in content[:_HEAD_BYTES]), None)
