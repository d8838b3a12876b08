"""The command status: who is done, who failed and why, who is left. It loads little, so that it answers at once."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cmnet_cli.cohort.case_id import case_id_of
from cmnet_cli.console import Messages
from cmnet_cli.execution.attempt_log import status_rows
from cmnet_cli.runs.paths import CohortStage, RunFolder, require_run
from cmnet_cli.runs.provenance import State
from cmnet_cli.slurm.array_tasks import TaskState, task_states
from cmnet_cli.tables.schema import to_json

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Listed:
    """Who a row of a manifest is about, without the rest: 100,000 rows are read in a moment."""

    case_id: str
    subject_id: str
    session: str | None


def show_status(run: Path, messages: Messages, *, as_json: bool) -> None:
    """Print who is done, failed or pending, and how the tasks fare that work on the others.

    Raises:
        ManifestError: There is no such run.
    """
    folder = require_run(run)
    listed = _listed(folder.cohort)
    waiting = _with_tasks(folder)
    judged: dict[str, tuple[State | TaskState, str]] = {
        case.case_id: (State.DONE, "")
        if folder.is_done(case.case_id, CohortStage.INFER)
        else waiting.get(case.case_id, (State.PENDING, "infer has not finished"))
        for case in listed
    }
    rows = status_rows(listed, folder, judged)
    rows = [messages.deidentifier.row(row) for row in rows]
    if as_json:
        messages.data(to_json(rows))
    else:
        _show(rows, messages)


def _show(rows: list[dict[str, Any]], messages: Messages) -> None:
    counts = Counter(row["state"] for row in rows)
    known = dict.fromkeys(str(state) for state in chain(State, TaskState))
    messages.result(", ".join(f"{counts[state]} {state}" for state in known if counts[state]))
    failed = [row for row in rows if row["state"] == State.FAILED]
    for row in failed[:_SHOWN]:
        messages.result(f"{row['case_id']} ({row['stage']}, {row['error_code']}): {row['message']} {row['hint']}")
        messages.result(f"    logs/{row['log']}")
    if len(failed) > _SHOWN:
        messages.result(f"and {len(failed) - _SHOWN} more: cmnet status --json lists all")
    tasks = Counter((row["state"], row["reason"]) for row in rows if row["state"] in _OF_TASKS)
    for (state, reason), count in list(tasks.items())[:_SHOWN]:
        messages.result(f"{count} {state}: {reason}")


_OF_TASKS = frozenset(str(state) for state in TaskState) - {str(state) for state in State}


def _listed(path: Path) -> list[_Listed]:
    """Everyone in a manifest that cmnet wrote."""
    columns = [name for name in ("subject_id", "session") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=columns)
    subjects = table["subject_id"].to_pylist()
    sessions = table["session"].to_pylist() if "session" in columns else [None] * len(subjects)
    return [
        _Listed(case_id_of(subject, session or None), subject, session or None)
        for subject, session in zip(subjects, sessions, strict=True)
    ]


def _with_tasks(folder: RunFolder) -> dict[str, tuple[State | TaskState, str]]:
    """State and reason of everyone who is with a task, as far as the task's state goes."""
    waiting: dict[str, tuple[State | TaskState, str]] = {}
    for name in folder.submissions:
        submitted = folder.submission(name)
        for number, state in task_states(folder, name).items():
            if state[0] != TaskState.DONE and submitted.shard(number).exists():
                waiting |= dict.fromkeys((case.case_id for case in _listed(submitted.shard(number))), state)
    return waiting
