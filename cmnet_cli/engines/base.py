"""The contract between stages and engines: what a stage is, what an engine does, and what becomes of a case."""

import errno
import os
import platform
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cmnet_cli.privacy.deidentify import ids_in, redact_ids
from cmnet_core.errors import CmnetError, EngineError, ErrorCode, ManifestError

LOCAL, SLURM = "local", "slurm"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_ERRNOS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EROFS)

_TIME_LIMIT_S = 3600.0
_TIME_LIMIT_S_PER_MB = 60.0
_MOST_ENTRIES = 20_000


class HasCaseId(Protocol):
    """Anything that an engine can map a stage over: it is identified by its case id."""

    @property
    def case_id(self) -> str:
        """``sub-<id>`` or ``sub-<id>_ses-<n>``."""
        ...


CaseT = TypeVar("CaseT", bound=HasCaseId)
CaseT_contra = TypeVar("CaseT_contra", contravariant=True)
ReceiptT = TypeVar("ReceiptT")
ReceiptT_co = TypeVar("ReceiptT_co", covariant=True)


class Stage(Protocol[CaseT_contra, ReceiptT_co]):
    """What is done to each case. A stage is small, can be pickled and compared; what it opens need not be."""

    @property
    def name(self) -> str:
        """The stage's name in logs and sidecars."""
        ...

    def open(self) -> Callable[[CaseT_contra], ReceiptT_co]:
        """Load what all cases have in common, once per worker, and return the function of a case."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a case failed."""

    code: ErrorCode
    message: str
    hint: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ReceiptT]):
    """What became of one case: a receipt or a failure, never both."""

    case_id: str
    receipt: ReceiptT | None
    failure: Failure | None
    seconds: float
    host: str
    peak_memory_mb: float


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Where cases are processed, and which resources one of them may use.

    Attributes:
        target: ``local``, ``slurm``, or the address or scheduler file of a running Dask cluster.
        workers: Number of worker processes; 0 runs the cases in this process. Ignored for a running cluster.
        memory_limit: Memory limit of a worker, as in ``4GB``; None divides this machine's memory among the workers.
        subject_timeout_s: Time limit of a case in seconds; 0 for none; None for one that grows with its image.
        gpus: Visible devices to assign to local workers, one each; empty leaves the workers' devices as they are.
        prefers_gpu: Whether only the workers with a GPU are used where a cluster has some with and some without.
        sbatch: sbatch options for the jobs of ``slurm``.
        worker_folder: Folder for the workers' logs and timeout tracebacks, on a disk that all workers can write to.
    """

    target: str = LOCAL
    workers: int = 0
    memory_limit: str | None = None
    subject_timeout_s: float | None = None
    gpus: tuple[str, ...] = ()
    prefers_gpu: bool = False
    sbatch: tuple[str, ...] = ()
    worker_folder: Path = Path(tempfile.gettempdir())

    @property
    def is_in_process(self) -> bool:
        """Whether the cases run in this process. A time or memory limit needs a process that can be ended."""
        return self.target == LOCAL and not (self.workers or self.subject_timeout_s or self.memory_limit)

    def time_limit_s(self, case: HasCaseId) -> float | None:
        """Return the time limit of a case in seconds, or None.

        By default it is so generous that only a case that never ends reaches it: an hour, and a minute for every
        megabyte of its image.
        """
        if self.subject_timeout_s is not None:
            return self.subject_timeout_s or None
        size = sum(_size_of(path) for path in getattr(case, "image", ()))
        return _TIME_LIMIT_S + _TIME_LIMIT_S_PER_MB * size / 1e6


def size_of_file(path: Path) -> int:
    """Return the size of a file in bytes; 0 for a folder, and where it cannot be read."""
    try:
        return 0 if path.is_dir() else path.stat().st_size
    except (OSError, ValueError):  # the latter for a name that no file can have
        return 0


def _size_of(path: Path) -> int:
    """Return the size of a file, or of the files in a folder, in bytes; 0 where it cannot be read."""
    try:
        if not path.is_dir():
            return size_of_file(path)
        with os.scandir(path) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in islice(entries, _MOST_ENTRIES))
    except (OSError, ValueError):
        return 0


class Engine(Protocol):
    """Runs a stage on cases."""

    @property
    def description(self) -> str:
        """What the user should know about it, such as the address of its dashboard; may be empty."""
        ...

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """Yield one outcome per case, in the order of completion; cases are taken only as workers become free."""
        ...

    def all_workers_see(self, path: Path) -> bool:
        """Check whether every worker finds an existing file of this machine under the same path."""
        ...


def run_case(run: Callable[[CaseT], ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
    """Run the function of a stage on a case, and turn any exception into an outcome.

    Raises:
        EngineError: The disk is full, so that every other case would fail too.
    """
    started = time.monotonic()
    receipt, failure = None, None
    try:
        receipt = run(case)
    # The only place where every exception is caught: it costs this case and no other.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
            raise _disk_full_error(error) from error
        failure = _failure_of(error, case.case_id)
    return Outcome(
        case_id=case.case_id,
        receipt=receipt,
        failure=failure,
        seconds=time.monotonic() - started,
        host=platform.node(),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def disk_error(error: OSError) -> CmnetError | None:
    """Describe an error of a disk or of its permissions, and how to continue; None for any other error."""
    if error.errno in DISK_FULL_ERRNOS:
        return _disk_full_error(error)
    if error.errno in _DISK_ERRNOS:
        return EngineError(
            f"The disk reported an error: {error}.",
            hint="Check the disk or the network share, and run the same command again: it continues.",
            code=ErrorCode.RUN,
        )
    if isinstance(error, PermissionError):
        return ManifestError(
            f"A file may not be read or written by this user: {error}.",
            hint="Work as the user who began the run, or in a run folder of your own; --group-readable lets your group "
            "read a run, but not change it.",
            code=ErrorCode.RUN,
        )
    return None


def _disk_full_error(error: OSError) -> EngineError:
    return EngineError(
        f"The disk is full: {error}.",
        hint="Make room, or move the run folder to a larger disk, and run the same command again: it continues.",
        code=ErrorCode.RUN,
    )


def timeout_failure(limit_s: float, trace: str) -> Failure:
    """Describe a case that exceeded its time limit."""
    return Failure(
        ErrorCode.TIMEOUT,
        f"The subject was not finished after {limit_s:g} s.",
        "Check its image; --subject-timeout gives it more time.",
        trace,
    )


def lost_case_outcome(case_id: str, failure: Failure, *, seconds: float = 0.0) -> Outcome[ReceiptT]:
    """Return the outcome of a case whose worker ended before it could report one."""
    return Outcome(case_id, None, failure, seconds, platform.node(), 0.0)


def _failure_of(error: Exception, case_id: str) -> Failure:
    """Describe an exception without the subject's id, since failures are printed and logged."""
    ids = ids_in(case_id)
    trace = redact_ids("".join(traceback.format_exception(error)), ids)
    if isinstance(error, CmnetError):
        return Failure(error.code, redact_ids(error.message, ids), error.hint, trace)
    message = redact_ids(f"{type(error).__name__}: {error}", ids)
    if isinstance(error, OSError) and (described := disk_error(error)) is not None:
        return Failure(described.code, redact_ids(described.message, ids), described.hint, trace)
    # Torch's own memory errors are recognised by name and text, since not every stage loads torch.
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or of_torch:
        return Failure(ErrorCode.OUT_OF_MEMORY, message, "Use fewer --workers, or a machine with more memory.", trace)
    hint = "This is a defect in cmnet: please report it with the traceback in the run's logs folder."
    return Failure(ErrorCode.DEFECT, message, hint, trace)
