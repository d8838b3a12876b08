"""The log of attempts, one JSON line per attempt at a case, and the status table that is made from it.

The log is stored among the run's other logs, so it identifies cases by pseudonym. Only the status table names them.
"""

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from cmnet_cli.engines.base import Outcome
from cmnet_cli.privacy.deidentify import Deidentifier, ids_in, open_deidentifier, redact_ids
from cmnet_cli.runs.paths import RunFolder, traceback_name
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.seals import lacks_line_end, read_lines, remove_cut_line, sealed_line

_SYNC_INTERVAL_S = 1.0
_TIMED_STAGES = ("preprocess", "infer", "indices")


class CaseIdentity(Protocol):
    """The attributes of a case that the status table needs."""

    @property
    def case_id(self) -> str:
        """``sub-<id>`` or ``sub-<id>_ses-<n>``."""
        ...

    @property
    def subject_id(self) -> str:
        """The id of the subject."""
        ...

    @property
    def session(self) -> str | None:
        """The number of the visit, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one stage of one case, which is identified by its pseudonym."""

    pseudonym: str
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
    def summary(self) -> str:
        """The result, the duration and the peak memory, in one line."""
        result = f"failed ({self.error_code})" if self.state == State.FAILED else "done"
        return f"{result}, {self.seconds:.1f} s, {self.peak_memory_mb:.0f} MB"


def attempt_of(stage: str, outcome: Outcome[Any], deidentifier: Deidentifier) -> Attempt:
    """Convert an outcome into a line of the log."""
    failure, ids = outcome.failure, ids_in(outcome.case_id)
    return Attempt(
        pseudonym=deidentifier.pseudonym(outcome.case_id),
        stage=stage,
        state=State.FAILED if failure else State.DONE,
        error_code=str(failure.code) if failure else None,
        message=redact_ids(failure.message, ids) if failure else None,
        hint=redact_ids(failure.hint, ids) if failure else None,
        seconds=round(outcome.seconds, 3),
        host=outcome.host,
        peak_memory_mb=round(outcome.peak_memory_mb, 1),
        at=utc_now("milliseconds"),
    )


class AttemptLog:
    """A file of attempts that one process appends to, and the same in plain lines for users.

    A line is passed to the operating system at once, so that it outlives the process, and is flushed to disk within
    about a second. The proof that a case is done is its sidecar, never a line of the log.

    Args:
        path: File of the attempts as JSON lines.
        text_log: File of the plain lines, or None.
        deidentifier: The pseudonyms of the run.
    """

    def __init__(self, path: Path, text_log: Path | None, deidentifier: Deidentifier) -> None:
        self.deidentifier = deidentifier
        self._files: list[FileIO] = []
        for file in (path, text_log):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._files.append(file.open("ab", buffering=0))
        remove_cut_line(path)
        # The digest of a text log may have been recorded, so that nothing of it may be removed.
        if text_log is not None and lacks_line_end(text_log):
            self._files[1].write(b"\n")
        self._synced_at = time.monotonic()

    def append(self, attempt: Attempt) -> None:
        """Write an attempt, as JSON and as a plain line."""
        lines = (sealed_line(dataclasses.asdict(attempt)), f"{attempt.at} {attempt.pseudonym}: {attempt.summary}")
        for file, line in zip(self._files, lines, strict=False):
            _append_whole(file, f"{line}\n".encode())
        if time.monotonic() - self._synced_at > _SYNC_INTERVAL_S:
            self._sync()

    def close(self) -> None:
        """Flush the log to disk and close it."""
        self._sync()
        for file in self._files:
            file.close()

    def _sync(self) -> None:
        for file in self._files:
            os.fsync(file.fileno())
        self._synced_at = time.monotonic()


def _append_whole(file: FileIO, content: bytes) -> None:
    """Append to a file, or leave it as it was: a part of a line would damage the line after it as well."""
    size = os.fstat(file.fileno()).st_size
    try:
        written = 0
        while written < len(content):
            written += file.write(content[written:]) or 0
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def read_attempts(paths: Iterable[Path]) -> list[Attempt]:
    """Read all attempts, oldest first; a line that is damaged, cut short or of another version is skipped."""
    attempts = []
    for path in paths:
        for values in read_lines(path)[0]:
            try:
                attempt = Attempt(**values | {"state": State(values["state"]), "seconds": float(values["seconds"])})
            except (TypeError, KeyError, ValueError):
                continue
            texts = (attempt.pseudonym, attempt.stage, attempt.at, attempt.host)
            optional = (attempt.error_code, attempt.message, attempt.hint)
            if (
                all(isinstance(text, str) for text in texts)
                and all(isinstance(text, str | None) for text in optional)
                and isinstance(attempt.peak_memory_mb, int | float)
            ):
                attempts.append(attempt)
    # Each file is in order already, which makes the sort cheap.
    return sorted(attempts, key=attrgetter("at"))


def status_rows(
    cases: Iterable[CaseIdentity], folder: RunFolder, states: Mapping[str, tuple[StrEnum, str]]
) -> list[dict[str, Any]]:
    """Return the rows of the status table.

    Args:
        cases: The whole cohort, so that no case is silently missing.
        folder: The run folder, which contains the log of attempts.
        states: State and reason, by case id, of the cases whose sidecars were checked. A failed attempt takes
            precedence.
    """
    history: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in read_attempts(folder.all_outcomes):
        history[attempt.pseudonym].append(attempt)
    # A run without attempts has no pseudonyms, and the user may not be allowed to write the key.
    deidentifier = open_deidentifier(folder.share_key, share_safe=False) if history else None
    rows = []
    for case in cases:
        pseudonym = deidentifier.pseudonym(case.case_id) if deidentifier else ""
        rows.append(_status_row(case, history.get(pseudonym, ()), states.get(case.case_id)))
    return rows


def _status_row(
    case: CaseIdentity, history: Sequence[Attempt], state_and_reason: tuple[StrEnum, str] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"case_id": case.case_id, "subject_id": case.subject_id, "session": case.session}
    state: StrEnum
    state, reason = state_and_reason or (State.PENDING, "not tried yet")
    if history:
        last = history[-1]
        if last.state == State.FAILED or state_and_reason is None:
            state, reason = last.state, last.message or ""
        row |= {
            "stage": last.stage,
            "error_code": last.error_code,
            "message": last.message,
            "hint": last.hint,
            "attempt": sum(attempt.stage == last.stage for attempt in history),
            "host": last.host,
            "peak_memory_mb": last.peak_memory_mb,
            "log": traceback_name(last.pseudonym, last.stage) if last.state == State.FAILED else None,
        }
        row |= {f"seconds_{item.stage}": item.seconds for item in history if item.stage in _TIMED_STAGES}
    return row | {"state": str(state), "reason": reason or None}
