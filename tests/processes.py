"""The processes behind a command, for tests that end or hold them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers that a command has started on this machine."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def held(processes: list[psutil.Process]) -> Iterator[None]:
    """Keep processes from going on, whatever they are at. Those that are ended meanwhile need no more."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
