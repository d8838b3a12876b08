"""Map a stage over cases: one outcome a case, whatever happens. Other engines come in here and nowhere else."""

import errno
import platform
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cmnet_cli.privacy.deidentify import redact_ids, subject_of
from cmnet_core.errors import CmnetError, EngineError, ErrorCode

LOCAL, SLURM = "local", "slurm"
FULL = (errno.ENOSPC, errno.EDQUOT)


class HasCaseId(Protocol):
    """Anything that can be told from the other cases by its id."""

    @property
    def case_id(self) -> str:
        """``sub-<id>`` or ``sub-<id>_ses-<n>``."""
        ...


CaseT = TypeVar("CaseT", bound=HasCaseId)
CaseT_contra = TypeVar("CaseT_contra", contravariant=True)
ReceiptT = TypeVar("ReceiptT")
ReceiptT_co = TypeVar("ReceiptT_co", covariant=True)


class Stage(Protocol[CaseT_contra, ReceiptT_co]):
    """What is done to each case. A stage is small and can be pickled and compared; what it opens need not be."""

    @property
    def name(self) -> str:
        """The stage's name in logs and sidecars."""
        ...

    def open(self) -> Callable[[CaseT_contra], ReceiptT_co]:
        """Load what all cases share, once a worker, and return the function of a case."""
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
    """Where cases are worked on, and what one of them may take.

    Attributes:
        where: ``local``, ``slurm``, or the address or scheduler file of a running Dask cluster.
        workers: Processes; 0 works in this one. A running cluster has as many as it has.
        memory_limit: Of a worker, as in ``4GB``; None shares this machine's memory among the workers.
        subject_timeout_s: Seconds after which a case is given up, or None.
        gpus: Visible devices to share out among local workers, one each; empty to leave them alone.
        wants_gpu: Whether a cluster's workers that have a GPU go before those that have none.
        sbatch: Options for the jobs of ``slurm``.
        folder: Where workers leave word: on a disk that they share with this machine.
    """

    where: str = LOCAL
    workers: int = 0
    memory_limit: str | None = None
    subject_timeout_s: float | None = None
    gpus: tuple[str, ...] = ()
    wants_gpu: bool = False
    sbatch: tuple[str, ...] = ()
    folder: Path = Path(tempfile.gettempdir())

    @property
    def is_here(self) -> bool:
        """Whether the cases run in this process. What watches over a case needs a process of its own to stop."""
        return self.where == LOCAL and not (self.workers or self.subject_timeout_s or self.memory_limit)


class Engine(Protocol):
    """Something that works on cases."""

    @property
    def told(self) -> str:
        """What a user wants to know of it, such as the address of its dashboard; may be empty."""
        ...

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """One outcome a case, in the order in which they finish; cases are taken only as workers become free."""
        ...

    def sees(self, path: Path) -> bool:
        """Whether a file that is here is there for every worker too."""
        ...


def attempt(run: Callable[[CaseT], ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
    """Try a case, and turn whatever it raises into an outcome.

    Raises:
        EngineError: The disk is full: every other case would fail as this one did.
    """
    started = time.monotonic()
    receipt, failure = None, None
    try:
        receipt = run(case)
    # The one place where any error is caught: it costs this case and no other.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise disk_is_full(error) from error
        failure = _failure(error, case.case_id)
    return Outcome(
        case_id=case.case_id,
        receipt=receipt,
        failure=failure,
        seconds=time.monotonic() - started,
        host=platform.node(),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def disk_is_full(error: OSError) -> EngineError:
    """What to say when there is no room to write."""
    return EngineError(
        f"The disk is full: {error}.",
        hint="Make room, or move the run folder to a larger disk; the same command goes on from here.",
        code=ErrorCode.RUN,
    )


def given_up(case_id: str, failure: Failure, *, seconds: float = 0.0) -> Outcome[ReceiptT]:
    """The outcome of a case whose worker could not tell it any more."""
    return Outcome(case_id, None, failure, seconds, platform.node(), 0.0)


def _failure(error: Exception, case_id: str) -> Failure:
    """Why a case failed, in words that name nobody: they go to screens and logs."""
    ids = (subject_of(case_id),)
    trace = redact_ids("".join(traceback.format_exception(error)), ids)
    if isinstance(error, CmnetError):
        return Failure(error.code, redact_ids(error.message, ids), error.hint, trace)
    message = redact_ids(f"{type(error).__name__}: {error}", ids)
    if _is_about_memory(error):
        return Failure(ErrorCode.OUT_OF_MEMORY, message, "Use fewer --workers, or a machine with more memory.", trace)
    hint = "This is a defect in cmnet: please report it with the traceback in the run's logs folder."
    return Failure(ErrorCode.DEFECT, message, hint, trace)


def _is_about_memory(error: Exception) -> bool:
    """Torch has errors of its own for it; here they are known by name, for not every stage loads torch."""
    named = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or named
