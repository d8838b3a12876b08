"""What was tried and how it went: one JSON line an attempt, and the status table that is made of them.

All of this lies among the logs, so it calls every case by its pseudonym; who that is only the status table tells.
"""

import dataclasses
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, TextIO

from cmnet_cli.engines.base import Outcome
from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier, redact_ids, subject_of
from cmnet_cli.runs.paths import RunFolder, traceback_name
from cmnet_cli.runs.provenance import State
from cmnet_core.errors import ErrorCode, ManifestError

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
    """One try at one stage of one case, which goes by its pseudonym."""

    name: str
    stage: str
    state: State
    error_code: str | None
    message: str | None
    hint: str | None
    seconds: float
    host: str
    peak_memory_mb: float
    at: str

    @property
    def told(self) -> str:
        """How it went, in a few words."""
        went = f"failed ({self.error_code})" if self.state == State.FAILED else "done"
        return f"{went}, {self.seconds:.1f} s, {self.peak_memory_mb:.0f} MB"


def attempt_of(stage: str, outcome: Outcome[Any], deidentifier: Deidentifier) -> Attempt:
    """An outcome as a line of the ledger."""
    failure, ids = outcome.failure, (subject_of(outcome.case_id),)
    return Attempt(
        name=deidentifier.pseudonym(outcome.case_id),
        stage=stage,
        state=State.FAILED if failure else State.DONE,
        error_code=str(failure.code) if failure else None,
        message=redact_ids(failure.message, ids) if failure else None,
        hint=redact_ids(failure.hint, ids) if failure else None,
        seconds=round(outcome.seconds, 3),
        host=outcome.host,
        peak_memory_mb=round(outcome.peak_memory_mb, 1),
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


class AttemptLog:
    """A file of attempts that one process appends to, with plain lines for people beside it.

    A line is with the operating system at once, so that it outlives the process, and on disk a moment later: the
    proof that a case is done is its sidecar, never a line here.

    Args:
        path: Where the attempts go.
        log: Where the lines for people go, if anywhere.
        deidentifier: The pseudonyms of the run.
    """

    def __init__(self, path: Path, log: Path | None, deidentifier: Deidentifier) -> None:
        self.deidentifier = deidentifier
        self._files = [_open_to_append(item) for item in (path, log) if item is not None]
        self._synced = time.monotonic()

    def append(self, attempt: Attempt) -> None:
        """Write an attempt, as a line for scripts and one for people."""
        told = f"{attempt.at} {attempt.name}: {attempt.told}"
        for file, text in zip(self._files, (json.dumps(dataclasses.asdict(attempt)), told), strict=False):
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
    """All attempts so far, oldest first; a line cut short by a crash, or of another cmnet, is passed over."""
    attempts = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                values = json.loads(line)
                attempts.append(Attempt(**values | {"state": _STATES[values["state"]]}))
            except (json.JSONDecodeError, TypeError, KeyError):
                continue
    # The times of one machine grow; a sort of what is in order costs next to nothing.
    return sorted(attempts, key=attrgetter("at"))


def status_rows(
    cases: Iterable[Listed], folder: RunFolder, judged: Mapping[str, tuple[StrEnum, str]]
) -> list[dict[str, Any]]:
    """The rows of the status table.

    Args:
        cases: The whole cohort, so that nobody is silently missing.
        folder: The run folder, which holds the attempts.
        judged: State and reason by case of those that the sidecars were asked about; a failed attempt goes before.
    """
    history: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in read_attempts(folder.all_outcomes):
        history[attempt.name].append(attempt)
    # Who has tried nothing has no pseudonyms, and perhaps may not write.
    deidentifier = _sharing_of(folder) if history else None
    rows = []
    for case in cases:
        name = deidentifier.pseudonym(case.case_id) if deidentifier else ""
        rows.append(_status_row(case, history.get(name, ()), judged.get(case.case_id)))
    return rows


def _sharing_of(folder: RunFolder) -> Deidentifier:
    try:
        return open_deidentifier(folder.share_key, share_safe=False)
    except PermissionError as error:
        raise ManifestError(
            f"Only its owner may read {folder.share_key}, which tells who is meant in the logs of this run.",
            hint="Ask whoever began the run for its status, or for the right to read that file.",
            code=ErrorCode.RUN,
        ) from error


def _status_row(case: Listed, history: Sequence[Attempt], judged: tuple[StrEnum, str] | None) -> dict[str, Any]:
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
            "log": traceback_name(last.name, last.stage) if last.state == State.FAILED else None,
        }
        row |= {f"seconds_{item.stage}": item.seconds for item in history if item.stage in _TIMED}
    return row | {"state": str(state), "reason": reason or None}


_TIMED = ("preprocess", "infer", "indices")
