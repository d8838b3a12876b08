"""Seals: digests within the files of a run, by which every changed bit of them is found.

A sealed file contains the SHA-256 digest of its own content. A JSON file and a JSON line have it as the value of
``sha256``; a Parquet file has it in its metadata; a text has it in its last line. A seal is written with the file, so
that an interruption never leaves a file without its seal. Files of other kinds, and those that grow, are listed with
their digests in a file ``digests.json`` of their folder, which is sealed itself.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmnet_core.io.atomic import TEMPORARY, replacing, write_text

DIGESTS = "digests.json"
"""Name of the file that lists the digests of the other files of its folder."""

_SEAL = "sha256"
_PARQUET_KEY = "cmnet_sha256"
_NO_DIGEST = "0" * 64
# A key and its value in the footer of a Parquet file: in Thrift, 0x18 starts a text, and 0x40 is a length of 64 bytes.
_PARQUET_SEAL = _PARQUET_KEY.encode() + b"\x18\x40"
_TEXT_SEAL = re.compile(rb"sha256 of the lines above: ([0-9a-f]{64})\n\Z")
_LINE_DIGITS = 16
KEY_BYTES = 32
"""Length of the secret key of a run."""

_LINE_SEAL = re.compile(rb', "sha256": "([0-9a-f]{16})"\}\Z')
_BLOCK = 1 << 20


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON with their seal, atomically."""
    # Tuples become lists and keys text, as they will be read.
    plain = json.loads(_json_text(values))
    write_text(path, _json_text(plain | {_SEAL: _digest(_json_text(plain).encode())}))


def read_sealed_json(path: Path, *, required: bool = False) -> dict[str, Any] | None:
    """Read the mapping in a JSON file without its seal.

    Args:
        path: The file.
        required: Whether a file without a seal counts as damaged. Files of cmnet 0.1.0 have none.

    Returns:
        The values, or None where the file is missing, is no mapping, or does not match its seal.
    """
    try:
        content = path.read_bytes()
        values = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    if _SEAL not in values:
        return None if required else values
    seal = values.pop(_SEAL)
    try:
        # The bytes are compared too: a changed blank would not change the values.
        whole = seal == _digest(_json_text(values).encode()) and content == _json_text(values | {_SEAL: seal}).encode()
    except (ValueError, RecursionError):
        return None
    return values if whole else None


def sealed_line(values: Mapping[str, Any]) -> str:
    """Return plain values as one line of JSON with its seal, without the end of the line."""
    return json.dumps({**values, _SEAL: _digest(json.dumps(values).encode())[:_LINE_DIGITS]})


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, after the end of a line that a crash cut short, and flush it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"\n" * lacks_line_end(path) + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def lacks_line_end(path: Path) -> bool:
    """Whether a file ends within a line, since a crash cut it short."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def remove_cut_line(path: Path) -> None:
    """Remove the last line of a file to which no other process appends, if a crash cut it short."""
    if lacks_line_end(path):
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read a file of JSON lines; a missing file has none.

    Returns:
        The values of the lines without their seals, and the numbers of the lines that are damaged or have no seal.
        Lines without a seal, as cmnet 0.1.0 wrote them, are among both.
    """
    values, damaged = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, start=1):
        cut_short = number == len(lines)
        if cut_short and not line:
            break
        read, sealed = _read_line(line)
        if read is not None:
            values.append(read)
        if not sealed or cut_short:
            damaged.append(number)
    return values, damaged


def _read_line(line: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Return the values of a line, or None where they are damaged, and whether it has a seal that it matches."""
    found = _LINE_SEAL.search(line)
    body = line[: found.start()] + b"}" if found else line
    sealed = found is not None and found[1].decode() == _digest(body)[:_LINE_DIGITS]
    if found and not sealed:
        return None, False
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return None, False
    # A seal that is no seal any more is damage, while lines of cmnet 0.1.0 have none.
    if not isinstance(values, dict) or (not sealed and _SEAL in values):
        return None, False
    return values, sealed


def open_parquet_writer(path: Path, schema: Any) -> Any:
    """Open a Parquet file whose seal :func:`seal_parquet` writes after the writer is closed."""
    import pyarrow.parquet as pq  # here, because `cmnet --help` writes no table

    writer = pq.ParquetWriter(path, schema)
    writer.add_key_value_metadata({_PARQUET_KEY: _NO_DIGEST})
    return writer


def write_sealed_parquet(path: Path, table: Any) -> None:
    """Write an Arrow table as a sealed Parquet file, atomically."""
    with replacing(path) as partial:
        with open_parquet_writer(partial, table.schema) as writer:
            writer.write_table(table)
        seal_parquet(partial)


def seal_parquet(path: Path) -> None:
    """Write the seal of a Parquet file: the digest of the file in which the seal is zeros."""
    position = _seal_position(path)
    if position is None:
        raise ValueError(f"{path} was not opened by open_parquet_writer.")
    with path.open("r+b") as file:
        file.seek(position)
        file.write(_digest_without_seal(path, position).encode())


def is_whole_parquet(path: Path) -> bool:
    """Whether a Parquet file matches its seal; a file without a seal does not."""
    try:
        position = _seal_position(path)
        if position is None:
            return False
        with path.open("rb") as file:
            file.seek(position)
            return file.read(64) == _digest_without_seal(path, position).encode()
    except OSError:
        return False


def _seal_position(path: Path) -> int | None:
    """Return the position of the digest in the footer of a Parquet file; None where there is no seal."""
    size = path.stat().st_size
    with path.open("rb") as file:
        # The last eight bytes are the length of the footer and the mark of the format.
        file.seek(max(0, size - 8))
        footer = int.from_bytes(file.read(4), "little")
        start = max(0, size - 8 - footer)
        file.seek(start)
        found = file.read().rfind(_PARQUET_SEAL)
    return None if found < 0 else start + found + len(_PARQUET_SEAL)


def _digest_without_seal(path: Path, position: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = position
        while left and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
        file.read(64)
        digest.update(_NO_DIGEST.encode())
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sealed_text(text: str) -> str:
    """Return a text with its seal as the last line."""
    text = text if text.endswith("\n") else text + "\n"
    return f"{text}sha256 of the lines above: {_digest(text.encode())}\n"


def is_whole_text(path: Path) -> bool:
    """Whether a text matches the seal in its last line; a text without a seal does not."""
    content = path.read_bytes()
    found = _TEXT_SEAL.search(content)
    return found is not None and found[1].decode() == _digest(content[: found.start()])


def seal_key(key: bytes) -> bytes:
    """Return a secret key followed by its digest."""
    return key + hashlib.sha256(key).digest()


def open_key(content: bytes, *, required: bool = False) -> bytes | None:
    """Return the secret key in a file's content, or None where it is too short or does not match its digest.

    Args:
        content: The content of the file.
        required: Whether a key without a digest, as cmnet 0.1.0 wrote it, counts as damaged.
    """
    key = content[:KEY_BYTES]
    whole = content == seal_key(key) or (content == key and not required)
    return key if len(key) == KEY_BYTES and whole else None


@contextmanager
def recording(folder: Path, names: Collection[str] | None = None) -> Iterator[None]:
    """Record the digests of the files that are written to a folder in the block.

    While the block runs, and after an interruption, the record states that files are being written: those that changed
    since then have no digest and are not taken for damaged. Files that are not written keep their digests, so that
    their damage remains visible.

    Args:
        folder: The folder.
        names: Names of the files that are written; None for all files below the folder.
    """
    known = _digests_before_interruption(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed_json(folder / DIGESTS, {"files": known, "is_being_written": True})
    started_ns = (folder / DIGESTS).stat().st_mtime_ns
    yield
    written = folder.rglob("*") if names is None else (folder / name for name in names)
    # What a command that was killed left behind is no result.
    files = {
        str(path.relative_to(folder)): path
        for path in written
        if path.is_file() and path.name != DIGESTS and not path.name.startswith(TEMPORARY)
    }
    digests = {
        name: known[name] if name in known and _is_older(path, started_ns) else _record_of(path)
        for name, path in files.items()
    }
    others = {} if names is None else {name: record for name, record in known.items() if name not in names}
    write_sealed_json(folder / DIGESTS, {"files": others | digests})


def _digests_before_interruption(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the recorded digests without those of files that an interrupted command has written or removed."""
    values = _read_digests(folder) or {"files": {}}
    files: dict[str, dict[str, Any]] = values["files"]
    if not values.get("is_being_written"):
        return files
    started_ns = (folder / DIGESTS).stat().st_mtime_ns
    return {name: record for name, record in files.items() if _is_older(folder / name, started_ns)}


def record_logs(folder: Path) -> None:
    """Record the digests of the logs of a folder and its subfolders, which only grow.

    A log whose recorded part has changed keeps its earlier digest, so that the damage remains visible.
    """
    known = read_digests(folder) or {}
    for path in sorted(folder.rglob("*.log")):
        name = str(path.relative_to(folder))
        if name not in known or _matches(path, known[name]):
            known[name] = _record_of(path)
    if known:
        write_sealed_json(folder / DIGESTS, {"files": known})


def read_digests(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Return size and digest of every recorded file of a folder, by name; None where there is no whole record."""
    values = _read_digests(folder)
    return None if values is None else values["files"]


def _read_digests(folder: Path) -> dict[str, Any] | None:
    values = read_sealed_json(folder / DIGESTS, required=True) or {}
    files = values.get("files")
    records = files.values() if isinstance(files, dict) else (None,)
    whole = all(
        isinstance(item, dict) and isinstance(item.get("size"), int) and isinstance(item.get(_SEAL), str)
        for item in records
    )
    return values if whole else None


def differing_files(folder: Path) -> list[str]:
    """Return the names of the recorded files of a folder that are missing or differ from their digests."""
    values = _read_digests(folder) or {"files": {}}
    differing = [name for name, record in values["files"].items() if not _matches(folder / name, record)]
    if not values.get("is_being_written"):
        return differing
    started_ns = (folder / DIGESTS).stat().st_mtime_ns
    return [name for name in differing if (folder / name).exists() and _is_older(folder / name, started_ns)]


def accept_files(folder: Path, names: Collection[str]) -> None:
    """Record the present digests of files that cannot be made again, and drop those of missing files."""
    known = read_digests(folder) or {}
    present = {name: _record_of(folder / name) for name in names if (folder / name).is_file()}
    kept = {name: record for name, record in known.items() if name not in names}
    write_sealed_json(folder / DIGESTS, {"files": kept | present})


def _is_older(path: Path, time_ns: int) -> bool:
    return path.exists() and path.stat().st_mtime_ns < time_ns


def _record_of(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, _SEAL: _digest_of_start(path, size)}


def _matches(file: Path, record: Mapping[str, Any]) -> bool:
    try:
        size = file.stat().st_size
        # What a log has gained since it was recorded has no digest yet.
        known = size == record["size"] or (file.suffix == ".log" and size > record["size"])
        return known and _digest_of_start(file, record["size"]) == record[_SEAL]
    except OSError:
        return False


def _digest_of_start(file: Path, size: int) -> str:
    digest, left = hashlib.sha256(), size
    with file.open("rb") as opened:
        while left and (block := opened.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file and its permissions atomically."""
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
        shutil.copymode(source, partial)
