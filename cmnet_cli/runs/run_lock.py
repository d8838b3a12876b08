"""A lease says who works on what. It ends with its holder: one that was killed keeps nobody waiting for long.

A lease is a file whose name ends in a generation, ``run.7``. Whoever makes the next generation holds the lease: of
several that try, the file system lets one succeed, and a generation never comes back, so that nobody can take by
mistake what another has just taken. The holder touches its file now and then. A lease is free when it was given back,
when its holder is known to be dead (same machine), or when nobody has touched it for long (another machine).
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cmnet_core.errors import EngineError, ErrorCode
from cmnet_core.io.atomic import read_json

BEAT_S = 15.0
EXPIRES_S = 120.0
"""Longer than network file systems keep what they know of a file, so that a living holder is never taken for dead."""

_POLL_S = 2.0
_RELEASED = 1.0  # seconds since 1970: no lease is touched then


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lease, or held it.

    Attributes:
        command: What it does with it.
        host: The machine.
        pid: The process there.
        identity: Tells the process from a later one of the same number.
        since: When it took the lease.
    """

    command: str
    host: str
    pid: int
    identity: str
    since: str

    def __str__(self) -> str:
        return f"{self.command}, process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """A lease that is held; it is renewed in the background until it is given back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._lost = False
        self._beating = threading.Thread(target=self._beat, name=f"lease {path.name}", daemon=True)
        self._beating.start()

    def require(self) -> None:
        """Make sure that the lease is still held.

        Raises:
            EngineError: This process stood still for so long that another took over.
        """
        if self._lost:
            raise EngineError(
                f"This process stood still for over {EXPIRES_S:.0f} s, and another took over its work.",
                hint="Nothing is damaged. cmnet status tells how the other is doing.",
                code=ErrorCode.ENGINE,
            )

    def release(self) -> None:
        """Give the lease back."""
        self._over.set()
        self._beating.join()
        with suppress(FileNotFoundError):
            # Not removed, or its generation would come back. Touching it needs no room on the disk.
            os.utime(self._path, (_RELEASED, _RELEASED))

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                # Only who takes the next generation removes the one before.
                self._lost = True
                return
            except OSError:
                continue


def acquire_lock(
    path: Path, command: str, *, busy: Callable[[], LockHolder | None], refuse: Callable[[LockHolder], None]
) -> RunLock:
    """Take a lease.

    Args:
        path: Its name without the generation.
        command: What it is wanted for.
        busy: Who else stands in the way, asked once the lease is held: of two that want leases which exclude each
            other, at least one sees the other.
        refuse: Called with whoever stands in the way. It raises, or returns to wait.

    Returns:
        The lease, to be released.
    """
    while True:
        lock = _take(path, command)
        if isinstance(lock, LockHolder):
            other: LockHolder | None = lock
        else:
            other = busy()
            if other is None:
                return lock
            lock.release()
        assert other is not None
        refuse(other)
        time.sleep(_POLL_S)


def lock_holder(path: Path) -> LockHolder | None:
    """Who holds a lease now, or None where it is free."""
    return _look(path)[1]


def _take(path: Path, command: str) -> RunLock | LockHolder:
    """The lease, or whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generation, holder = _look(path)
    if holder is not None:
        return holder
    mine = LockHolder(command, platform.node(), os.getpid(), _identity(os.getpid()), _now())
    taken = _generation_path(path, generation + 1)
    try:
        with taken.open("x", encoding="utf-8") as file:
            json.dump(asdict(mine), file)
    except FileExistsError:
        return _look(path)[1] or mine
    for number in _generations(path):
        if number <= generation:
            _generation_path(path, number).unlink(missing_ok=True)
    return RunLock(taken)


def _look(path: Path) -> tuple[int, LockHolder | None]:
    """The latest generation (0: none), and its holder if the lease is not free."""
    generation = max(_generations(path), default=0)
    if generation == 0:
        return 0, None
    latest = _generation_path(path, generation)
    try:
        touched = latest.stat().st_mtime
    except FileNotFoundError:
        return _look(path)
    if touched == _RELEASED:
        return generation, None
    values = read_json(latest)
    # Made a moment ago and not written yet, or its maker was killed in between: only its age tells.
    unwritten = LockHolder("cmnet", "an unknown machine", 0, "", "just now")
    holder = LockHolder(**values) if values else unwritten
    return generation, None if _has_ended(holder, path.parent, touched) else holder


def _has_ended(holder: LockHolder, folder: Path, touched: float) -> bool:
    if holder.host == platform.node() and holder.identity.startswith(_machine()):
        return _identity(holder.pid) != holder.identity
    return _clock_of(folder) - touched > EXPIRES_S


def _generations(path: Path) -> list[int]:
    names = [item.name.removeprefix(f"{path.name}.") for item in path.parent.glob(f"{path.name}.*")]
    return [int(name) for name in names if name.isdigit()]


def _generation_path(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation}")


def _clock_of(folder: Path) -> float:
    """The time by the clock of the file system, which may differ from this machine's."""
    probe = folder / f".clock-{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        # Who may only read has this machine's clock to go by.
        return time.time()
    return now


def _machine() -> str:
    """This start of this machine and, within containers, this set of process numbers; empty where nobody tells."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _identity(pid: int) -> str:
    """What tells a living process from all others; empty where there is none of this number."""
    try:
        # The name of the program may hold blanks and brackets: what follows its last bracket begins with field 3.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return "" if state in "ZX" else f"{_machine()}/{pid}/{fields[18]}"


def _without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return f"/{pid}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
