"""List the DICOM files of one subject in a folder or zip, within size limits and without unpacking to disk."""

import csv
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from pydicom.errors import BytesLengthException, InvalidDicomError

from cmnet_core.errors import CaseError, ErrorCode, ImageError
from cmnet_core.io.file_content import FileFormat, file_format, missing_file

_MAX_FILES = 20_000
_MAX_FILE_BYTES = 512 * 2**20
_MAX_TOTAL_BYTES = 8 * 2**30
_MAX_RATIO = 200  # of a zip larger than the next number; images of real scanners compress to a half or a third
_RATIO_MATTERS_BYTES = 512 * 2**20
_MAX_DIRECTORY_BYTES = 16 * 2**20
_END_BYTES = 65535 + 22 + 20 + 56  # the longest comment and the three records that may end a zip
_MAX_MANIFEST_BYTES = 16 * 2**20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_MANIFEST = re.compile(r"manifest\.c[sv]{2}", re.IGNORECASE)
_DESCRIPTION_COLUMN = re.compile(r"series[ _]?d[ei]scription", re.IGNORECASE)
_BARE_DATE = re.compile(r"\b([A-Z][a-z]{2} \d{1,2}), ?((?:19|20)\d\d)\b")

DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # encrypted members, missing decoders, sequences without end
    AssertionError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    InvalidDicomError,
    BytesLengthException,
)
"""The exceptions that pydicom, its decoders and zipfile raise on damaged files."""


class Link(Enum):
    """What became of a link in a folder."""

    FOLLOWED = auto()
    """It is a file, or a link to a file inside of the folder."""
    OUTSIDE = auto()
    """It leads out of the folder, and was not followed."""
    BROKEN = auto()
    """Its target does not exist."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a folder or zip: its name, its size in bytes, a function that opens it, and whether it is a link."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    link: Link = Link.FOLLOWED


@contextmanager
def open_members(path: Path, *, follow_links: bool = False) -> Iterator[list[Member]]:
    """List the files of a folder or zip, sorted by name, and keep them open; a single DICOM file is a list of one.

    Args:
        path: The folder, zip or file.
        follow_links: Whether links that lead out of the folder are followed.

    Raises:
        ImageError: The path does not exist, cannot be read, or is larger than any cine.
    """
    if path.is_symlink() and not path.exists():
        raise missing_file(path)  # links in a circle raise another error when they are opened
    try:
        with warnings.catch_warnings():
            # pydicom warns of each violation of the standard; those that matter raise an error or a flag here.
            warnings.simplefilter("ignore", category=UserWarning)
            with _members(path, follow_links=follow_links) as members:
                yield members
    except CaseError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, code=error.code) from error
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except DAMAGE as error:
        raise ImageError(
            f"{path}: expected a folder or zip of DICOM files, reading it failed: {error}.",
            hint="Copy or download it again.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


@contextmanager
def _members(path: Path, *, follow_links: bool) -> Iterator[list[Member]]:
    if path.is_dir():
        yield _in_folder(path, follow_links=follow_links)
        return
    found = file_format(path)
    if found is FileFormat.TAR:
        raise ImageError(
            "Expected a folder or zip of DICOM files, found a tar archive.",
            hint=f"Unpack it with 'tar -xf {path.name}' and give the folder, or pack the files as a zip.",
            code=ErrorCode.DICOM,
        )
    if path.is_file() and found is not FileFormat.ZIP and path.suffix.lower() != ".zip":
        yield _limited([Member(path.name, path.stat().st_size, lambda: path.open("rb"))])
    else:
        with path.open("rb") as file:
            _limit_directory(file)
            with zipfile.ZipFile(file) as archive:
                yield _in_zip(archive, packed=path.stat().st_size)


def series_names(members: Sequence[Member]) -> Mapping[str, str]:
    """Read the series of each file from UK Biobank's ``manifest.csv`` or ``manifest.cvs``, if there is one.

    The column is called ``series discription``, and commas within dates are not quoted. A line that cannot be parsed
    is skipped: the manifest is only used where a header has no description.

    Returns:
        The series description by file name, without folder.
    """
    names: dict[str, str] = {}
    for member in members:
        readable = member.link is Link.FOLLOWED and member.size <= _MAX_MANIFEST_BYTES
        if readable and _MANIFEST.fullmatch(base_name(member)):
            with member.open() as file:
                names.update(_described(file.read(member.size).decode("utf-8-sig", errors="replace")))
    return names


def base_name(member: Member) -> str:
    """The name of a file without its folders."""
    return PurePosixPath(member.name.replace("\\", "/")).name


def _described(text: str) -> dict[str, str]:
    lines = [_BARE_DATE.sub(r"\1 \2", line) for line in text.replace("\0", "").splitlines()]
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    except csv.Error:
        return {}
    header = table[0] if table else []
    file = next((n for n, cell in enumerate(header) if cell.lower() in ("filename", "file")), None)
    series = next((n for n, cell in enumerate(header) if _DESCRIPTION_COLUMN.fullmatch(cell)), None)
    if file is None or series is None:
        return {}
    return {row[file]: row[series] for row in table[1:] if len(row) == len(header)}


def _in_folder(folder: Path, *, follow_links: bool) -> list[Member]:
    root = folder.resolve()
    members = []
    for path in sorted(islice(_paths_in(folder, follow_links=follow_links), _MAX_FILES + 1)):
        link = Link.FOLLOWED
        if path.is_symlink() and not follow_links and not path.resolve().is_relative_to(root):
            link = Link.OUTSIDE
        elif path.is_symlink() and not path.exists():
            link = Link.BROKEN
        if link is Link.FOLLOWED and not path.is_file():
            continue
        size = path.stat().st_size if link is Link.FOLLOWED else 0
        name = str(path.relative_to(folder))
        members.append(Member(name, size, lambda p=path: p.open("rb"), link))  # type: ignore[misc]
    return _limited(members)


def _paths_in(folder: Path, *, follow_links: bool) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, and links to folders that are not followed."""
    seen = set()
    for inner, folders, files in os.walk(folder, followlinks=follow_links):
        # Links may lead back to a folder above.
        real = os.path.realpath(inner)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(inner, name) for name in files)
        if not follow_links:
            yield from (path for name in folders if (path := Path(inner, name)).is_symlink())


def _in_zip(archive: zipfile.ZipFile, *, packed: int) -> list[Member]:
    files = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    total = sum(info.file_size for info in files)
    if total > max(_RATIO_MATTERS_BYTES, _MAX_RATIO * packed):
        raise _too_large(len(files), total)
    if any(info.compress_type not in _COMPRESSIONS for info in files):
        raise ImageError(
            "Expected a zip whose files are stored or deflated, found another compression.",
            hint="Create the zip again without special compression.",
            code=ErrorCode.FILE_DAMAGED,
        )
    # zipfile never returns more bytes than a member declares.
    return _limited([Member(i.filename, i.file_size, lambda i=i: archive.open(i)) for i in files])  # type: ignore[misc]


def _limit_directory(file: IO[bytes]) -> None:
    """Refuse a zip with an implausibly long central directory before it is read into memory.

    Its length is stored at byte 12 of the end record, or, if that holds only ones, at byte 40 of the Zip64 end record
    before it: sections 4.3.16 and 4.3.14 of PKWARE's APPNOTE.
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
    tail = file.read()
    end, large_end = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    listed = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if listed == 2**32 - 1 and large_end >= 0:
        listed = int.from_bytes(tail[large_end + 40 : large_end + 48], "little")
    if listed > _MAX_DIRECTORY_BYTES:
        raise ImageError(
            f"Expected one subject's DICOM files, found a zip directory of {listed / 2**20:.0f} MiB.",
            hint="Give the zip of one visit; this zip may be malicious.",
            code=ErrorCode.DICOM,
        )


def _limited(members: list[Member]) -> list[Member]:
    sizes = [member.size for member in members]
    if len(sizes) > _MAX_FILES or max(sizes, default=0) > _MAX_FILE_BYTES or sum(sizes) > _MAX_TOTAL_BYTES:
        raise _too_large(len(sizes), sum(sizes))
    return members


def _too_large(files: int, total: int) -> ImageError:
    return ImageError(
        f"Expected one subject's DICOM files, found {files} files of {total / 2**20:.0f} MiB.",
        hint="Give the folder or zip of one visit; a zip that expands this much may be malicious.",
        code=ErrorCode.DICOM,
    )
