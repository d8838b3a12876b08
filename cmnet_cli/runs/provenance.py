"""Sidecars: the records that a stage has finished for a case, with digests of its inputs, settings and outputs."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from cmnet_cli.seals import read_sealed_json, write_sealed_json
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io.file_content import missing_file


class OnStale(StrEnum):
    """What to do with a subject whose results were computed with other inputs, settings or weights."""

    SKIP = "skip"
    RERUN = "rerun"
    ERROR = "error"


class State(StrEnum):
    """The state of a stage for a case."""

    DONE = "done"
    PENDING = "pending"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when a stage ran. A folder is recorded like one file.

    Attributes:
        path: Absolute path of an input; name within the folder of the case of an output.
        size: Size in bytes; of a folder, the sum of all files.
        changed_ns: Time of the last modification in ns.
        sha256: Digest of the content.
    """

    path: str
    size: int
    changed_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The record of a stage for a case, which is written after all other files of the stage.

    Attributes:
        stage: Name of the stage.
        case_id: Id of the case.
        version: Version of cmnet.
        settings_digest: Digest of the settings and of the cells of the manifest on which the results depend.
        model_digest: Digest of the weights; empty for a stage without networks.
        inputs: Files that the stage read.
        outputs: Files that the stage wrote.
        facts: Values that later stages need, such as ED and ES, as plain JSON.
    """

    stage: str
    case_id: str
    version: str
    settings_digest: str
    model_digest: str
    inputs: tuple[FileRecord, ...]
    outputs: tuple[FileRecord, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """The inputs and digests that a sidecar must have for its case to be done."""

    inputs: tuple[Path, ...]
    settings_digest: str
    model_digest: str


_MOST_ENTRIES = 100_000
_MOST_BYTES = 8 * 2**30


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(item for item in islice(path.rglob("*"), _MOST_ENTRIES) if item.is_file())
    return [path]


def _size_and_change(path: Path) -> tuple[int, int]:
    stats = [item.stat() for item in _files_of(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file, or of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for item in _files_of(path):
        if path.is_dir():
            digest.update(str(item.relative_to(path)).encode())
        with item.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def record_file(path: Path, *, name: str) -> FileRecord:
    """Return the record of a file under a name.

    Raises:
        ImageError: The file does not exist, is neither a file nor a folder, or is larger than any cine.
    """
    try:
        exists, is_readable = path.exists(), path.is_file() or path.is_dir()
    except OSError as error:
        # Such as a name that is too long for the file system.
        raise _unusable(f"The file {path} cannot be read: {error.strerror}.", ErrorCode.FILE_MISSING) from error
    if not exists:
        raise missing_file(path)
    if not is_readable:
        # Reading from a pipe or a device might never end.
        raise _unusable(f"{path} is a pipe or a device, expected a file or a folder.", ErrorCode.FILE_DAMAGED)
    if path.is_dir() and sum(1 for _ in islice(path.rglob("*"), _MOST_ENTRIES + 1)) > _MOST_ENTRIES:
        raise _unusable(f"The folder {path} has over {_MOST_ENTRIES} files.", ErrorCode.DICOM)
    size, changed_ns = _size_and_change(path)
    if size > _MOST_BYTES:
        raise _unusable(f"{path} has {size / 1e9:.0f} GB, expected one cine of one visit.", ErrorCode.FILE_DAMAGED)
    return FileRecord(name, size, changed_ns, sha256_of(path))


def _unusable(message: str, code: ErrorCode) -> ImageError:
    hint = "Correct the path in the manifest; paths are relative to the folder of the manifest."
    return ImageError(message, hint=hint, code=code)


def record_inputs(paths: Iterable[Path]) -> tuple[FileRecord, ...]:
    """Return the records of the files that a stage reads."""
    return tuple(record_file(path, name=os.path.abspath(path)) for path in paths)


def record_outputs(paths: Iterable[Path]) -> tuple[FileRecord, ...]:
    """Return the records of the files that a stage wrote to the folder of a case."""
    return tuple(record_file(path, name=path.name) for path in paths)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in the folder of a case, which only this process writes to."""
    for path in folder.glob(".tmp-*"):
        remove_path(path)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that it contains."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write a sidecar. All outputs that it lists must have been written before."""
    write_sealed_json(path, dataclasses.asdict(sidecar))


def read_sidecar(path: Path, *, sealed: bool = False) -> Sidecar | None:
    """Read a sidecar; return None where it is missing, damaged or cannot be understood.

    Args:
        path: The sidecar.
        sealed: Whether a sidecar without a seal, as cmnet 0.1.0 wrote it, counts as damaged.
    """
    import msgspec  # here, because `cmnet --help` reads no sidecars

    values = read_sealed_json(path, required=sealed)
    try:
        return msgspec.convert(values, Sidecar)
    except msgspec.ValidationError:
        return None


def stage_state(path: Path, expected: Expected) -> tuple[State, str]:
    """Return the state of a stage for a case, and the reason.

    Args:
        path: The sidecar.
        expected: The current inputs and digests.

    Returns:
        The state, and the reason as text; empty for a case that is done.
    """
    sidecar = read_sidecar(path)
    if sidecar is None:
        return State.PENDING, "no sidecar"
    for record in sidecar.outputs:
        file = path.parent / record.path
        if not file.exists() or file.stat().st_size != record.size:
            return State.PENDING, f"output {record.path} is missing or damaged"
    reason = _why_stale(sidecar, expected)
    return (State.STALE, reason) if reason else (State.DONE, "")


def _why_stale(sidecar: Sidecar, expected: Expected) -> str:
    if sidecar.version != __version__:
        return f"computed by cmnet {sidecar.version}"
    if sidecar.model_digest != expected.model_digest:
        return "computed with other weights"
    if sidecar.settings_digest != expected.settings_digest:
        return "computed with other settings"
    if len(sidecar.inputs) != len(expected.inputs):
        return "computed from other files"
    pairs = zip(sidecar.inputs, expected.inputs, strict=True)
    return next((reason for record, file in pairs if (reason := _why_input_stale(record, file))), "")


def _why_input_stale(record: FileRecord, file: Path) -> str:
    if record.path != os.path.abspath(file):
        # Files that were moved have the same content; their times need not be those of the same files.
        moved = file.exists() and _size_and_change(file)[0] == record.size and sha256_of(file) == record.sha256
        return "" if moved else "computed from other files"
    # The results of an input that was archived or deleted remain valid.
    return "an input has changed" if file.exists() and not _is_unchanged(record, file) else ""


def _is_unchanged(record: FileRecord, path: Path) -> bool:
    """Compare size and time of modification; the content is read only if the time differs."""
    size, changed_ns = _size_and_change(path)
    if size != record.size:
        return False
    return changed_ns == record.changed_ns or sha256_of(path) == record.sha256


def damaged_outputs(path: Path, sidecar: Sidecar) -> list[str]:
    """Return the names of outputs that are missing or whose content does not match the sidecar."""
    files = [(record, path.parent / record.path) for record in sidecar.outputs]
    return [record.path for record, file in files if not file.exists() or sha256_of(file) != record.sha256]
