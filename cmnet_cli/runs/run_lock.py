"""Locks by files: one command at a time works on a run folder, and one task on a shard.

A lock ``NAME`` is a series of files ``NAME.1``, ``NAME.2``, … whose suffix is called its generation. The process that
created the file of the latest generation owns the lock.

* To acquire a free lock whose latest generation is *n*, a process writes a draft and links it to ``NAME.<n+1>``. The
  file system lets exactly one of several processes succeed, and nobody, killed processes included, ever leaves a lock
  that does not state its owner. The new owner then deletes the older files. Since the latest
  file is never deleted, a generation is never reused, and a process with outdated knowledge of the lock cannot acquire
  a generation that another process has acquired and released since.
* The owner renews the lock: a thread touches its file every ``RENEW_INTERVAL_S``. If the file is gone, another process
  has taken the lock over, and the owner stops.
* A lock is free if it has no file; if its owner has released it, which sets the file's modification time to
  ``_RELEASED_MTIME``; or if it is stale. The lock of an owner on this machine is stale when that process has ended. The
  lock of an owner on another machine is stale when it has not been renewed for ``STALE_AFTER_S`` by the clock of the
  file system.
"""

import errno
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmnet_cli.runs.timestamp import utc_now
from cmnet_core.errors import EngineError, ErrorCode
from cmnet_core.io.atomic import read_json

RUN_LOCK = "run"
"""Name of the lock of a whole run folder."""

TASK_LOCK_PREFIX = "task-"
"""Prefix of the names of the locks of single shards, see :func:`cmnet_cli.slurm.array_tasks.task_lock_name`."""

RENEW_INTERVAL_S = 15.0
STALE_AFTER_S = 120.0
"""Longer than network file systems cache a file's attributes, so that a living owner's lock is never judged stale."""

_RETRY_INTERVAL_S = 2.0
_RELEASED_MTIME = 1.0  # in seconds since 1970: no renewal sets this time
_DRAFT_SUFFIX = ".draft"
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The process that owns a lock, as its file describes it.

    Attributes:
        command: What the process does with it.
        host: The machine.
        pid: The process id on that machine.
        identity: Identifies the process among all that have had the same process id, see :func:`_process_identity`.
        since: Time of acquisition, in UTC.
    """

    command: str
    host: str
    pid: int
    identity: str
    since: str

    def __str__(self) -> str:
        return f"{self.command}, process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """A lock that this process owns. A background thread renews it until it is released."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released = threading.Event()
        self._lost = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name=f"renew lock {path.name}", daemon=True)
        self._renewal.start()

    def require_owned(self) -> None:
        """Make sure that this process still owns the lock.

        Raises:
            EngineError: Another process took the lock over, because this one was suspended for too long.
        """
        if self._lost.is_set():
            raise EngineError(
                f"This process was suspended for over {STALE_AFTER_S:.0f} s, and another process took over its work.",
                hint="Nothing is damaged. cmnet status shows the progress of the other process.",
                code=ErrorCode.ENGINE,
            )

    def wait_until_lost(self, timeout_s: float) -> bool:
        """Wait until another process takes the lock over; return whether that happened within ``timeout_s``."""
        return self._lost.wait(timeout_s)

    def release(self) -> None:
        """Release the lock."""
        self._released.set()
        self._renewal.join()
        with suppress(FileNotFoundError):
            # The file stays, or its generation would be reused. Setting its time needs no space on a full disk.
            os.utime(self._path, (_RELEASED_MTIME, _RELEASED_MTIME))

    def _renew(self) -> None:
        while not self._released.wait(RENEW_INTERVAL_S):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                # Only the owner of a later generation deletes this file.
                self._lost.set()
                return
            except OSError:
                continue


def acquire_lock(
    path: Path,
    command: str,
    *,
    find_conflict: Callable[[], LockOwner | None],
    on_conflict: Callable[[LockOwner], None],
) -> RunLock:
    """Acquire a lock.

    Args:
        path: Path of the lock, without the generation.
        command: What this process will do with it, for the messages of others.
        find_conflict: Returns the owner of another lock that excludes this one. It is called after this lock has been
            acquired: of two processes that acquire locks which exclude each other, at least one then sees the other.
        on_conflict: Called with the owner of this lock, or of one that excludes it. It raises, or returns to wait.

    Returns:
        The lock; the caller releases it.
    """
    while True:
        lock = _try_to_acquire(path, command)
        if isinstance(lock, LockOwner):
            owner = lock
        else:
            conflict = find_conflict()
            if conflict is None:
                return lock
            lock.release()
            owner = conflict
        on_conflict(owner)
        time.sleep(_RETRY_INTERVAL_S)


def lock_owner(path: Path) -> LockOwner | None:
    """Return the owner of a lock, or None where the lock is free.

    Args:
        path: Path of the lock, without the generation.
    """
    return _read_lock(path)[1]


def _try_to_acquire(path: Path, command: str) -> RunLock | LockOwner:
    """Acquire a lock if it is free; otherwise return its owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generation, owner = _read_lock(path)
    if owner is not None:
        return owner
    this_process = LockOwner(command, platform.node(), os.getpid(), _process_identity(os.getpid()), utc_now())
    next_file = _lock_file(path, generation + 1)
    try:
        _create(next_file, json.dumps(asdict(this_process)))
    except FileExistsError:
        # Another process was faster; if it has released the lock already, the caller simply tries again.
        return _read_lock(path)[1] or this_process
    generations = _generations(path)
    if max(generations, default=0) > generation + 1:
        # This process stood still since it read the lock: others have acquired and released it meanwhile, and the
        # generation that it has just created had been deleted before.
        next_file.unlink(missing_ok=True)
        return _read_lock(path)[1] or this_process
    for older in generations:
        if older <= generation:
            _lock_file(path, older).unlink(missing_ok=True)
    for draft in path.parent.glob(f"{path.name}.*{_DRAFT_SUFFIX}"):
        # Of a process that was killed, or of one that finds this generation acquired.
        draft.unlink(missing_ok=True)
    return RunLock(next_file)


def _create(path: Path, content: str) -> None:
    """Create a file with its content in one step.

    Raises:
        FileExistsError: There is such a file, or another process has acquired the lock meanwhile.
    """
    draft = path.with_name(f"{path.name}-{platform.node()}-{os.getpid()}-{threading.get_ident()}{_DRAFT_SUFFIX}")
    try:
        draft.write_text(content, encoding="utf-8")
        try:
            os.link(draft, path)
        except (FileExistsError, FileNotFoundError) as error:
            # A network file system may repeat a call whose answer was lost, and find the link that it has made.
            if _number_of_links(draft) != 2:
                raise FileExistsError(f"{path} has another owner.") from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
    finally:
        draft.unlink(missing_ok=True)


def _number_of_links(path: Path) -> int:
    """Return how many names a file has; 0 where another process has removed it."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def _read_lock(path: Path) -> tuple[int, LockOwner | None]:
    """Return the latest generation of a lock (0 if it has no file), and its owner unless the lock is free."""
    generation = max(_generations(path), default=0)
    if generation == 0:
        return 0, None
    latest = _lock_file(path, generation)
    try:
        renewed_at = latest.stat().st_mtime
    except FileNotFoundError:
        # A later generation was created meanwhile.
        return _read_lock(path)
    if renewed_at == _RELEASED_MTIME:
        return generation, None
    content = read_json(latest)
    # Of a file that does not describe an owner, as where there are no hard links and its process was killed before it
    # wrote it, only the age counts.
    owner = _owner_of(content) or LockOwner("cmnet", "an unknown machine", 0, "", "just now")
    return generation, None if _is_stale(owner, path.parent, renewed_at) else owner


def _owner_of(content: dict[str, Any] | None) -> LockOwner | None:
    """Return the owner that a lock file describes, or None where it describes none."""
    try:
        owner = LockOwner(**content or {})
    except TypeError:
        return None
    texts = (owner.command, owner.host, owner.identity, owner.since)
    return owner if isinstance(owner.pid, int) and all(isinstance(text, str) for text in texts) else None


def _is_stale(owner: LockOwner, folder: Path, renewed_at: float) -> bool:
    if owner.host == platform.node() and owner.identity.startswith(_boot_identity()):
        return _process_identity(owner.pid) != owner.identity
    # A time in the future was not set by a renewal: the clock was wrong, or the file was copied.
    return abs(_file_system_time(folder) - renewed_at) > STALE_AFTER_S


def _generations(path: Path) -> list[int]:
    suffixes = [item.name.removeprefix(f"{path.name}.") for item in path.parent.glob(f"{path.name}.*")]
    return [int(suffix) for suffix in suffixes if suffix.isdigit()]


def _lock_file(path: Path, generation: int) -> Path:
    return path.with_name(f"{path.name}.{generation}")


def _file_system_time(folder: Path) -> float:
    """Return the time by the clock of the file system, which may differ from this machine's, in seconds since 1970."""
    probe = folder / f".clock-{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        # A user who may only read the folder has to use this machine's clock.
        return time.time()
    return now


def _boot_identity() -> str:
    """Identify this boot of the machine and, in a container, its process namespace; empty where that is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_identity(pid: int) -> str:
    """Identify a living process by its boot, process id and start time; empty where no process has this id."""
    try:
        # The program's name may contain blanks and brackets: the text after its last bracket begins with field 3.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _process_identity_without_proc(pid)
    return "" if state in "ZX" else f"{_boot_identity()}/{pid}/{fields[18]}"


def _process_identity_without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return f"/{pid}"
