"""The map over cases on Dask: one subject in flight a worker, and a dead worker costs the subject that killed it.

Dask says nothing of which task killed a worker, and has no limit to a task's time. Hence the settings below: with one
thread a worker, nothing sent ahead and no second chance, a dead worker names exactly the cases that it had in hand.
"""

import ctypes
import faulthandler
import importlib.util
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from distributed.client import FutureCancelledError
from distributed.diagnostics.plugin import WorkerPlugin

from cmnet_cli.cohort import (
    LOCAL,
    SLURM,
    CaseT,
    EngineSpec,
    Outcome,
    ReceiptT,
    Stage,
    attempt,
    given_up,
)
from cmnet_core import __version__
from cmnet_core.errors import CmnetError, EngineError, ErrorCode, ManifestError

SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # A worker whose memory is full is ended at once: pausing or spilling would only drag the end out.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}

_BATCH_S = 0.5  # quick cases travel together until they make up this time: a task costs about 5 ms, whatever is in it
_BATCH_MOST = 64
_LOOK_S = 1.0
_CONNECT_S = 10.0
_MEMORY_EVENTS = "worker-restart-memory"
_LOST = "The Dask scheduler was lost on the way."
_GO_ON = "What is done stays done: run the same command again, and it goes on from here."


# --- What runs in a worker -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Opened:
    """What a worker has loaded: it serves one stage at a time."""

    stage: Any = None
    run: Callable[[Any], Any] | None = None


_opened = _Opened()


def run_batch(
    stage: Stage[CaseT, ReceiptT], cases: Sequence[CaseT], timeout_s: float | None
) -> list[Outcome[ReceiptT]]:
    """Work on some cases one after the other, in a worker."""
    if _opened.run is None or _opened.stage != stage:
        _opened.run = None
        _opened.run, _opened.stage = stage.open(), stage
    outcomes = [_watched(_opened.run, case, timeout_s) for case in cases]
    if any(outcome.failure and outcome.failure.code == ErrorCode.OUT_OF_MEMORY for outcome in outcomes):
        # What filled the memory may still be held somewhere in what was opened: the next case gets it afresh.
        _opened.run = _opened.stage = None
    return outcomes


def _watched(run: Callable[[CaseT], ReceiptT], case: CaseT, timeout_s: float | None) -> Outcome[ReceiptT]:
    """Try a case; one that outlasts its time takes the process with it, even from within a call that never returns."""
    if timeout_s is None:
        return attempt(run, case)
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)
        try:
            return attempt(run, case)
        finally:
            faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True)
class _OwnWorker(WorkerPlugin):  # type: ignore[misc]
    """How a worker that cmnet has started behaves.

    Attributes:
        gpus: Devices to share out among the workers by their number.
    """

    gpus: tuple[str, ...] = ()
    name: str = "cmnet"

    def setup(self, worker: Any) -> None:
        """Die with the parent, leave signals to it, and see one GPU."""
        # Ctrl-C and SLURM's signals reach all processes; the parent alone decides what happens then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            # A parent that was killed stops nobody, and a worker in a long call would outlive it.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if self.gpus:
            # Read when CUDA is first used, which is when the stage is opened.
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[int(worker.name) % len(self.gpus)]


def _version() -> str:
    return __version__


# --- What runs in the driver -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pace:
    """How many cases travel together, from how long the last ones took."""

    size: int = 1

    def learn(self, outcomes: Sequence[Outcome[Any]]) -> None:
        """Let the next batch last about ``_BATCH_S``, and no batch be more than twice the one before."""
        mean = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        fitting = int(_BATCH_S / max(mean, 1e-6))
        self.size = max(1, min(fitting, 2 * len(outcomes), _BATCH_MOST))


@dataclass(slots=True)
class _Batch:
    """Cases that are with a worker."""

    cases: tuple[Any, ...]
    started: float = field(default_factory=time.monotonic)


class DaskEngine:
    """Works on cases through a Dask client.

    Attributes:
        told: The address of the dashboard, where there is one.
    """

    def __init__(self, client: Client, spec: EngineSpec) -> None:
        self.told = _told(client)
        self._client = client
        self._spec = spec
        self._keys = 0
        self._counted = (-_LOOK_S, 0)

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """One outcome a case, in the order in which they finish.

        Raises:
            EngineError: The scheduler was lost.
            CmnetError: The stage cannot be opened, such as for weights that a worker does not find.
        """
        waiting, pace = iter(cases), _Pace()
        flying: dict[Future, _Batch] = {}
        doubtful: list[CaseT] = []
        try:
            while True:
                self._launch(stage, waiting, pace, flying)
                if not flying:
                    break
                for future in self._landed(flying):
                    batch = flying.pop(future)
                    outcomes = self._collect(future, batch, doubtful)
                    if outcomes:
                        pace.learn(outcomes)
                    yield from outcomes
            for case in doubtful:
                yield self._alone(stage, case)
        finally:
            self._client.cancel(list(flying))

    def sees(self, path: Path) -> bool:
        """Whether a file that is here is there on every worker too."""
        return all(self._client.run(os.path.exists, str(path)).values())

    def _launch(
        self, stage: Stage[CaseT, Any], waiting: Iterator[CaseT], pace: _Pace, flying: dict[Future, _Batch]
    ) -> None:
        """Give every free worker a batch; nothing is sent ahead, so memory does not grow with the cohort."""
        while len(flying) < self._slots() and (cases := tuple(islice(waiting, pace.size))):
            flying[self._submit(stage, cases)] = _Batch(cases)

    def _submit(self, stage: Stage[CaseT, Any], cases: tuple[CaseT, ...]) -> Future:
        # Keys are shown on dashboards and in logs: they hold numbers, never who a subject is.
        self._keys += 1
        key = f"cmnet-{stage.name}-{os.getpid()}-{id(self):x}-{self._keys}"
        return self._client.submit(run_batch, stage, cases, self._spec.subject_timeout_s, key=key, pure=False)

    def _slots(self) -> int:
        if self._spec.where == LOCAL:
            return max(1, self._spec.workers)
        counted, slots = self._counted
        if time.monotonic() - counted > _LOOK_S:
            # One subject a worker, however many threads a running cluster's workers have.
            slots = max(1, len(self._client.nthreads()))
            self._counted = (time.monotonic(), slots)
        return slots

    def _landed(self, flying: dict[Future, _Batch]) -> list[Future]:
        """Wait until something has come back, or for a moment, so that new workers are seen."""
        try:
            return list(wait(list(flying), timeout=_LOOK_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except (FutureCancelledError, OSError) as error:
            raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from error

    def _collect(self, future: Future, batch: _Batch, doubtful: list[CaseT]) -> list[Outcome[Any]]:
        """The outcomes of a batch; those of a dead worker are left to doubt, unless its case stands convicted."""
        try:
            outcomes: list[Outcome[Any]] = future.result()
        except KilledWorker as error:
            verdict = self._verdict(error, batch) if len(batch.cases) == 1 else None
            if verdict is None:
                doubtful += batch.cases
                return []
            return [verdict]
        except CmnetError:
            raise
        except (FutureCancelledError, OSError) as error:
            raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from error
        return outcomes

    def _verdict(self, error: KilledWorker, batch: _Batch) -> Outcome[Any] | None:
        """What a case did that was alone with a worker which is dead; None where nobody knows."""
        case_id = batch.cases[0].case_id
        limit_s = self._spec.subject_timeout_s
        if limit_s is not None and time.monotonic() - batch.started >= limit_s:
            return given_up(
                case_id,
                ErrorCode.TIMEOUT,
                f"The subject was not finished after {limit_s:g} s.",
                "Look at its image; --subject-timeout gives it more time.",
            )
        ended = {event["worker"] for _, event in self._client.get_events(_MEMORY_EVENTS)}
        if error.last_worker.address in ended:
            return given_up(
                case_id,
                ErrorCode.OUT_OF_MEMORY,
                "The subject needs more memory than its worker may have.",
                "Use fewer --workers, or a larger --memory-limit.",
            )
        return None

    def _alone(self, stage: Stage[CaseT, ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
        """Try a case once more while nothing else runs: now a dead worker is its own doing."""
        batch, doubtful = _Batch((case,)), list[CaseT]()
        future = self._submit(stage, batch.cases)
        wait([future])
        outcomes = self._collect(future, batch, doubtful)
        if outcomes:
            return outcomes[0]
        return given_up(
            case.case_id,
            ErrorCode.WORKER_DIED,
            "The worker process died on this subject, twice: it crashed or was killed.",
            "Try it by itself with --workers 0 and --participant-label.",
        )


def _told(client: Client) -> str:
    shown = importlib.util.find_spec("bokeh") is not None
    return f"Dask dashboard: {client.dashboard_link}" if shown else ""


@contextmanager
def open_dask(spec: EngineSpec) -> Iterator[DaskEngine]:
    """Start or reach the Dask cluster that a spec names.

    Raises:
        ManifestError: It cannot be started or reached, or its workers have another cmnet.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS | {"logging.distributed": "critical"}):
        if spec.where == LOCAL:
            with _local_cluster(spec) as cluster, _client_of(cluster, spec) as client:
                yield DaskEngine(client, spec)
        elif spec.where == SLURM:
            with _slurm_cluster(spec) as cluster, _client_of(cluster, spec) as client:
                yield DaskEngine(client, spec)
        else:
            with _connect(spec.where) as client:
                _require_same_version(client, spec.where)
                yield DaskEngine(client, spec)


def _local_cluster(spec: EngineSpec) -> LocalCluster:
    return LocalCluster(
        n_workers=max(1, spec.workers),
        threads_per_worker=1,
        memory_limit=spec.memory_limit or "auto",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )


def _slurm_cluster(spec: EngineSpec) -> Any:
    _require_sbatch()
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=spec.memory_limit or "4GB",
        job_name="cmnet",
        job_extra_directives=list(spec.sbatch),
        scheduler_options={"dashboard_address": ":0"},
        silence_logs="critical",
    )
    cluster.scale(jobs=spec.workers)
    return cluster


def _require_sbatch() -> None:
    import shutil

    if shutil.which("sbatch") is None:
        raise ManifestError(
            "There is no SLURM on this machine: the command sbatch was not found.",
            hint="Log in to a machine that submits jobs, or use --engine local.",
            code=ErrorCode.ENGINE,
        )


@contextmanager
def _client_of(cluster: Any, spec: EngineSpec) -> Iterator[Client]:
    with Client(cluster) as client:
        client.register_plugin(_OwnWorker(spec.gpus))
        yield client


def _connect(where: str) -> Client:
    """A client of a running cluster.

    Raises:
        ManifestError: There is neither such a file nor such a scheduler.
    """
    try:
        if "://" in where:
            return Client(where, timeout=_CONNECT_S)
        if Path(where).is_file():
            return Client(scheduler_file=where, timeout=_CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ManifestError(
            f"The Dask scheduler {where} cannot be reached: {error}.",
            hint="Check that it runs and that this machine may connect to it.",
            code=ErrorCode.ENGINE,
        ) from error
    raise ManifestError(
        f"There is no engine '{where}'.",
        hint="Choose local, slurm, an address such as tcp://host:8786, or a scheduler file.",
        code=ErrorCode.ENGINE,
    )


def _require_same_version(client: Client, where: str) -> None:
    try:
        found = set(client.run(_version).values())
    except ImportError as error:
        found = {f"none ({error})"}
    if found - {__version__}:
        raise ManifestError(
            f"The workers of {where} have cmnet {', '.join(sorted(found))}, this is {__version__}.",
            hint="Start them from the same environment as this command.",
            code=ErrorCode.ENGINE,
        )
