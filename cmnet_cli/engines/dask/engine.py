"""The map over cases on Dask: each worker processes one case at a time, and a dead worker costs one case.

Dask does not report which task killed a worker, and has no time limit for a task. Hence the settings of the cluster
(:data:`cmnet_cli.engines.dask.cluster.DASK_SETTINGS`): as each worker has one thread, holds no task in advance and no
task is retried, the tasks of a dead worker are exactly the cases that it was processing.
"""

import importlib.util
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker, wait
from distributed.client import FutureCancelledError, FuturesCancelledError

from cmnet_cli.engines.base import (
    LOCAL,
    SLURM,
    CaseT,
    EngineSpec,
    Failure,
    Outcome,
    ReceiptT,
    Stage,
    lost_case_outcome,
    timeout_failure,
)
from cmnet_cli.engines.dask.worker import CaseBatch, run_batch
from cmnet_core.errors import CmnetError, EngineError, ErrorCode

GPU_RESOURCE = "GPU"
"""The Dask resource that a worker declares if it has a GPU."""

_BATCH_S = 0.5  # quick cases are batched up to this duration, since a Dask task costs about 5 ms whatever it does
_LARGEST_BATCH = 64
_POLL_S = 1.0
_MEMORY_EVENTS = "worker-restart-memory"  # the topic under which Dask's nannies report ended workers

_TOO_LARGE = Failure(
    ErrorCode.OUT_OF_MEMORY,
    "The subject needs more memory than its worker may use.",
    "Use fewer --workers, or a larger --memory-limit.",
    "",
)
_WORKER_DIED_TWICE = Failure(
    ErrorCode.WORKER_DIED,
    "The worker process died on this subject, twice: it crashed or was killed.",
    "Run this subject alone with --workers 0 and --participant-label.",
    "",
)


def scheduler_lost_error() -> EngineError:
    """Describe a lost scheduler, and how to continue."""
    return EngineError(
        "The Dask scheduler was lost on the way.",
        hint="Finished subjects stay finished: run the same command again, and it continues with the others.",
        code=ErrorCode.ENGINE,
    )


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """The number of usable workers, and whether only workers with a GPU are counted."""

    workers: int
    gpu_only: bool


def count_workers(client: Client, before: WorkerCount, *, prefers_gpu: bool) -> WorkerCount:
    """Count the usable workers of a cluster.

    Where some workers have a GPU, a stage that uses one runs on those alone, also while they are being restarted.

    Args:
        client: A client of the cluster.
        before: The previous count.
        prefers_gpu: Whether the stage uses a GPU.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    with_gpu = sum(bool(worker["resources"].get(GPU_RESOURCE)) for worker in workers)
    if prefers_gpu and (with_gpu or before.gpu_only):
        return WorkerCount(with_gpu, gpu_only=True)
    return WorkerCount(len(workers), gpu_only=False)


class DaskEngine:
    """Runs a stage on cases through a Dask client.

    Attributes:
        description: The address of the dashboard, where there is one.
    """

    def __init__(self, client: Client, spec: EngineSpec) -> None:
        lines = []
        if spec.target == SLURM:
            lines.append(f"Requested {spec.workers} SLURM jobs of one worker each.")
        if spec.target not in (LOCAL, SLURM):
            # Without bokeh the address leads to a page without a dashboard.
            if importlib.util.find_spec("bokeh") is not None:
                lines.append(f"Dask dashboard: {client.dashboard_link}")
            if client.scheduler and client.scheduler.address.startswith("tcp://"):
                lines.append(
                    f"{client.scheduler.address} does not use TLS: every user who can connect to it can run code as "
                    "you. docs/dask.md describes how to start a cluster with certificates."
                )
        self.description = "\n".join(lines)
        self._client = client
        self._spec = spec
        self._submitted = 0
        self._worker_count = WorkerCount(max(1, spec.workers), gpu_only=spec.target == LOCAL and bool(spec.gpus))
        self._counted_at = -_POLL_S

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """Yield one outcome per case, in the order of completion.

        Raises:
            EngineError: The scheduler was lost.
            CmnetError: The stage cannot be opened, such as for weights that a worker does not find.
        """
        self._spec.worker_folder.mkdir(parents=True, exist_ok=True)
        waiting, batch_size = iter(cases), 1
        running: dict[Future, CaseBatch[CaseT, ReceiptT]] = {}
        to_retry: list[CaseT] = []
        try:
            while True:
                # Every free worker gets one batch, however many threads it has, and nothing is sent in advance, so that
                # memory does not grow with the cohort.
                while len(running) < max(1, self._workers().workers):
                    batch_cases = tuple(islice(waiting, batch_size))
                    if not batch_cases:
                        break
                    future, batch = self._submit(stage, batch_cases)
                    running[future] = batch
                if not running:
                    break
                for future in self._wait_for_any(running):
                    batch = running.pop(future)
                    outcomes = self._collect(future, batch)
                    if outcomes is None:
                        to_retry += batch.cases
                        continue
                    batch_size = _next_batch_size(outcomes)
                    yield from outcomes
            for case in to_retry:
                yield self._retry_alone(stage, case)
        finally:
            self._client.cancel(list(running))

    def all_workers_see(self, path: Path) -> bool:
        """Check whether every worker finds a file. Waits until a queue has started at least one worker."""
        self._client.wait_for_workers(1)
        return all(self._client.run(os.path.exists, str(path)).values())

    def _submit(self, stage: Stage[CaseT, Any], cases: tuple[CaseT, ...]) -> tuple[Future, CaseBatch[CaseT, Any]]:
        # Dashboards and logs show the keys, so they hold numbers and no subject ids.
        self._submitted += 1
        key = f"cmnet-{stage.name}-{os.getpid()}-{id(self):x}-{self._submitted}"
        limits_s = tuple(map(self._spec.time_limit_s, cases))
        batch = CaseBatch(stage, cases, limits_s, self._spec.worker_folder / f".timeout-{key}")
        resources = {"resources": {GPU_RESOURCE: 1}} if self._workers().gpu_only else {}
        return self._client.submit(run_batch, batch, key=key, pure=False, **resources), batch

    def _workers(self) -> WorkerCount:
        """Return the present number of workers; those of a cluster come and go."""
        if self._spec.target != LOCAL and time.monotonic() - self._counted_at > _POLL_S:
            try:
                self._worker_count = count_workers(self._client, self._worker_count, prefers_gpu=self._spec.prefers_gpu)
            except OSError as error:
                raise scheduler_lost_error() from error
            self._counted_at = time.monotonic()
        return self._worker_count

    def _wait_for_any(self, running: Iterable[Future]) -> list[Future]:
        """Wait until a task has ended, but at most ``_POLL_S``, so that new workers are noticed."""
        try:
            return list(wait(list(running), timeout=_POLL_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except (FutureCancelledError, FuturesCancelledError, OSError) as error:
            raise scheduler_lost_error() from error

    def _collect(self, future: Future, batch: CaseBatch[CaseT, Any]) -> list[Outcome[Any]] | None:
        """Return the outcomes of a batch, or None where its worker died and the cause is unknown."""
        try:
            outcomes: list[Outcome[Any]] | CmnetError = future.result()
        except KilledWorker as error:
            cause = self._cause_of_death(error, batch) if len(batch.cases) == 1 else None
            return None if cause is None else [cause]
        except (FutureCancelledError, FuturesCancelledError, OSError) as error:
            raise scheduler_lost_error() from error
        finally:
            if any(batch.limits_s):
                batch.timeout_traceback.unlink(missing_ok=True)
        if isinstance(outcomes, CmnetError):
            raise outcomes
        return outcomes

    def _cause_of_death(self, error: KilledWorker, batch: CaseBatch[CaseT, Any]) -> Outcome[Any] | None:
        """Return the outcome of the only case of a dead worker: a timeout, or too little memory; None if unknown."""
        case_id, limit_s = batch.cases[0].case_id, batch.limits_s[0]
        if limit_s is not None and batch.timeout_traceback.exists():
            trace = batch.timeout_traceback.read_text()
            if trace:
                return lost_case_outcome(case_id, timeout_failure(limit_s, trace), seconds=limit_s)
        out_of_memory = {event["worker"] for _, event in self._client.get_events(_MEMORY_EVENTS)}
        if error.last_worker.address in out_of_memory:
            return lost_case_outcome(case_id, _TOO_LARGE)
        return None

    def _retry_alone(self, stage: Stage[CaseT, ReceiptT], case: CaseT) -> Outcome[ReceiptT]:
        """Run a case once more while nothing else runs: if the worker dies again, this case is the cause."""
        future, batch = self._submit(stage, (case,))
        while not self._wait_for_any([future]):
            continue
        outcomes = self._collect(future, batch)
        return outcomes[0] if outcomes else lost_case_outcome(case.case_id, _WORKER_DIED_TWICE)


def _next_batch_size(outcomes: Sequence[Outcome[Any]]) -> int:
    """Return how many cases take about ``_BATCH_S``, but at most twice as many as in the last batch."""
    mean_s = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
    return max(1, min(int(_BATCH_S / max(mean_s, 1e-6)), 2 * len(outcomes), _LARGEST_BATCH))
