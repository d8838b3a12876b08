"""The summary of a command over a cohort: its counts and failures, as messages and as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cmnet_cli.cohort.case import Problem
from cmnet_cli.console import Messages
from cmnet_cli.execution.plan import CasePlan
from cmnet_cli.execution.runner import FailedCase, StageResult
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import State
from cmnet_core.errors import ErrorCode

# The console lists at most this many failures; the status table has all of them.
_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class UnusableFile:
    """A file that was given and belongs to no case, with the reason and what the user can do."""

    path: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class CommandSummary:
    """How a command over a cohort ended.

    Attributes:
        command: Name of the command.
        run: The run folder.
        done: Number of cases that this command finished.
        already_done: Number of cases that had been finished before.
        skipped: Number of stale cases that were left as they are.
        failed: Cases that failed.
        left_out: Number of cases that an earlier stage has not finished.
        planned: Number of cases that would run; only in a dry run.
        unusable_rows: Problems of the rows of the manifest that cannot be used.
        unusable_files: Files that belong to no case.
        unchanged: Number of cases for which there was nothing to do.
    """

    command: str
    run: str
    done: int
    already_done: int
    skipped: int
    failed: tuple[FailedCase, ...]
    left_out: int = 0
    planned: int = 0
    unusable_rows: tuple[Problem, ...] = ()
    unusable_files: tuple[UnusableFile, ...] = ()
    unchanged: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the command."""
        left_out = self.failed or self.left_out or self.unusable_rows or self.unusable_files
        return ExitCode.SOME_FAILED if left_out else ExitCode.SUCCESS


def summarise_stage(
    stage: str, folder: RunFolder, plan: CasePlan, result: StageResult, *, left_out: int = 0
) -> CommandSummary:
    """Count what became of the selected cases."""
    to_run = {case.case_id for case in plan.to_run}
    not_run = [state for case_id, (state, _) in plan.states.items() if case_id not in to_run]
    return CommandSummary(
        command=stage,
        run=str(folder.root),
        done=len(result.done),
        already_done=not_run.count(State.DONE),
        skipped=not_run.count(State.STALE),
        failed=tuple(result.failed),
        left_out=left_out,
    )


def summarise_dry_run(stage: str, folder: RunFolder, plan: CasePlan) -> CommandSummary:
    """Count what would be done."""
    return CommandSummary(stage, str(folder.root), 0, plan.count(State.DONE), 0, (), planned=len(plan.to_run))


def print_plan(plan: CasePlan, messages: Messages, *, dry_run: bool) -> None:
    """Print the number of cases to run; in a dry run, list each of them with the reason."""
    done, stale = plan.count(State.DONE), plan.count(State.STALE)
    messages.note(f"{len(plan.states)} subjects: {len(plan.to_run)} to do, {done} done before, {stale} stale")
    if dry_run:
        for case in plan.to_run:
            state, reason = plan.states[case.case_id]
            messages.result(f"{case.case_id}: {state}" + (f" ({reason})" if reason else ""))


def print_summary(summary: CommandSummary, messages: Messages) -> None:
    """Print the counts, and each failure with its hint."""
    before = f", {summary.already_done} done before" if summary.already_done else ""
    before += f", {summary.unchanged} unchanged" if summary.unchanged else ""
    skipped = f", {summary.skipped} stale and left as they are" if summary.skipped else ""
    messages.note(
        f"{summary.command}: {summary.done} done{before}{skipped}, {len(summary.failed)} failed, in {summary.run}"
    )
    if summary.left_out:
        messages.failure(
            f"{summary.left_out} left out", "Infer has not finished for them.", "Run cmnet infer again first."
        )
    print_unusable_rows(summary.unusable_rows, messages)
    for file in summary.unusable_files[:_MOST_LISTED]:
        messages.failure(f"file ({ErrorCode.CORRECTION})", f"{file.path}: {file.message}", file.hint)
    if len(summary.unusable_files) > _MOST_LISTED:
        messages.failure(
            f"and {len(summary.unusable_files) - _MOST_LISTED} more files", "", "The same applies to them."
        )
    for failed in summary.failed[:_MOST_LISTED]:
        messages.failure(f"row {failed.row} ({failed.error_code})", failed.message, failed.hint)
    if len(summary.failed) > _MOST_LISTED:
        more = len(summary.failed) - _MOST_LISTED
        messages.failure(f"and {more} more", "", "See tables/status.parquet in the run folder.")
    if summary.failed:
        messages.note(
            "Rows are those of the manifest; in the status table, the column 'log' names each subject's traceback."
        )


def print_unusable_rows(problems: Sequence[Problem], messages: Messages) -> None:
    """Print the problems of the rows of a manifest that were left out."""
    rows = len({problem.row for problem in problems})
    if rows:
        messages.note(f"{rows} row(s) of the manifest cannot be used and were left out")
    for problem in problems[:_MOST_LISTED]:
        place = ", ".join(filter(None, (f"row {problem.row}", problem.column)))
        messages.failure(f"{place} ({problem.code})", problem.message, problem.hint)
    if len(problems) > _MOST_LISTED:
        messages.failure(f"and {len(problems) - _MOST_LISTED} more", "", "cmnet validate lists all of them.")


def summary_as_json(summary: CommandSummary, deidentifier: Deidentifier) -> str:
    """Return the summary as JSON, for scripts."""
    failed = [deidentifier.row(dataclasses.asdict(one)) for one in summary.failed]
    unusable = [deidentifier.row(dataclasses.asdict(one)) for one in summary.unusable_rows]
    values = dataclasses.asdict(summary)
    files = [deidentifier.row(dataclasses.asdict(one)) for one in summary.unusable_files]
    values |= {
        "failed": failed,
        "unusable_files": files,
        "unusable_rows": unusable,
        "run": deidentifier.text(summary.run),
    }
    return json.dumps(values, indent=2)
