"""The manifest: a table with one row a subject and visit, read into cases and written.

Reading checks the text of every cell and lists all problems at once. Whether files exist is asked later, by
``validate`` for the whole cohort and when a subject's turn comes, so that one missing file costs one subject.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cmnet_cli.cohort.case import COLUMNS, Case, Problem, read_row, write_row
from cmnet_cli.cohort.csv_safety import guard, unguard
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import replacing

__all__ = [
    "COLUMNS",
    "Case",
    "Manifest",
    "Problem",
    "check_manifest",
    "read_manifest",
    "write_manifest",
]

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_REQUIRED = ("subject_id", "image")
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, pa.ArrowException)
FIRST_ROW = 2
"""Number of the first subject's row: the header is row 1, as a spreadsheet counts."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The cases of a cohort, and a digest of what the table holds, whatever its format and column order."""

    cases: tuple[Case, ...]
    digest: str


def read_manifest(path: Path) -> Manifest:
    """Read a manifest (CSV, TSV or Parquet).

    Raises:
        ManifestError: With every problem of every row.
    """
    manifest, problems = check_manifest(path)
    if problems:
        raise ManifestError(
            f"{path}: {len(problems)} problem(s) in the manifest.\n" + "\n".join(f"  {p}" for p in problems) + "\n",
            hint="Correct them; nothing ran.",
            code=problems[0].code,
        )
    return manifest


def check_manifest(path: Path) -> tuple[Manifest, tuple[Problem, ...]]:
    """Read a manifest as far as it can be read.

    Returns:
        The rows that can be used, and every problem of the others.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    table = read_table(path)
    problems = _table_problems(table)
    if problems:
        return Manifest((), _digest(())), tuple(problems)
    cases: list[Case] = []
    texts: list[dict[str, str]] = []
    for row, cells in table.rows:
        case, found = read_row(row, cells, folder=path.parent)
        problems += found
        if not found:
            cases.append(case)
            texts.append(cells)
    problems += _duplicates(cases)
    return Manifest(tuple(cases), _digest(texts)), tuple(sorted(problems, key=lambda p: p.row or 0))


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write cases as CSV, TSV or Parquet, as the suffix says.

    Paths inside the manifest's folder are written relative to it, so that the two can be moved together; all others
    are absolute.

    Raises:
        ManifestError: The suffix is none of these.
    """
    _known_suffix(path)
    rows = [write_row(case, folder=path.parent) for case in cases]
    used = {column for cells in rows for column in cells}
    extra = sorted(used - set(COLUMNS))
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c in used or c in _REQUIRED] + extra, dtype=str).fillna(
        ""
    )
    with replacing(path) as temporary:
        if path.suffix in _PARQUET:
            table.to_parquet(temporary, index=False)
        else:
            guarded = table.rename(columns=guard).map(guard)
            guarded.to_csv(temporary, sep=_SEPARATORS[path.suffix], index=False)


@dataclass(frozen=True, slots=True)
class Table:
    """The columns, and the rows by number, each with its cells that are not empty."""

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]


def read_table(path: Path) -> Table:
    _known_suffix(path)
    try:
        table = _parquet_as_text(path) if path.suffix in _PARQUET else _text_table(path)
    except _UNREADABLE as error:
        # What the system says of a file names it once more.
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ManifestError(
            f"{path}: reading the manifest failed: {reason}.",
            hint="Check the path; save the table as CSV in UTF-8 with one header row.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        ) from error
    columns = tuple(unguard(str(column).strip()) for column in table.columns)
    rows = []
    for number, values in enumerate(table.itertuples(index=False, name=None), start=FIRST_ROW):
        cells = {c: text for c, value in zip(columns, values, strict=True) if (text := unguard(str(value).strip()))}
        if cells:
            rows.append((number, cells))
    return Table(columns, rows)


def _text_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep=_SEPARATORS[path.suffix],
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,  # blank lines count, or row numbers would not be those of the editor
        encoding="utf-8-sig",
    )


def _parquet_as_text(path: Path) -> pd.DataFrame:
    # What pandas may have noted beside the columns can be damaged, and is of no use here.
    table: pd.DataFrame = pq.read_table(path).to_pandas(ignore_metadata=True)
    return table.astype(object).where(table.notna(), "").astype(str)


def _known_suffix(path: Path) -> None:
    if path.suffix not in (*_SEPARATORS, *_PARQUET):
        raise ManifestError(
            f"{path}: a manifest is a .csv, .tsv or .parquet file, found '{path.suffix}'.",
            hint="Save the table as CSV.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )


def _table_problems(table: Table) -> list[Problem]:
    missing = [column for column in _REQUIRED if column not in table.columns]
    if missing:
        hints = [_rename_hint(name, table.columns) for name in missing]
        return [
            Problem(None, name, ErrorCode.MANIFEST_COLUMN, "There is no such column.", hint)
            for name, hint in zip(missing, hints, strict=True)
        ]
    if not table.rows:
        return [Problem(None, None, ErrorCode.MANIFEST_EMPTY, "The manifest has no rows.", "Add one row a subject.")]
    return []


def _rename_hint(missing: str, columns: Iterable[str]) -> str:
    by_lower = {column.lower().replace(" ", "_"): column for column in columns}
    alike = difflib.get_close_matches(missing, by_lower, n=1, cutoff=0.6)
    if alike:
        return f"Rename '{by_lower[alike[0]]}' to '{missing}'."
    return f"Add it, or check that commas separate the columns; found: {', '.join(sorted(columns)) or 'none'}."


def _duplicates(cases: Sequence[Case]) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for case in cases:
        # File systems that ignore case would give both the same folder.
        row = first.setdefault(case.case_id.lower(), case.row)
        if row != case.row:
            message = f"The same subject and visit stand in row {row} already."
            hint = "Give each row an id of its own, or tell visits apart in the column 'session'."
            problems.append(Problem(case.row, "subject_id", ErrorCode.MANIFEST_ROW, message, hint))
    return problems


def _digest(rows: Iterable[Mapping[str, str]]) -> str:
    canonical = sorted(json.dumps(cells, sort_keys=True, ensure_ascii=True) for cells in rows)
    return hashlib.sha256("\n".join(canonical).encode()).hexdigest()
