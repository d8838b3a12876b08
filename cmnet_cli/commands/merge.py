"""The command merge: the parts that tasks wrote, into the tables that a local run writes."""

import os
from dataclasses import replace
from pathlib import Path

from cmnet_cli.commands.task import write_part
from cmnet_cli.console import Messages
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.execution.runner import Failed, Site, Summary, write_status
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.run_folder import OpenRun, locked_run, open_run, record_command
from cmnet_cli.runs.run_lock import RunLock
from cmnet_cli.slurm.array_tasks import FINISHED, MERGED, STARTED
from cmnet_cli.slurm.shards import read_shard
from cmnet_cli.slurm.submission import Submission, add_event, read_events, read_submission
from cmnet_cli.stages import infer, preprocess
from cmnet_cli.tables.parts import merge_parts


def merge(run: Path, messages: Messages) -> Summary:
    """Bring the rows of all tasks into the tables of a run, and say who is missing.

    Raises:
        ManifestError: There is no such run, or somebody works on it.
    """
    opened = open_run(run.absolute())
    folder = opened.folder
    # A merge job waits for a task that SLURM has started twice; a person would rather be told.
    with locked_run(folder, "merge", wait="SLURM_JOB_ID" in os.environ) as lock:
        record_command(folder, "merge")
        for name in folder.submissions:
            submission = read_submission(folder.submission(name))
            if submission.stage != preprocess.NAME:
                _finish_for_tasks(submission, opened, lock, messages)
        counts = merge_parts(folder, opened.order, extra=opened.extra)
        rows = write_status(opened, _judged(opened))
    messages.note(", ".join(f"{table}: {count} rows" for table, count in counts.items()) or "No new rows.")
    failed = [
        Failed(row["case_id"], case.row, row["error_code"], row["message"], row["hint"])
        for case, row in zip(opened.cases, rows, strict=True)
        if row["state"] == State.FAILED
    ]
    done = sum(row["state"] == State.DONE for row in rows)
    return Summary("merge", str(folder.root), done, 0, 0, tuple(failed), left_out=len(rows) - done - len(failed))


def _finish_for_tasks(submission: Submission, opened: OpenRun, lock: RunLock, messages: Messages) -> None:
    """Compute the rows that tasks were ended before: whoever infer has finished with is in the tables."""
    submitted = opened.folder.submission(submission.name)
    for shard in submission.shards:
        events = read_events(submitted.events(shard.number))
        if not events or not _was_ended(events[-1]):
            continue
        of_shard = replace(opened, cases=read_shard(submitted, submission, shard.number))
        attempt_log = opened.folder.task_outcomes(submission.name, shard.number)
        site = Site(SerialEngine(), lock, attempt_log, None, messages, is_task=True)
        tally = write_part(opened.folder, submission, of_shard, site, f"{shard.number:05d}")
        left = shard.cases - len(tally.done) - len(tally.failed)
        add_event(submitted.events(shard.number), MERGED, pending=left, reason=events[-1].get("reason", ""))


def _was_ended(last: dict[str, object]) -> bool:
    return last["event"] == STARTED or (last["event"] == FINISHED and bool(last["reason"]))


def _judged(opened: OpenRun) -> dict[str, tuple[State, str]]:
    """Whom infer has finished with."""
    return {
        case.case_id: (State.DONE, "")
        if opened.folder.case(case.case_id).sidecar(infer.NAME).exists()
        else (State.PENDING, "infer has not finished")
        for case in opened.cases
    }
