"""Proof that a stage is done for a case: what went in, what was set, what came out, each with its digest."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io.atomic import read_json, write_json


class OnStale(StrEnum):
    """What to do with a subject whose outputs were made from other inputs, settings or weights."""

    SKIP = "skip"
    RERUN = "rerun"
    ERROR = "error"


class State(StrEnum):
    """Where a case stands with a stage."""

    DONE = "done"
    PENDING = "pending"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was when a stage ran. A folder counts as one file.

    Attributes:
        path: Absolute for an input, a name within the case's folder for an output.
        size: Bytes, those of all files for a folder.
        changed_ns: Latest time of change in nanoseconds.
        sha256: Digest of the content.
    """

    path: str
    size: int
    changed_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a stage leaves behind, last of all its files.

    Attributes:
        stage: The stage's name.
        case_id: The case.
        version: The version of cmnet.
        settings_digest: Digest of the configuration and of the manifest's cells that steer the stage.
        model_digest: Digest of the weights, empty where the stage has none.
        inputs: The files read.
        outputs: The files written.
        facts: What later stages need to know, such as ED and ES; every value is plain JSON.
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
    """What a sidecar must agree with for its case to count as done."""

    inputs: tuple[Path, ...]
    settings_digest: str
    model_digest: str


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(item for item in path.rglob("*") if item.is_file())
    return [path]


def _size_and_change(path: Path) -> tuple[int, int]:
    stats = [item.stat() for item in _files_of(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def sha256_of(path: Path) -> str:
    """Digest of a file's bytes, or of the names and bytes of all files in a folder."""
    digest = hashlib.sha256()
    for item in _files_of(path):
        if path.is_dir():
            digest.update(str(item.relative_to(path)).encode())
        with item.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def record_file(path: Path, *, name: str) -> FileRecord:
    """Describe a file under a name.

    Raises:
        ImageError: It is not there.
    """
    if not path.exists():
        raise ImageError(
            f"The file {path} is not there.",
            hint="Correct the path in the manifest; paths are relative to the manifest.",
            code=ErrorCode.FILE_MISSING,
        )
    size, changed_ns = _size_and_change(path)
    return FileRecord(name, size, changed_ns, sha256_of(path))


def record_inputs(paths: Iterable[Path]) -> tuple[FileRecord, ...]:
    """Describe the files that a stage reads."""
    return tuple(record_file(path, name=os.path.abspath(path)) for path in paths)


def record_outputs(paths: Iterable[Path]) -> tuple[FileRecord, ...]:
    """Describe the files that a stage wrote into a case's folder."""
    return tuple(record_file(path, name=path.name) for path in paths)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write the proof, after all files that it vouches for."""
    write_json(path, dataclasses.asdict(sidecar))


def read_sidecar(path: Path) -> Sidecar | None:
    """The proof in a file, or None where there is none or it cannot be understood."""
    values = read_json(path) or {}
    try:
        inputs = tuple(FileRecord(**item) for item in values.pop("inputs"))
        outputs = tuple(FileRecord(**item) for item in values.pop("outputs"))
        return Sidecar(inputs=inputs, outputs=outputs, **values)
    except (KeyError, TypeError):
        return None


def judge(path: Path, expected: Expected) -> tuple[State, str]:
    """Whether a stage is done for a case, and if not, why.

    Args:
        path: The sidecar.
        expected: The inputs and digests of today.

    Returns:
        The state and the reason in words, empty when done.
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
    if sidecar.model_digest != expected.model_digest:
        return "made with other weights"
    if sidecar.settings_digest != expected.settings_digest:
        return "made with other settings"
    if [record.path for record in sidecar.inputs] != [os.path.abspath(path) for path in expected.inputs]:
        return "made from other files"
    return "" if all(_is_unchanged(record) for record in sidecar.inputs) else "an input has changed"


def _is_unchanged(record: FileRecord) -> bool:
    """Size and time of change settle most cases; only where the time differs is the content read."""
    path = Path(record.path)
    if not path.exists():
        # An archived input is no reason to throw its results away.
        return True
    size, changed_ns = _size_and_change(path)
    if size != record.size:
        return False
    return changed_ns == record.changed_ns or sha256_of(path) == record.sha256


def damaged_outputs(path: Path, sidecar: Sidecar) -> list[str]:
    """Names of the outputs whose content no longer matches the sidecar, or that are gone."""
    files = [(record, path.parent / record.path) for record in sidecar.outputs]
    return [record.path for record, file in files if not file.exists() or sha256_of(file) != record.sha256]
