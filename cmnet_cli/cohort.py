"""Map a stage over cases: one outcome a case, whatever happens. Other engines come in here and nowhere else."""

import multiprocessing
import os
import platform
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from cmnet_core.errors import CmnetError, ErrorCode


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
    """What is done to each case. A stage is small and can be pickled; what it opens need not be."""

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


def map_cases(stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT], *, workers: int) -> Iterator[Outcome[ReceiptT]]:
    """Run a stage on every case.

    Args:
        stage: What to do; loaded once a worker.
        cases: The cases, taken from the iterable only as workers become free.
        workers: Processes to start; 0 works in this process.

    Yields:
        One outcome a case, in the order in which they finish.
    """
    if workers == 0:
        yield from _map_here(stage, cases)
    else:
        yield from _map_in_processes(stage, cases, workers)


def _map_here(stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
    run = stage.open()
    for case in cases:
        yield _attempt(run, case)


def _attempt(run: Callable[[CaseT], ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
    started = time.monotonic()
    receipt, failure = None, None
    try:
        receipt = run(case)
    # The one place where any error is caught: it costs this case and no other.
    except Exception as error:  # noqa: BLE001
        failure = _failure(error)
    return Outcome(
        case_id=case.case_id,
        receipt=receipt,
        failure=failure,
        seconds=time.monotonic() - started,
        host=platform.node(),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _failure(error: Exception) -> Failure:
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, CmnetError):
        return Failure(error.code, error.message, error.hint, trace)
    message = f"{type(error).__name__}: {error}"
    hint = "This is a defect in cmnet: please report it with the traceback in the run's logs folder."
    return Failure(ErrorCode.DEFECT, message, hint, trace)


# A worker process serves one stage; what the stage opened lives here, out of reach of every other process.
_worker: dict[str, Callable[[Any], Any]] = {}


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _attempt_in_worker(stage: Stage[CaseT, ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
    if stage.name not in _worker:
        _worker[stage.name] = stage.open()
    return _attempt(_worker[stage.name], case)


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes that share the cores between them and die with this one."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = before or threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        # Files appear under their final names only when whole, so a worker may be stopped at any moment.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


def _map_in_processes(
    stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT], workers: int
) -> Iterator[Outcome[ReceiptT]]:
    waiting = iter(cases)
    while True:
        in_flight: dict[str, CaseT] = {}
        try:
            with _processes(workers) as pool:
                yield from _feed(pool, stage, waiting, in_flight, workers)
            return
        except BrokenProcessPool:
            # A dead worker takes the whole pool with it: each case that was in flight is tried once more, alone.
            for case in in_flight.values():
                yield _attempt_alone(stage, case)


def _feed(
    pool: ProcessPoolExecutor,
    stage: Stage[CaseT, ReceiptT],
    waiting: Iterator[CaseT],
    in_flight: dict[str, CaseT],
    workers: int,
) -> Iterator[Outcome[ReceiptT]]:
    """Keep one case in hand and one in reserve a worker, so that memory does not grow with the cohort."""
    futures: set[Future[Outcome[ReceiptT]]] = set()
    while True:
        for case in islice(waiting, 2 * workers - len(futures)):
            in_flight[case.case_id] = case
            futures.add(pool.submit(_attempt_in_worker, stage, case))
        if not futures:
            return
        done, futures = wait(futures, return_when=FIRST_COMPLETED)
        for future in done:
            outcome = future.result()
            del in_flight[outcome.case_id]
            yield outcome


def _attempt_alone(stage: Stage[CaseT, ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
    try:
        with _processes(1) as pool:
            return pool.submit(_attempt_in_worker, stage, case).result()
    except BrokenProcessPool:
        failure = Failure(
            ErrorCode.WORKER_DIED,
            "The worker process died on this subject, twice: it crashed or ran out of memory.",
            "Try it by itself with --workers 0 and --participant-label; fewer --workers need less memory.",
            "",
        )
        return Outcome(case.case_id, None, failure, 0.0, platform.node(), 0.0)
