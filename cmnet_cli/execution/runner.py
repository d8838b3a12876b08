"""Going over a cohort: which cases are left to do, doing them, and telling how it went."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.base import Engine, EngineSpec, Outcome, Stage
from cmnet_cli.engines.devices import CPU, gpus_to_share
from cmnet_cli.engines.select import open_engine
from cmnet_cli.execution.attempt_log import AttemptLog, attempt_of, status_rows
from cmnet_cli.options import EngineOptions, ExecutionOptions, SelectionOptions
from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import Expected, OnStale, State, stage_state
from cmnet_cli.runs.run_folder import OpenRun, locked_run
from cmnet_cli.runs.run_lock import RunLock
from cmnet_cli.tables.schema import write_data_dictionary, write_table
from cmnet_core.errors import EngineError, ErrorCode, ManifestError
from cmnet_core.io.atomic import write_bytes

ReceiptT = TypeVar("ReceiptT")
ReceiptT_co = TypeVar("ReceiptT_co", covariant=True)

# On the screen a list of failures ends here; the status table has them all.
_SHOWN = 20


class StoredStage(Stage[Case, ReceiptT_co], Protocol[ReceiptT_co]):
    """A stage that leaves files behind, with a sidecar that proves it."""

    def expected(self, case: Case) -> Expected:
        """What the sidecar of a case must agree with today."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What every command over a cohort is told.

    Attributes:
        who: Which subjects.
        how: How to go over them.
        messages: Where to print.
        engine: What to run on.
    """

    who: SelectionOptions
    how: ExecutionOptions
    messages: Messages
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        todo: Cases to work on.
        judged: State and reason of every selected case, by id.
    """

    todo: tuple[Case, ...]
    judged: dict[str, tuple[State, str]]

    def count(self, state: State) -> int:
        """How many of the selected cases are in a state."""
        return sum(judged == state for judged, _ in self.judged.values())


@dataclass(frozen=True, slots=True)
class Failed:
    """One case that failed. On a screen it goes by its row: errors end up in logs, and logs name nobody."""

    case_id: str
    row: int
    error_code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Summary:
    """How a command went.

    Attributes:
        command: Its name.
        run: The run folder.
        done: Cases done by this command.
        already_done: Cases that had been done before.
        skipped: Stale cases left as they are.
        failed: Cases that failed.
        left_out: Cases that an earlier stage has not finished.
        planned: Cases that a dry run would work on.
    """

    command: str
    run: str
    done: int
    already_done: int
    skipped: int
    failed: tuple[Failed, ...]
    left_out: int = 0
    planned: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 4 where some subjects failed or were left out."""
        return 4 if self.failed or self.left_out else 0


def select_cases(cases: Sequence[Case], who: SelectionOptions) -> tuple[Case, ...]:
    """The cases that the options ask for, in the order of the manifest.

    Raises:
        ManifestError: A participant is not in the manifest.
    """
    wanted = {label.removeprefix("sub-") for label in who.participant_label or ()}
    unknown = wanted - {case.subject_id for case in cases}
    if unknown:
        raise ManifestError(
            f"The manifest has no subject {', '.join(sorted(unknown))}.",
            hint="Give a subject_id of the manifest to --participant-label, with or without 'sub-'.",
            code=ErrorCode.MANIFEST_ROW,
        )
    chosen = tuple(case for case in cases if not wanted or case.subject_id in wanted)
    return chosen[: who.pilot] if who.pilot else chosen


def make_plan(stage: StoredStage[Any], cases: Iterable[Case], run: RunFolder, how: ExecutionOptions) -> Plan:
    """Ask every sidecar whether its case is done, and decide what to do.

    Raises:
        ManifestError: A case is stale and ``--on-stale error`` was given.
    """
    judged, todo = {}, []
    for case in cases:
        state, reason = stage_state(run.case(case.case_id).sidecar(stage.name), stage.expected(case))
        judged[case.case_id] = (state, reason)
        if how.force or state == State.PENDING or (state == State.STALE and how.on_stale != OnStale.SKIP):
            todo.append(case)
    stale = sum(state == State.STALE for state, _ in judged.values())
    if stale and how.on_stale == OnStale.ERROR and not how.force:
        reasons = sorted({reason for state, reason in judged.values() if state == State.STALE})
        raise ManifestError(
            f"{stale} subject(s) in {run.root} are stale: {'; '.join(reasons)}.",
            hint="Use --on-stale rerun to do them again, --on-stale skip to keep them, or another --out.",
            code=ErrorCode.RUN,
        )
    return Plan(tuple(todo), judged)


def plan_after(stage: str, opened: OpenRun, cases: Sequence[Case]) -> Plan:
    """A plan for what is quick enough to compute again: everyone whom an earlier stage has finished with."""
    finished = [case for case in cases if opened.folder.case(case.case_id).sidecar(stage).exists()]
    waiting = {case.case_id: (State.PENDING, f"{stage} has not finished") for case in cases}
    return Plan(tuple(finished), waiting | {case.case_id: (State.PENDING, "") for case in finished})


def tell_plan(plan: Plan, messages: Messages, *, dry_run: bool) -> None:
    """Say how much there is to do; in a dry run, name every case with its reason."""
    done, stale = plan.count(State.DONE), plan.count(State.STALE)
    messages.note(f"{len(plan.judged)} subjects: {len(plan.todo)} to do, {done} done before, {stale} stale")
    if dry_run:
        for case in plan.todo:
            state, reason = plan.judged[case.case_id]
            messages.result(f"{case.case_id}: {state}" + (f" ({reason})" if reason else ""))


@dataclass(slots=True)
class Tally:
    """What became of the cases: ids, and of those that failed the reason. What a case computed is not kept here."""

    done: list[str] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Site:
    """Where cases are worked on.

    Attributes:
        engine: What runs them.
        lock: The right to do so.
        attempt_log: Where attempts are written down.
        log: Where people read of them, if not on the screen alone.
        messages: Where to print.
        is_task: Whether this is one of many tasks: the merge writes the status table.
        stop: Set to take no further case; those in hand are finished.
    """

    engine: Engine
    lock: RunLock
    attempt_log: Path
    log: Path | None
    messages: Messages
    is_task: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def at_work(folder: RunFolder, command: str, job: Job, *, device: str = CPU) -> Iterator[Site]:
    """Bring the engine up and take the run folder for this command alone.

    Args:
        folder: The run folder.
        command: The command.
        job: What it was told.
        device: Where networks run, if the command has any.

    Raises:
        ManifestError: The engine cannot be had, the folder cannot be written, or another command works on it.
    """
    with open_engine(_engine_spec(job, folder, device)) as engine:
        if engine.told:
            job.messages.note(engine.told)
        with locked_run(folder, command) as lock:
            yield Site(engine, lock, folder.outcomes, folder.log(command), job.messages)


def _engine_spec(job: Job, folder: RunFolder, device: str) -> EngineSpec:
    asked = job.engine
    return EngineSpec(
        where=asked.engine,
        workers=job.how.workers,
        memory_limit=asked.memory_limit,
        subject_timeout_s=asked.subject_timeout,
        gpus=gpus_to_share(device),
        wants_gpu=device != CPU,
        sbatch=tuple(asked.sbatch or ()),
        folder=folder.worker_logs,
    )


def go(
    stage: Stage[Case, ReceiptT],
    plan: Plan,
    opened: OpenRun,
    site: Site,
    *,
    keep: Callable[[ReceiptT], None] | None = None,
) -> Tally:
    """Do what is planned; the status table is written at the end, also when interrupted.

    Args:
        stage: What to do.
        plan: To whom.
        opened: The run.
        site: Where.
        keep: Takes each receipt as it comes.

    Raises:
        EngineError: The workers do not see the run folder, or what they run on was lost.
    """
    _require_shared(opened.folder, site)
    tally, rows = Tally(), {case.case_id: case.row for case in plan.todo}
    attempt_log = AttemptLog(site.attempt_log, site.log, open_deidentifier(opened.folder.share_key, share_safe=False))
    try:
        with progress(site.messages, stage.name, total=len(plan.todo)) as ticker:
            for outcome in site.engine.map(stage, _while_wanted(plan.todo, site)):
                # Kept before it is told: what the ledger says can be found.
                if keep is not None and outcome.receipt is not None:
                    keep(outcome.receipt)
                _note(stage.name, outcome, opened.folder, attempt_log, site.messages)
                _count(outcome, tally, rows)
                ticker.tick(failed=outcome.failure is not None)
    finally:
        attempt_log.close()
        if not site.is_task:
            write_status(opened, plan.judged | dict.fromkeys(tally.done, (State.DONE, "")))
    return tally


def _while_wanted(cases: Iterable[Case], site: Site) -> Iterator[Case]:
    for case in cases:
        site.lock.require()
        if site.stop.is_set():
            return
        yield case


def _require_shared(folder: RunFolder, site: Site) -> None:
    if not site.engine.sees(folder.cohort.absolute()):
        raise EngineError(
            f"Not every worker sees the run folder {folder.root}.",
            hint="Put it on a disk that this machine and all workers share, under the same path.",
            code=ErrorCode.ENGINE,
        )


def _count(outcome: Outcome[Any], tally: Tally, rows: Mapping[str, int]) -> None:
    failure, who = outcome.failure, outcome.case_id
    if failure is None:
        tally.done.append(who)
    else:
        tally.failed.append(Failed(who, rows[who], str(failure.code), failure.message, failure.hint))


def _note(stage: str, outcome: Outcome[Any], folder: RunFolder, attempt_log: AttemptLog, messages: Messages) -> None:
    """Write an outcome down: to the ledger, the log and, if it failed, its traceback. None of them says who it is."""
    attempt = attempt_of(stage, outcome, attempt_log.deidentifier)
    traceback = folder.traceback(attempt.name, stage)
    if outcome.failure is None:
        traceback.unlink(missing_ok=True)
    else:
        write_bytes(traceback, (outcome.failure.traceback or outcome.failure.message).encode())
        messages.detail(outcome.failure.traceback)
    attempt_log.append(attempt)
    messages.detail(f"{attempt.name}: {attempt.told}")


def write_status(opened: OpenRun, judged: Mapping[str, tuple[State, str]]) -> list[dict[str, Any]]:
    """Write the status table of the whole cohort, and the data dictionary beside it; the rows."""
    rows = status_rows(opened.cases, opened.folder, judged)
    write_table(opened.folder.table("status"), "status", rows)
    write_data_dictionary(opened.folder.data_dictionary)
    return rows


def summarise(stage: str, opened: OpenRun, plan: Plan, tally: Tally) -> Summary:
    """Count what became of the selected cases."""
    todo = {case.case_id for case in plan.todo}
    left = [state for case_id, (state, _) in plan.judged.items() if case_id not in todo]
    return Summary(
        command=stage,
        run=str(opened.folder.root),
        done=len(tally.done),
        already_done=left.count(State.DONE),
        skipped=left.count(State.STALE),
        failed=tuple(tally.failed),
    )


def summarise_dry_run(stage: str, folder: RunFolder, plan: Plan) -> Summary:
    """What would be done."""
    return Summary(stage, str(folder.root), 0, plan.count(State.DONE), 0, (), planned=len(plan.todo))


def tell_summary(summary: Summary, messages: Messages) -> None:
    """Say how it went: the count, and each failure with what to do about it."""
    before = f", {summary.already_done} done before" if summary.already_done else ""
    skipped = f", {summary.skipped} stale and left as they are" if summary.skipped else ""
    messages.note(
        f"{summary.command}: {summary.done} done{before}{skipped}, {len(summary.failed)} failed, in {summary.run}"
    )
    if summary.left_out:
        messages.failure(
            f"{summary.left_out} left out", "Infer has not finished for them.", "Run cmnet infer again first."
        )
    for failed in summary.failed[:_SHOWN]:
        messages.failure(f"row {failed.row} ({failed.error_code})", failed.message, failed.hint)
    if len(summary.failed) > _SHOWN:
        messages.failure(f"and {len(summary.failed) - _SHOWN} more", "", "See tables/status.parquet in the run folder.")
    if summary.failed:
        messages.note(
            "Rows are those of the manifest; in the status table, the column 'log' says whose traceback is whose."
        )


def to_json(summary: Summary, deidentifier: Deidentifier) -> str:
    """The summary for scripts."""
    failed = [deidentifier.row(dataclasses.asdict(one)) for one in summary.failed]
    return json.dumps(dataclasses.asdict(summary) | {"failed": failed, "run": deidentifier.text(summary.run)}, indent=2)
