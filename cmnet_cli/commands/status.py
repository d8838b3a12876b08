"""The command status: which subjects are done, failed or pending. It imports little, so that it answers at once."""

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
from cmnet_cli.seals import is_whole_parquet
from cmnet_cli.slurm.array_tasks import TaskState, task_states
from cmnet_cli.tables.schema import to_json
from cmnet_core.errors import ErrorCode, ManifestError

_MOST_LISTED = 20
_TASK_STATES = frozenset(str(state) for state in TaskState) - {str(state) for state in State}


@dataclass(frozen=True, slots=True)
class _CaseIdentity:
    """The ids of a row of the manifest, without its other columns, so that 100,000 rows are read quickly."""

    case_id: str
    subject_id: str
    session: str | None


def show_status(run: Path, messages: Messages, *, as_json: bool) -> None:
    """Print which subjects are done, failed or pending, and the state of the tasks of the pending ones.

    Raises:
        ManifestError: There is no such run.
    """
    folder = require_run(run)
    cases = _read_identities(folder.cohort)
    in_tasks = _task_state_of_cases(folder)
    states: dict[str, tuple[State | TaskState, str]] = {
        case.case_id: (State.DONE, "")
        if folder.is_done(case.case_id, CohortStage.INFER)
        else in_tasks.get(case.case_id, (State.PENDING, "infer has not finished"))
        for case in cases
    }
    rows = [messages.deidentifier.row(row) for row in status_rows(cases, folder, states)]
    if as_json:
        messages.data(to_json(rows))
    else:
        _print_status(rows, messages)


def _print_status(rows: list[dict[str, Any]], messages: Messages) -> None:
    counts = Counter(row["state"] for row in rows)
    all_states = dict.fromkeys(str(state) for state in chain(State, TaskState))
    messages.result(", ".join(f"{counts[state]} {state}" for state in all_states if counts[state]))
    failed = [row for row in rows if row["state"] == State.FAILED]
    for row in failed[:_MOST_LISTED]:
        messages.result(f"{row['case_id']} ({row['stage']}, {row['error_code']}): {row['message']} {row['hint']}")
        messages.result(f"    logs/{row['log']}")
    if len(failed) > _MOST_LISTED:
        messages.result(f"and {len(failed) - _MOST_LISTED} more: cmnet status --json lists all")
    tasks = Counter((row["state"], row["reason"]) for row in rows if row["state"] in _TASK_STATES)
    for (state, reason), count in list(tasks.items())[:_MOST_LISTED]:
        messages.result(f"{count} {state}: {reason}")


def _read_identities(path: Path) -> list[_CaseIdentity]:
    """Read the ids of all cases of a manifest that cmnet wrote.

    Raises:
        ManifestError: The manifest is damaged.
    """
    if not is_whole_parquet(path):
        raise ManifestError(
            f"{path} is damaged, or cmnet 0.1.0 wrote it.",
            hint="cmnet verify --repair restores it from its second copy.",
            code=ErrorCode.RUN,
        )
    columns = [name for name in ("subject_id", "session") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=columns)
    subjects = table["subject_id"].to_pylist()
    sessions = table["session"].to_pylist() if "session" in columns else [None] * len(subjects)
    return [
        _CaseIdentity(case_id_of(subject, session or None), subject, session or None)
        for subject, session in zip(subjects, sessions, strict=True)
    ]


def _task_state_of_cases(folder: RunFolder) -> dict[str, tuple[State | TaskState, str]]:
    """Return, by case id, state and reason of the unfinished task that each case belongs to."""
    states: dict[str, tuple[State | TaskState, str]] = {}
    for name in folder.submissions:
        submitted = folder.submission(name)
        for number, state in task_states(folder, name).items():
            if state[0] != TaskState.DONE and submitted.shard(number).exists():
                cases = _read_identities(submitted.shard(number))
                states |= dict.fromkeys((case.case_id for case in cases), state)
    return states
