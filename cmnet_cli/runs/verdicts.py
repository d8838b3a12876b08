"""Verdicts of readers on the subjects of a run: accept, correct or exclude, in a table that the worklist exports.

The table is ``verdicts.csv`` in the run folder. Commands leave subjects out that it excludes, and state which.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from cmnet_cli.cohort.case import Problem, raise_problems
from cmnet_cli.cohort.case_id import without_prefix
from cmnet_cli.cohort.table import Table, read_table, write_table
from cmnet_cli.privacy.deidentify import open_deidentifier, subject_of
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.errors import ErrorCode, ManifestError

COLUMNS = ("id", "verdict", "reader", "date", "remark")
"""Columns of the table; the last three may be missing."""


class Verdict(StrEnum):
    """What a reader decided about a subject and visit."""

    ACCEPT = "accept"
    CORRECT = "correct"
    EXCLUDE = "exclude"


@dataclass(frozen=True, slots=True)
class Reading:
    """The verdict of a reader on one subject and visit.

    Attributes:
        verdict: The verdict.
        reader: Who decided, as in the table.
        date: When, as in the table.
        remark: Why, as in the table.
    """

    verdict: Verdict
    reader: str = ""
    date: str = ""
    remark: str = ""


Readings = Mapping[str, Reading]
"""Verdicts by case id."""


def excluded(readings: Readings) -> list[str]:
    """Return the cases that are excluded, in their order in the table."""
    return [case_id for case_id, reading in readings.items() if reading.verdict is Verdict.EXCLUDE]


def read_verdicts(folder: RunFolder, case_ids: Collection[str], given: Path | None = None) -> Readings:
    """Read the verdicts of a run.

    Args:
        folder: The run folder.
        case_ids: The subjects and visits of the run.
        given: A table to read in place of ``verdicts.csv`` of the run.

    Returns:
        The verdicts; none where the run has no table.

    Raises:
        ManifestError: The table cannot be read, or a row of it cannot be used; all such rows are listed.
    """
    path = given or folder.verdicts
    if given is None and not path.exists():
        return {}
    table = read_table(path, code=ErrorCode.VERDICTS)
    missing = [column for column in COLUMNS[:2] if column not in table.columns]
    if missing:
        raise ManifestError(
            f"{path} has no column '{missing[0]}'.",
            hint=f"A table of verdicts has the columns {', '.join(COLUMNS)}, as the worklist of the report exports it.",
            code=ErrorCode.VERDICTS,
        )
    readings, problems = _parse(table, _Names(folder, case_ids))
    raise_problems(path, problems, hint="Correct the rows, or export the table again.", code=ErrorCode.VERDICTS)
    return readings


def store_verdicts(folder: RunFolder, readings: Readings) -> None:
    """Keep verdicts in the run folder, where later commands find them."""
    rows = [
        {"id": case_id, "verdict": one.verdict, "reader": one.reader, "date": one.date, "remark": one.remark}
        for case_id, one in readings.items()
    ]
    write_table(folder.verdicts, COLUMNS, rows)


def _parse(table: Table, names: "_Names") -> tuple[Readings, list[Problem]]:
    readings: dict[str, Reading] = {}
    row_of: dict[str, int] = {}
    problems: list[Problem] = []
    for row, cells in table.rows:
        if "verdict" not in cells:
            continue
        case_id, reason, hint = names.case_of(cells.get("id", ""))
        wrong = _unknown_verdict(row, cells["verdict"])
        problems += wrong
        if reason:
            problems.append(Problem(row, "id", ErrorCode.VERDICTS, reason, hint))
        elif case_id in row_of:
            first = f"It is the subject and visit of row {row_of[case_id]} too."
            problems.append(Problem(row, "id", ErrorCode.VERDICTS, first, "Keep one verdict per subject and visit."))
        elif not wrong:
            row_of[case_id] = row
            others = (cells.get(column, "") for column in COLUMNS[2:])
            readings[case_id] = Reading(Verdict(cells["verdict"].lower()), *others)
    return readings, problems


def _unknown_verdict(row: int, text: str) -> list[Problem]:
    if text.lower() in list(Verdict):
        return []
    similar = difflib.get_close_matches(text.lower(), list(Verdict), n=1)
    hint = f"Did you mean {similar[0]}?" if similar else f"Choose one of {', '.join(Verdict)}."
    return [Problem(row, "verdict", ErrorCode.VERDICTS, f"There is no verdict '{text}'.", hint)]


class _Names:
    """The names by which a table may call the subjects and visits of a run. No message repeats an id."""

    def __init__(self, folder: RunFolder, case_ids: Collection[str]) -> None:
        self._folder, self._case_ids = folder, frozenset(case_ids)
        self._visits: dict[str, list[str]] = {}
        for case_id in case_ids:
            self._visits.setdefault(subject_of(case_id), []).append(case_id)

    def case_of(self, text: str) -> tuple[str, str, str]:
        """Return the case of an id, or why there is none and what to do."""
        label = without_prefix(text, "sub-")
        if f"sub-{label}" in self._case_ids:
            return f"sub-{label}", "", ""
        visits = self._visits.get(label) or self._of_pseudonym.get(f"sub-{label}", [])
        if len(visits) == 1:
            return visits[0], "", ""
        if visits:
            hint = "Add the visit, as in sub-9900001_ses-2."
            return "", f"The subject has {len(visits)} visits in this run.", hint
        if not text:
            return "", "The cell is empty.", "Give the id of the subject, as the worklist exports it."
        return "", "This run has no such subject.", "Give ids of its manifest, or the pseudonyms of its own report."

    @cached_property
    def _of_pseudonym(self) -> Mapping[str, list[str]]:
        """The case of each pseudonym, which the worklist of a share-safe report exports."""
        if not self._folder.share_key.exists():
            return {}
        deidentifier = open_deidentifier(self._folder.share_key, share_safe=True)
        return {deidentifier.name(case_id): [case_id] for case_id in self._case_ids}
