"""The manifest: a table with one row per subject and visit, read into cases and written from them.

Reading checks the text of every cell and lists all problems at once. Files are not opened here: ``cmnet validate``
checks them for the whole cohort, and every other command when it processes a subject, so that a missing file costs one
subject.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmnet_cli.cohort.case import COLUMNS, Case, Problem, raise_problems, read_row, write_row
from cmnet_cli.cohort.table import Table, read_table, write_table
from cmnet_core.errors import ErrorCode

__all__ = [
    "COLUMNS",
    "Case",
    "Manifest",
    "Problem",
    "check_manifest",
    "read_manifest",
    "write_manifest",
]

_REQUIRED = ("subject_id", "image")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The cases of a cohort.

    Attributes:
        cases: The rows that can be used.
        digest: Digest of the content of these rows, which no format or column order changes.
        left_out: The problems of the rows that cannot be used.
    """

    cases: tuple[Case, ...]
    digest: str
    left_out: tuple[Problem, ...] = ()


def read_manifest(path: Path, *, cells: Mapping[str, str] | None = None) -> Manifest:
    """Read a manifest (CSV, TSV or Parquet). A row with a cell that cannot be used is left out.

    Args:
        path: The manifest.
        cells: Cells of every row, in place of those of the manifest.

    Raises:
        ManifestError: The file cannot be read, no row can be used, or rows contradict each other; all problems are
            listed.
    """
    manifest, problems = check_manifest(path, cells=cells)
    used = {case.row for case in manifest.cases}
    if not used or any(problem.row is None or problem.row in used for problem in problems):
        raise_problems(path, problems, hint="Correct them; nothing ran.", code=problems[0].code)
    return replace(manifest, left_out=problems)


def check_manifest(path: Path, *, cells: Mapping[str, str] | None = None) -> tuple[Manifest, tuple[Problem, ...]]:
    """Read the usable rows of a manifest, and list the problems of all others.

    Args:
        path: The manifest.
        cells: Cells of every row, in place of those of the manifest.

    Returns:
        The manifest of the usable rows, and every problem.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    table = read_table(path)
    problems = _table_problems(table)
    if problems:
        return Manifest((), _digest(())), tuple(problems)
    cases: list[Case] = []
    rows: list[dict[str, str]] = []
    for row, own in table.rows:
        merged = own | dict(cells or {})
        case, row_problems = read_row(row, merged, folder=path.parent)
        problems += row_problems
        if not row_problems:
            cases.append(case)
            rows.append(merged)
    problems += _duplicates(cases)
    return Manifest(tuple(cases), _digest(rows)), tuple(sorted(problems, key=lambda problem: problem.row or 0))


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write cases as CSV, TSV or Parquet, by the suffix.

    Paths inside the folder of the manifest are written relative to it, so that both can be moved together. All other
    paths are absolute.

    Raises:
        ManifestError: The suffix is none of these.
    """
    rows = [write_row(case, folder=path.parent) for case in cases]
    used = {column for cells in rows for column in cells}
    columns = [column for column in COLUMNS if column in used or column in _REQUIRED]
    write_table(path, columns + sorted(used - set(COLUMNS)), rows)


def _table_problems(table: Table) -> list[Problem]:
    missing = [column for column in _REQUIRED if column not in table.columns]
    if missing:
        return [
            Problem(
                None, name, ErrorCode.MANIFEST_COLUMN, "There is no such column.", _column_hint(name, table.columns)
            )
            for name in missing
        ]
    if not table.rows:
        return [Problem(None, None, ErrorCode.MANIFEST_EMPTY, "The manifest has no rows.", "Add one row per subject.")]
    return []


def _column_hint(missing: str, columns: Iterable[str]) -> str:
    by_lower_name = {column.lower().replace(" ", "_"): column for column in columns}
    similar = difflib.get_close_matches(missing, by_lower_name, n=1, cutoff=0.6)
    if similar:
        return f"Rename '{by_lower_name[similar[0]]}' to '{missing}'."
    return f"Add it, or check that commas separate the columns; found: {', '.join(sorted(columns)) or 'none'}."


def _duplicates(cases: Sequence[Case]) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for case in cases:
        # File systems that ignore case would give both the same folder.
        row = first.setdefault(case.case_id.lower(), case.row)
        if row != case.row:
            message = f"Row {row} has the same subject and visit."
            hint = "Give each row its own subject_id, or distinguish visits in the column 'session'."
            problems.append(Problem(case.row, "subject_id", ErrorCode.MANIFEST_ROW, message, hint))
    return problems


def _digest(rows: Iterable[Mapping[str, str]]) -> str:
    canonical = sorted(json.dumps(cells, sort_keys=True, ensure_ascii=True) for cells in rows)
    return hashlib.sha256("\n".join(canonical).encode()).hexdigest()
