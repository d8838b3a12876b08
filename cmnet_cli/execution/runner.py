"""Running a stage over the planned cases on an engine, and recording every attempt."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages, Ticker, progress
from cmnet_cli.engines.base import Engine, EngineSpec, Failure, Outcome, Stage, size_of_file
from cmnet_cli.engines.devices import CPU, gpus_for_workers
from cmnet_cli.engines.select import open_engine
from cmnet_cli.execution.attempt_log import AttemptLog, attempt_of, read_attempts, status_rows
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.run_folder import OpenRun, let_group_read, locked_run
from cmnet_cli.runs.run_lock import RunLock
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.seals import sealed_text
from cmnet_cli.tables.schema import write_data_dictionary, write_table
from cmnet_core.errors import EngineError, ErrorCode
from cmnet_core.io.atomic import write_text
from cmnet_core.io.image_count import count_images

ReceiptT = TypeVar("ReceiptT")

_MOST_COUNTED = 5_000
"""Counting images takes milliseconds per case; of more cases, the sizes of the files tell the remaining time."""


@dataclass(frozen=True, slots=True)
class FailedCase:
    """A case that failed. Messages name it by its row of the manifest, since logs must not name subjects."""

    case_id: str
    row: int
    error_code: str
    message: str
    hint: str

    @classmethod
    def of(cls, case_id: str, row: int, failure: Failure) -> "FailedCase":
        """Combine a case and its failure."""
        return cls(case_id, row, str(failure.code), failure.message, failure.hint)


@dataclass(slots=True)
class StageResult:
    """What became of the cases of a plan: the ids of the finished ones, and the failed ones with their reasons."""

    done: list[str] = field(default_factory=list)
    failed: list[FailedCase] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """What a stage needs in order to run on a locked run folder.

    Attributes:
        engine: The engine that runs the cases.
        lock: The lock of the run folder, or of a shard.
        attempt_log: File of the attempts, for programs.
        text_log: The same in plain lines for users, or None.
        messages: The console.
        is_task: Whether this is one of many array tasks; then the merge writes the status table.
        stop: When it is set, no further case is begun; running cases are finished.
    """

    engine: Engine
    lock: RunLock
    attempt_log: Path
    text_log: Path | None
    messages: Messages
    is_task: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def open_execution(
    folder: RunFolder, command: str, settings: ExecutionSettings, messages: Messages, *, device: str = CPU
) -> Iterator[ExecutionContext]:
    """Start the engine and lock the run folder for a command.

    Args:
        folder: The run folder.
        command: Name of the command.
        settings: The engine and its limits.
        messages: The console.
        device: The device that the networks run on, if the command uses networks.

    Raises:
        ManifestError: The engine cannot be started, the folder cannot be written, or another command works on it.
    """
    spec = EngineSpec(
        target=settings.engine,
        workers=settings.workers,
        memory_limit=settings.memory_limit,
        subject_timeout_s=settings.subject_timeout,
        gpus=gpus_for_workers(device),
        prefers_gpu=device != CPU,
        sbatch=settings.sbatch,
        worker_folder=folder.worker_logs,
    )
    with open_engine(spec) as engine:
        if engine.description:
            messages.note(engine.description)
        with locked_run(folder, command) as lock:
            yield ExecutionContext(engine, lock, folder.outcomes, folder.log(command), messages)
            if settings.group_readable:
                let_group_read(folder)


def run_stage(
    stage: Stage[Case, ReceiptT],
    plan: CasePlan,
    opened: OpenRun,
    context: ExecutionContext,
    *,
    on_receipt: Callable[[ReceiptT], None] | None = None,
) -> StageResult:
    """Run a stage on the planned cases; the status table is written at the end, also after an interruption.

    Args:
        stage: The stage.
        plan: The cases to run.
        opened: The run.
        context: Engine, lock and logs.
        on_receipt: Called with the receipt of each finished case.

    Raises:
        EngineError: A worker does not see the run folder, the engine was lost, or another process has the lock.
    """
    folder = opened.folder
    if not context.engine.all_workers_see(folder.cohort.absolute()):
        raise EngineError(
            f"Not every worker sees the run folder {folder.root}.",
            hint="Put it on a disk that this machine and all workers can read and write under the same path.",
            code=ErrorCode.ENGINE,
        )
    result, rows = StageResult(), {case.case_id: case.row for case in plan.to_run}
    size_of = count_images if len(plan.to_run) <= _MOST_COUNTED else size_of_file
    sizes = {case.case_id: sum(map(size_of, case.image)) for case in plan.to_run}
    deidentifier = open_deidentifier(folder.share_key, share_safe=False)
    attempt_log = AttemptLog(context.attempt_log, context.text_log, deidentifier)
    try:
        _log_proven_cases(stage.name, plan, folder, attempt_log)
        with progress(context.messages, stage.name, total=len(plan.to_run), sizes=list(sizes.values())) as ticker:
            for outcome in context.engine.map(stage, _until_stopped(plan.to_run, context, ticker)):
                # Stored before the attempt is logged, so that what the log lists as done can be found.
                if on_receipt is not None and outcome.receipt is not None:
                    on_receipt(outcome.receipt)
                _log_attempt(stage.name, outcome, folder, attempt_log, context.messages)
                if outcome.failure is None:
                    result.done.append(outcome.case_id)
                else:
                    result.failed.append(FailedCase.of(outcome.case_id, rows[outcome.case_id], outcome.failure))
                failed, size = outcome.failure is not None, sizes[outcome.case_id]
                ticker.tick(failed=failed, size=size, seconds=outcome.seconds)
    finally:
        attempt_log.close()
        if not context.is_task:
            write_status(opened, plan.states | dict.fromkeys(result.done, (State.DONE, "")))
    return result


def _until_stopped(cases: Iterable[Case], context: ExecutionContext, ticker: Ticker) -> Iterator[Case]:
    for case in cases:
        context.lock.require_owned()
        if context.stop.is_set():
            return
        ticker.begin()
        yield case


def _log_proven_cases(stage: str, plan: CasePlan, folder: RunFolder, attempt_log: AttemptLog) -> None:
    """Log the cases as done whose sidecar proves that the stage has finished, although its last attempt failed.

    An error of the disk after the sidecar was written has that effect.
    """
    last = {attempt.pseudonym: attempt for attempt in read_attempts(folder.all_outcomes) if attempt.stage == stage}
    to_run = {case.case_id for case in plan.to_run}
    for case_id, (state, _) in plan.states.items():
        attempt = last.get(attempt_log.deidentifier.pseudonym(case_id))
        if state == State.DONE and case_id not in to_run and attempt and attempt.state == State.FAILED:
            proven = replace(attempt, state=state, error_code=None, message=None, hint=None, at=utc_now("milliseconds"))
            attempt_log.append(proven)
            folder.traceback(attempt.pseudonym, stage).unlink(missing_ok=True)


def _log_attempt(
    stage: str, outcome: Outcome[Any], folder: RunFolder, attempt_log: AttemptLog, messages: Messages
) -> None:
    """Log an outcome and, if it failed, store its traceback, under the case's pseudonym."""
    attempt = attempt_of(stage, outcome, attempt_log.deidentifier)
    traceback = folder.traceback(attempt.pseudonym, stage)
    if outcome.failure is None:
        traceback.unlink(missing_ok=True)
    else:
        write_text(traceback, sealed_text(outcome.failure.traceback or outcome.failure.message))
        messages.detail(outcome.failure.traceback)
    attempt_log.append(attempt)
    messages.detail(f"{attempt.pseudonym}: {attempt.summary}")


def write_status(opened: OpenRun, states: Mapping[str, tuple[State, str]]) -> list[dict[str, Any]]:
    """Write the status table of the whole cohort, and the data dictionary beside it; return the rows."""
    rows = status_rows(opened.cases, opened.folder, states)
    write_table(opened.folder.table("status"), "status", rows)
    write_data_dictionary(opened.folder.data_dictionary)
    return rows
