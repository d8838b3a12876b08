"""Faults at the file-system calls of a command: at a chosen one, the process is killed or the call fails.

Calls are those of Python's module os, of opening, reading and writing files, and of reading and writing Parquet.
"""

import builtins
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.cli.commanding import ROOT, cmnet

KILLED = 9
"""Exit code of a process that was killed."""

_OF_OS = (
    *("replace", "fsync", "unlink", "mkdir", "link", "utime", "scandir", "listdir", "stat", "chmod", "open"),
    *("sendfile", "rmdir"),
)
_ELSEWHERE = ("/proc", "/sys", str(ROOT / "cmnet_cli"), str(ROOT / "cmnet_core"), sys.prefix)
"""Folders whose files are opened without faults: those of the system and of the installation."""

_OF_PARQUET = ((pq.ParquetWriter, "write_table"), (pq.ParquetWriter, "close"), (pq.ParquetFile, "read_row_group"))


class _Fault:
    """Counts the calls, and kills the process or raises an error at one of them.

    Args:
        kind: The error number; None kills the process.
        at: The call, counted from 1; 0 for none.
    """

    def __init__(self, kind: int | None, at: int) -> None:
        self.kind = kind
        self.at = at
        self.calls = 0

    def is_now(self) -> bool:
        self.calls += 1
        return self.calls == self.at

    def happen(self) -> None:
        if self.kind is None:
            os._exit(KILLED)
        raise OSError(self.kind, os.strerror(self.kind))

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*given: Any, **named: Any) -> Any:
            elsewhere = bool(given) and isinstance(given[0], str | Path) and str(given[0]).startswith(_ELSEWHERE)
            if not elsewhere and self.is_now():
                self.happen()
            return call(*given, **named)

        return replaced


def _opener(fault: _Fault) -> Callable[..., Any]:
    """Return a function that opens files as ``open`` does, whose reading and writing may fail."""
    original = io.open

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            if fault.is_now():
                # Part of the content reaches the disk.
                super().write(memoryview(content).cast("B")[: len(content) // 2])
                fault.happen()
            return super().write(content)

        def readinto(self, buffer: Any) -> int:
            if fault.is_now():
                fault.happen()
            return super().readinto(buffer)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
        if not isinstance(file, str | Path) or not str(file).startswith("/") or str(file).startswith(_ELSEWHERE):
            return original(file, mode, buffering, *given, **named)
        if fault.is_now():
            fault.happen()
        raw = File(os.fspath(file), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered: Any = (
            io.BufferedRandom(raw) if "+" in mode else io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        )
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, *given, line_buffering=buffering == 1, **named)
        text.mode = mode
        return text

    return opened


def run_with_fault(kind: int | None, at: int, *arguments: object) -> tuple[int, int, str]:
    """Run a command in a child process with a fault.

    Args:
        kind: The error number; None kills the process.
        at: The call, counted from 1; 0 for no fault.
        arguments: The command.

    Returns:
        The exit code, the number of calls until the end, and the output.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _run_here(_Fault(kind, at), writing, arguments)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls, _, output = said.partition("\n")
    return code, int(calls or 0), output


def _run_here(fault: _Fault, pipe: int, arguments: tuple[object, ...]) -> None:
    code, output = 1, ""
    try:
        for name in _OF_OS:
            setattr(os, name, fault.before(getattr(os, name)))
        for owner, name in _OF_PARQUET:
            setattr(owner, name, fault.before(getattr(owner, name)))
        io.open = builtins.open = _opener(fault)
        result = cmnet(*arguments)
        code, output = result.exit_code, result.output
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 - it is reported by the parent
        output = traceback.format_exc()
    finally:
        os.write(pipe, f"{fault.calls}\n{output}".encode())
        os._exit(code)
