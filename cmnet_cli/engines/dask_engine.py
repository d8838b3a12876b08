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
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.diagnostics.plugin import WorkerPlugin

from cmnet_cli.engines.base import LOCAL, SLURM, CaseT, EngineSpec, Failure, Outcome, ReceiptT, Stage, attempt, given_up
from cmnet_cli.malloc import reuse_freed_memory
from cmnet_cli.slurm import sbatch as slurm
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

GPU = "GPU"
"""The resource that a Dask worker declares which has a GPU."""

_BATCH_S = 0.5  # quick cases travel together until they make up this time: a task costs about 5 ms, whatever is in it
_BATCH_MOST = 64
_LOOK_S = 1.0
_CONNECT_S = 10.0
_STARTS = 3
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


@dataclass(frozen=True, slots=True, repr=False)
class Parcel(Generic[CaseT, ReceiptT]):
    """What a worker is sent.

    Attributes:
        stage: What to do.
        cases: To whom, one after the other.
        timeout_s: Seconds that each of them may take, or None.
        late: Where the worker leaves word when one takes longer.
    """

    stage: Stage[CaseT, ReceiptT]
    cases: tuple[CaseT, ...]
    timeout_s: float | None
    late: Path

    def __repr__(self) -> str:
        # Dask's logs and dashboards show what a task was given.
        return f"<{len(self.cases)} cases>"


def run_batch(parcel: Parcel[CaseT, ReceiptT]) -> list[Outcome[ReceiptT]] | CmnetError:
    """Work on some cases one after the other, in a worker; what stops them all is returned, not raised."""
    try:
        if _opened.run is None or _opened.stage != parcel.stage:
            _opened.run = None
            _opened.run, _opened.stage = parcel.stage.open(), parcel.stage
        run = _opened.run if parcel.timeout_s is None else _watched(_opened.run, parcel.timeout_s, parcel.late)
        outcomes = [attempt(run, case) for case in parcel.cases]
    except CmnetError as error:
        return error
    if any(outcome.failure and outcome.failure.code == ErrorCode.OUT_OF_MEMORY for outcome in outcomes):
        # What filled the memory may still be held somewhere in what was opened: the next case gets it afresh.
        _opened.run = _opened.stage = None
    return outcomes


def _watched(run: Callable[[CaseT], ReceiptT], timeout_s: float, late: Path) -> Callable[[CaseT], ReceiptT]:
    """The function of a case that takes the process with it when it outlasts its time.

    The watch runs beside Python, so it ends even a call that never returns; where that was stands in ``late``.
    """

    def watched(case: CaseT) -> ReceiptT:
        with late.open("w") as file:
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
            try:
                return run(case)
            finally:
                faulthandler.cancel_dump_traceback_later()

    return watched


@dataclass(frozen=True)
class _OwnWorker(WorkerPlugin):  # type: ignore[misc]
    """How a worker that cmnet has started behaves.

    Attributes:
        gpus: Devices to share out among the workers by their number.
    """

    gpus: tuple[str, ...] = ()
    name: str = "cmnet"

    def setup(self, worker: Any) -> None:
        """Die with the parent, leave signals to it, keep its memory, and see one GPU."""
        # Ctrl-C and SLURM's signals reach all processes; the parent alone decides what happens then.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            # A parent that was killed stops nobody, and a worker in a long call would outlive it.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        reuse_freed_memory()
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


@dataclass(frozen=True, slots=True)
class _Workers:
    """How many workers there are, and whether those of them are meant that have a GPU."""

    count: int
    by_gpu: bool


class DaskEngine:
    """Works on cases through a Dask client.

    Attributes:
        told: The address of the dashboard, where there is one.
    """

    def __init__(self, client: Client, spec: EngineSpec) -> None:
        self.told = _told(client, spec)
        self._client = client
        self._spec = spec
        self._keys = 0
        self._seen = _Workers(max(1, spec.workers), by_gpu=spec.where == LOCAL and bool(spec.gpus))
        self._looked = -_LOOK_S

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """One outcome a case, in the order in which they finish.

        Raises:
            EngineError: The scheduler was lost.
            CmnetError: The stage cannot be opened, such as for weights that a worker does not find.
        """
        self._spec.folder.mkdir(parents=True, exist_ok=True)
        waiting, pace = iter(cases), _Pace()
        flying: dict[Future, Parcel[CaseT, ReceiptT]] = {}
        doubtful: list[CaseT] = []
        try:
            while True:
                self._launch(stage, waiting, pace, flying)
                if not flying:
                    break
                for future in self._landed(flying):
                    outcomes = self._collect(future, flying.pop(future), doubtful)
                    if outcomes:
                        pace.learn(outcomes)
                    yield from outcomes
            for case in doubtful:
                yield self._alone(stage, case)
        finally:
            self._client.cancel(list(flying))

    def sees(self, path: Path) -> bool:
        """Whether a file that is here is there on every worker too. Waits for the first worker that a queue lets in."""
        self._client.wait_for_workers(1)
        return all(self._client.run(os.path.exists, str(path)).values())

    def _launch(
        self, stage: Stage[CaseT, Any], waiting: Iterator[CaseT], pace: _Pace, flying: dict[Future, Parcel[CaseT, Any]]
    ) -> None:
        """Give every free worker a batch; nothing is sent ahead, so memory does not grow with the cohort."""
        while len(flying) < self._slots() and (cases := tuple(islice(waiting, pace.size))):
            future, parcel = self._submit(stage, cases)
            flying[future] = parcel

    def _submit(self, stage: Stage[CaseT, Any], cases: tuple[CaseT, ...]) -> tuple[Future, Parcel[CaseT, Any]]:
        # Keys are shown on dashboards and in logs: they hold numbers, never who a subject is.
        self._keys += 1
        key = f"cmnet-{stage.name}-{os.getpid()}-{id(self):x}-{self._keys}"
        parcel = Parcel(stage, cases, self._spec.subject_timeout_s, self._spec.folder / f".late-{key}")
        needs = {"resources": {GPU: 1}} if self._workers().by_gpu else {}
        return self._client.submit(run_batch, parcel, key=key, pure=False, **needs), parcel

    def _slots(self) -> int:
        """One subject a worker, however many threads a running cluster's workers have."""
        return max(1, self._workers().count)

    def _workers(self) -> _Workers:
        """The workers that there are now; those of a cluster come and go."""
        if self._spec.where != LOCAL and time.monotonic() - self._looked > _LOOK_S:
            try:
                self._seen = _workers_of(self._client, self._seen, wants_gpu=self._spec.wants_gpu)
            except OSError as error:
                raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from error
            self._looked = time.monotonic()
        return self._seen

    def _landed(self, flying: Iterable[Future]) -> list[Future]:
        """Wait until something has come back, or for a moment, so that new workers are seen."""
        try:
            return list(wait(list(flying), timeout=_LOOK_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except (FutureCancelledError, FuturesCancelledError, OSError) as error:
            raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from error

    def _collect(self, future: Future, parcel: Parcel[CaseT, Any], doubtful: list[CaseT]) -> list[Outcome[Any]]:
        """The outcomes of a parcel; those of a dead worker are left to doubt, unless its case stands convicted."""
        try:
            outcomes: list[Outcome[Any]] | CmnetError = future.result()
        except KilledWorker as error:
            verdict = self._verdict(error, parcel) if len(parcel.cases) == 1 else None
            if verdict is None:
                doubtful += parcel.cases
                return []
            return [verdict]
        except (FutureCancelledError, FuturesCancelledError, OSError) as error:
            raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from error
        finally:
            if parcel.timeout_s is not None:
                parcel.late.unlink(missing_ok=True)
        if isinstance(outcomes, CmnetError):
            raise outcomes
        return outcomes

    def _verdict(self, error: KilledWorker, parcel: Parcel[CaseT, Any]) -> Outcome[Any] | None:
        """What a case did that was alone with a worker which is dead; None where nobody knows."""
        case_id = parcel.cases[0].case_id
        where_it_was = parcel.late.read_text() if parcel.timeout_s is not None and parcel.late.exists() else ""
        if where_it_was:
            failure = Failure(
                ErrorCode.TIMEOUT,
                f"The subject was not finished after {parcel.timeout_s:g} s.",
                "Look at its image; --subject-timeout gives it more time.",
                where_it_was,
            )
            return given_up(case_id, failure, seconds=parcel.timeout_s or 0.0)
        ended = {event["worker"] for _, event in self._client.get_events(_MEMORY_EVENTS)}
        if error.last_worker.address in ended:
            return given_up(case_id, _TOO_LARGE)
        return None

    def _alone(self, stage: Stage[CaseT, ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
        """Try a case once more while nothing else runs: now a dead worker is its own doing."""
        future, parcel = self._submit(stage, (case,))
        while not self._landed([future]):
            continue
        outcomes = self._collect(future, parcel, [])
        return outcomes[0] if outcomes else given_up(case.case_id, _DEADLY)


_TOO_LARGE = Failure(
    ErrorCode.OUT_OF_MEMORY,
    "The subject needs more memory than its worker may have.",
    "Use fewer --workers, or a larger --memory-limit.",
    "",
)
_DEADLY = Failure(
    ErrorCode.WORKER_DIED,
    "The worker process died on this subject, twice: it crashed or was killed.",
    "Try it by itself with --workers 0 and --participant-label.",
    "",
)


def _workers_of(client: Client, before: _Workers, *, wants_gpu: bool) -> _Workers:
    """The workers of a cluster; where some have a GPU, those alone for what uses one, also while they start again."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    with_gpu = sum(bool(worker["resources"].get(GPU)) for worker in workers)
    if wants_gpu and (with_gpu or before.by_gpu):
        return _Workers(with_gpu, by_gpu=True)
    return _Workers(len(workers), by_gpu=False)


def _told(client: Client, spec: EngineSpec) -> str:
    asked = [f"Asked SLURM for {spec.workers} jobs of one worker each."] if spec.where == SLURM else []
    # Without bokeh the address leads to a page that says so.
    shown = [f"Dask dashboard: {client.dashboard_link}"] if importlib.util.find_spec("bokeh") is not None else []
    return "\n".join(asked + shown)


@contextmanager
def open_dask(spec: EngineSpec) -> Iterator[DaskEngine]:
    """Start or reach the Dask cluster that a spec names.

    Raises:
        ManifestError: It cannot be started or reached, or its workers have another cmnet.
    """
    # The client has a level of its own: it would tell of a lost scheduler in tracebacks, beside cmnet's own words.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS | {"logging.distributed": "critical"}):
        if spec.where == LOCAL:
            with _local_cluster(spec) as cluster, _client_of(cluster, spec) as client:
                yield DaskEngine(client, spec)
        elif spec.where == SLURM:
            with _slurm_cluster(spec) as cluster, _client_of(cluster, spec) as client:
                yield DaskEngine(client, spec)
        else:
            with _connect(spec.where) as client:
                _require_workers(client, spec.where)
                yield DaskEngine(client, spec)


def _local_cluster(spec: EngineSpec) -> LocalCluster:
    """Workers on this machine. Dask gives all of them up when one dies while it starts: then they are started again.

    Raises:
        EngineError: They died at every try.
    """
    for _ in range(_STARTS):
        try:
            return _start_locally(spec)
        except RuntimeError as error:
            died = error
    raise EngineError(
        f"The {max(1, spec.workers)} workers died {_STARTS} times while they started: {died}",
        hint="Check that memory is left for them, use fewer --workers, or --workers 0 to work in this process.",
        code=ErrorCode.ENGINE,
    ) from died


def _start_locally(spec: EngineSpec) -> LocalCluster:
    workers = max(1, spec.workers)
    options: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": spec.memory_limit or "auto",
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }
    if not spec.gpus:
        return LocalCluster(**options)
    options["resources"] = {GPU: 1}
    if _has_dask_cuda() and workers <= len(spec.gpus):
        from dask_cuda import LocalCUDACluster

        # It also binds each worker to the cores beside its GPU.
        return LocalCUDACluster(CUDA_VISIBLE_DEVICES=list(spec.gpus), **options)
    return LocalCluster(**options)


def _has_dask_cuda() -> bool:
    return importlib.util.find_spec("dask_cuda") is not None


def _slurm_cluster(spec: EngineSpec) -> Any:
    """Workers as jobs. SLURM is asked first: dask-jobqueue keeps to itself that it was refused."""
    slurm.require_slurm()
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=spec.memory_limit or "4GB",
        job_name="cmnet",
        job_extra_directives=[f"--output={slurm.in_log_name(spec.folder)}/%j.log", *spec.sbatch],
        scheduler_options={"dashboard_address": ":0"},
        silence_logs="critical",
    )
    try:
        slurm.check(cluster.job_script())
        _make(spec.folder)
        # A job that reaches its time limit, or whose node dies, is asked for again.
        cluster.adapt(minimum_jobs=spec.workers, maximum_jobs=spec.workers)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _make(folder: Path) -> None:
    """Make the folder that jobs print into: SLURM ends a job at once that has none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManifestError(
            f"The folder {folder} cannot be made: {error.strerror}.",
            hint="Give --out a folder that you may write to, on a disk with room.",
            code=ErrorCode.RUN,
        ) from error


@contextmanager
def _client_of(cluster: Any, spec: EngineSpec) -> Iterator[Client]:
    with Client(cluster) as client:
        # dask-cuda has told its workers already which GPU is theirs.
        told = type(cluster) is not LocalCluster
        _prepare_workers(client, _OwnWorker(() if told else spec.gpus))
        yield client


def _prepare_workers(client: Client, plugin: _OwnWorker) -> None:
    """Send the workers what they set up. Where one dies under it, Dask may not have reached the others: it tries again.

    Raises:
        EngineError: It failed at every try.
    """
    for _ in range(_STARTS):
        try:
            client.register_plugin(plugin)
        except OSError as error:
            died = error
        else:
            return
    raise EngineError(_LOST, hint=_GO_ON, code=ErrorCode.ENGINE) from died


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


def _require_workers(client: Client, where: str) -> None:
    """Make sure that a running cluster has workers, and that they have this cmnet."""
    try:
        found = set(client.run(_version).values())
    except ImportError as error:
        found = {f"none ({error})"}
    if not found:
        raise ManifestError(
            f"The Dask scheduler {where} has no workers.",
            hint="Start some with 'dask worker', and run this command again.",
            code=ErrorCode.ENGINE,
        )
    if found - {__version__}:
        raise ManifestError(
            f"The workers of {where} have cmnet {', '.join(sorted(found))}, this is {__version__}.",
            hint="Start them from the same environment as this command.",
            code=ErrorCode.ENGINE,
        )
