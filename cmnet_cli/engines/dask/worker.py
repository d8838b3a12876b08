"""The code of a Dask worker: batches of cases, the time limit of a case, and the set-up of cmnet's own workers."""

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from distributed.diagnostics.plugin import WorkerPlugin

from cmnet_cli.engines.base import CaseT, Outcome, ReceiptT, Stage, run_case
from cmnet_cli.malloc import MEMORY_LIMIT_VARIABLE, reuse_freed_memory
from cmnet_core import __version__
from cmnet_core.errors import CmnetError, ErrorCode

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


@dataclass(slots=True)
class _OpenStage:
    """The stage that this worker has opened, and the function of a case: a worker serves one stage at a time."""

    stage: Any = None
    run: Callable[[Any], Any] | None = None


_open_stage = _OpenStage()


@dataclass(frozen=True, slots=True, repr=False)
class CaseBatch(Generic[CaseT, ReceiptT]):
    """The cases that a worker processes in one Dask task.

    Attributes:
        stage: The stage to run.
        cases: The cases, in their order.
        limits_s: Time limit of each case in seconds, or None.
        timeout_traceback: File to which the worker writes its traceback when a case exceeds the time limit.
    """

    stage: Stage[CaseT, ReceiptT]
    cases: tuple[CaseT, ...]
    limits_s: tuple[float | None, ...]
    timeout_traceback: Path

    def __repr__(self) -> str:
        # Dask's logs and dashboards show the arguments of a task, which must not name subjects.
        return f"<{len(self.cases)} cases>"


def run_batch(batch: CaseBatch[CaseT, ReceiptT]) -> list[Outcome[ReceiptT]] | CmnetError:
    """Run a batch of cases one after the other; an error that concerns all cases is returned, not raised."""
    try:
        if _open_stage.run is None or _open_stage.stage != batch.stage:
            _open_stage.run = None
            _open_stage.run, _open_stage.stage = batch.stage.open(), batch.stage
        run = _open_stage.run
        outcomes = [
            run_case(run if limit_s is None else _with_time_limit(run, limit_s, batch.timeout_traceback), case)
            for case, limit_s in zip(batch.cases, batch.limits_s, strict=True)
        ]
    except CmnetError as error:
        return error
    if any(outcome.failure and outcome.failure.code == ErrorCode.OUT_OF_MEMORY for outcome in outcomes):
        # The open stage may still hold the memory that ran out: the next case opens it again.
        _open_stage.run = _open_stage.stage = None
    return outcomes


def _with_time_limit(run: Callable[[CaseT], ReceiptT], limit_s: float, trace: Path) -> Callable[[CaseT], ReceiptT]:
    """Make the function of a case end its process when a case takes longer than ``limit_s``.

    The timer of ``faulthandler`` runs outside the interpreter, so it also ends a call that never returns to Python. It
    writes the traceback of that call to ``trace``.
    """

    def run_with_time_limit(case: CaseT) -> ReceiptT:
        with trace.open("w") as file:
            faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
            try:
                return run(case)
            finally:
                faulthandler.cancel_dump_traceback_later()

    return run_with_time_limit


@dataclass(frozen=True)
class WorkerSetup(WorkerPlugin):  # type: ignore[misc]
    """Set up a worker that cmnet itself has started.

    Attributes:
        gpus: Devices to assign to the workers by their number; empty leaves the workers' devices as they are.
    """

    gpus: tuple[str, ...] = ()
    name: str = "cmnet"

    def setup(self, worker: Any) -> None:
        """End with the parent process, ignore signals, keep freed memory, and use one GPU."""
        # Ctrl-C and SLURM's signals reach all processes; only the parent decides what happens then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            # A parent that is killed cannot stop its workers, and a worker in a long call would outlive it.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        reuse_freed_memory()
        limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
        if limit:
            os.environ[MEMORY_LIMIT_VARIABLE] = str(limit)
        if self.gpus:
            # CUDA reads this at its first use, which is when the stage is opened.
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[int(worker.name) % len(self.gpus)]


def installed_version() -> str:
    """Return the version of cmnet that this worker has."""
    return __version__
