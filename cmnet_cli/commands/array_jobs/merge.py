"""The command merge: the parts that array tasks wrote become the tables that a local run writes."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.execution.build_stage import build_submitted_indices
from cmnet_cli.execution.indices_parts import write_shard_part
from cmnet_cli.execution.runner import ExecutionContext, FailedCase, write_status
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.run_folder import OpenRun, locked_run, open_run, record_command, record_end
from cmnet_cli.runs.run_lock import RunLock
from cmnet_cli.runs.verdicts import read_verdicts
from cmnet_cli.slurm.shards import read_shard
from cmnet_cli.slurm.submission import Submission, TaskEvent, add_event, read_events, read_submission
from cmnet_cli.stages import indices, infer
from cmnet_cli.stages.indices import TABLES_OF_INDICES
from cmnet_cli.tables.parts import merge_parts, remove_damaged
from cmnet_cli.tables.schema import require_whole_tables


def merge(run: Path, messages: Messages) -> CommandSummary:
    """Merge the rows of all tasks into the tables of a run, and list the subjects that are missing.

    Raises:
        ManifestError: There is no such run, or another command works on it.
    """
    opened = open_run(run.absolute())
    folder = opened.folder
    # A merge job waits for a task that SLURM has started twice; an interactive user gets an error instead.
    with locked_run(folder, "merge", wait="SLURM_JOB_ID" in os.environ) as lock:
        record_command(folder, "merge")
        require_whole_tables(folder, TABLES_OF_INDICES)
        damaged, _ = remove_damaged(folder, ())
        for name in folder.submissions:
            # The name of a part starts with the number of its shard.
            again = {int(part.name[:5]) for part in damaged if part.parent.name == name}
            _write_missing_parts(read_submission(folder.submission(name)), opened, lock, messages, again)
        readings = read_verdicts(folder, opened.order)
        verdicts = {case_id: reading.verdict for case_id, reading in readings.items()}
        counts = merge_parts(folder, opened.order, extra=opened.extra, verdicts=verdicts)
        if counts:
            record_end(folder, indices.NAME)
        states = {
            case.case_id: (State.DONE, "")
            if folder.case(case.case_id).sidecar(infer.NAME).exists()
            else (State.PENDING, "infer has not finished")
            for case in opened.cases
        }
        rows = write_status(opened, states)
    messages.note(", ".join(f"{table}: {count} rows" for table, count in counts.items()) or "No new rows.")
    failed = [
        FailedCase(row["case_id"], case.row, row["error_code"], row["message"], row["hint"])
        for case, row in zip(opened.cases, rows, strict=True)
        if row["state"] == State.FAILED
    ]
    done = sum(row["state"] == State.DONE for row in rows)
    left_out = len(rows) - done - len(failed)
    return CommandSummary("merge", str(folder.root), done, 0, 0, tuple(failed), left_out=left_out)


def _write_missing_parts(
    submission: Submission, opened: OpenRun, lock: RunLock, messages: Messages, damaged: Collection[int]
) -> None:
    """Compute the rows of finished subjects whose task ended before it could write them, or whose part is damaged."""
    folder = opened.folder
    submitted = folder.submission(submission.name)
    for shard in submission.shards:
        events = read_events(submitted.events(shard.number))
        if shard.number not in damaged and (not events or not _ended_early(events[-1])):
            continue
        stage = build_submitted_indices(folder, submission)
        if stage is None:
            return
        of_shard = replace(opened, cases=read_shard(submitted, submission, shard.number))
        attempt_log = folder.task_outcomes(submission.name, shard.number)
        context = ExecutionContext(SerialEngine(), lock, attempt_log, None, messages, is_task=True)
        result = write_shard_part(stage, submission, of_shard, context, shard.number)
        left = shard.cases - len(result.done) - len(result.failed)
        reason = events[-1].get("reason", "") if events else ""
        add_event(submitted.events(shard.number), TaskEvent.MERGED, pending=left, reason=reason)


def _ended_early(last: dict[str, object]) -> bool:
    event = last.get("event")
    return event == TaskEvent.STARTED or (event == TaskEvent.FINISHED and bool(last.get("reason")))
