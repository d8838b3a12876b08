"""What was tried and how it went: one JSON line an attempt, and the status table that is made of them."""

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmnet_cli.cases import Case
from cmnet_cli.cohort import Outcome
from cmnet_cli.sidecar import State


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one stage of one case."""

    case_id: str
    stage: str
    state: State
    error_code: str | None
    message: str | None
    hint: str | None
    seconds: float
    host: str
    peak_memory_mb: float
    at: str


def attempt_of(stage: str, outcome: Outcome[Any]) -> Attempt:
    """An outcome as a line of the ledger."""
    failure = outcome.failure
    return Attempt(
        case_id=outcome.case_id,
        stage=stage,
        state=State.FAILED if failure else State.DONE,
        error_code=str(failure.code) if failure else None,
        message=failure.message if failure else None,
        hint=failure.hint if failure else None,
        seconds=round(outcome.seconds, 3),
        host=outcome.host,
        peak_memory_mb=round(outcome.peak_memory_mb, 1),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def append_attempt(path: Path, attempt: Attempt) -> None:
    """Write one attempt into the ledger."""
    append_line(path, json.dumps(dataclasses.asdict(attempt)))


def append_line(path: Path, line: str) -> None:
    """Write one line and wait until it is on disk, so that a crash loses nothing that was told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_attempts(path: Path) -> list[Attempt]:
    """All attempts so far, oldest first; a line cut short by a crash is passed over."""
    attempts = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        attempts.append(Attempt(**{**values, "state": State(values["state"])}))
    return attempts


def status_rows(
    cases: Iterable[Case], attempts: Iterable[Attempt], judged: Mapping[str, tuple[State, str]]
) -> list[dict[str, Any]]:
    """The rows of the status table.

    Args:
        cases: The whole cohort, so that nobody is silently missing.
        attempts: The ledger.
        judged: State and reason by case of those that the sidecars were asked about; a failed attempt goes before.
    """
    history: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        history[attempt.case_id].append(attempt)
    return [_status_row(case, history[case.case_id], judged.get(case.case_id)) for case in cases]


def _status_row(case: Case, history: list[Attempt], judged: tuple[State, str] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"case_id": case.case_id, "subject_id": case.subject_id, "session": case.session}
    state, reason = judged or (State.PENDING, "not tried yet")
    if history:
        last = history[-1]
        if last.state == State.FAILED or not judged:
            state, reason = last.state, last.message or ""
        row |= {
            "stage": last.stage,
            "error_code": last.error_code,
            "message": last.message,
            "hint": last.hint,
            "attempt": sum(attempt.stage == last.stage for attempt in history),
            "host": last.host,
            "peak_memory_mb": last.peak_memory_mb,
        }
        row |= {f"seconds_{item.stage}": item.seconds for item in history if item.stage in _TIMED}
    return row | {"state": str(state), "reason": reason or None}


_TIMED = ("preprocess", "infer", "indices")
