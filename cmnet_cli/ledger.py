"""What was tried and how it went: one JSON line an attempt, and the status table that is made of them."""

import dataclasses
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TextIO

from cmnet_cli.cohort import Outcome
from cmnet_cli.sidecar import State

_SYNC_S = 1.0
_STATES = {str(state): state for state in State}


class Listed(Protocol):
    """A case of a cohort, as far as the status table is concerned."""

    @property
    def case_id(self) -> str:
        """``sub-<id>`` or ``sub-<id>_ses-<n>``."""
        ...

    @property
    def subject_id(self) -> str:
        """The subject."""
        ...

    @property
    def session(self) -> str | None:
        """The visit."""
        ...


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
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


class Ledger:
    """A file of attempts that one process appends to, with plain lines for people beside it.

    A line is with the operating system at once, so that it outlives the process, and on disk a moment later: the
    proof that a case is done is its sidecar, never a line here.

    Args:
        path: Where the attempts go.
        log: Where the lines for people go, if anywhere.
    """

    def __init__(self, path: Path, log: Path | None) -> None:
        self._files = [_open_to_append(item) for item in (path, log) if item is not None]
        self._synced = time.monotonic()

    def append(self, attempt: Attempt, told: str) -> None:
        """Write an attempt, and what people read of it."""
        line = json.dumps(dataclasses.asdict(attempt))
        for file, text in zip(self._files, (line, f"{attempt.at} {told}"), strict=False):
            file.write(text + "\n")
            file.flush()
        if time.monotonic() - self._synced > _SYNC_S:
            self._sync()

    def close(self) -> None:
        """Wait until all is on disk."""
        self._sync()
        for file in self._files:
            file.close()

    def _sync(self) -> None:
        for file in self._files:
            os.fsync(file.fileno())
        self._synced = time.monotonic()


def _open_to_append(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")


def read_attempts(paths: Iterable[Path]) -> list[Attempt]:
    """All attempts so far, oldest first; a line cut short by a crash is passed over."""
    attempts = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            values["state"] = _STATES[values["state"]]
            attempts.append(Attempt(**values))
    # The times of one machine grow; a sort of what is in order costs next to nothing.
    return sorted(attempts, key=attrgetter("at"))


def status_rows(
    cases: Iterable[Listed], attempts: Iterable[Attempt], judged: Mapping[str, tuple[StrEnum, str]]
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


def _status_row(case: Listed, history: list[Attempt], judged: tuple[StrEnum, str] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"case_id": case.case_id, "subject_id": case.subject_id, "session": case.session}
    state: StrEnum
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
