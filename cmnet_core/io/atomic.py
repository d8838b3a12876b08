"""Files that appear under their name only when they are whole."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name in the folder of ``path``; give the file its name once it is on disk.

    If the block raises, nothing stays behind and an older file of that name is left as it was.

    Args:
        path: The final name. Its folder is made if need be.

    Yields:
        The name to write to. It keeps the suffix, for writers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file under its final name, or nothing."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write plain values as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file, or None where there is none or it cannot be understood."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _flush(path: Path) -> None:
    """Wait until the file, or the folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
