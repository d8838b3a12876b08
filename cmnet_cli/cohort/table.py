"""Tables of subjects as text: CSV, TSV and Parquet, from data sets, hospitals and UK Biobank alike."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cmnet_cli.cohort.csv_safety import guard, unguard
from cmnet_cli.seals import write_sealed_parquet
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import replacing

FIRST_ROW = 2
"""Number of the first row of a table: spreadsheets count the header as row 1."""

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_MISSING = frozenset({"NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "NULL", "null"})
"""Cells that R, pandas, BIDS and databases write for a missing value."""
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, csv.Error, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        columns: Names of the columns.
        rows: Number and cells by column of each row that is not empty; empty cells and missing values such as ``NA``
            are left out.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]


def read_table(path: Path, *, code: ErrorCode = ErrorCode.MANIFEST_UNREADABLE) -> Table:
    """Read a table with all cells as text, so that no id loses a leading zero.

    Args:
        path: A CSV, TSV or Parquet file, by its suffix.
        code: The code of the error.

    Raises:
        ManifestError: The file is none of these, it cannot be read, or two columns have the same name.
    """
    _require_known_suffix(path, code)
    try:
        if path.suffix.lower() in _PARQUET:
            table = _read_parquet(path)
            header = [str(column) for column in table.columns]
        else:
            table, header = _read_text(path), _read_header(path)
    except _READ_ERRORS as error:
        # The message of an OSError repeats the path.
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ManifestError(
            f"{path} cannot be read as a table: {reason}.",
            hint="Check the path; save the table as CSV in UTF-8 with one header row.",
            code=code,
        ) from error
    _require_distinct(path, header, code)
    columns = tuple(unguard(str(column).strip()) for column in table.columns)
    rows = []
    for number, values in enumerate(table.itertuples(index=False, name=None), start=FIRST_ROW):
        texts = (unguard(str(value).strip()) for value in values)
        cells = {c: text for c, text in zip(columns, texts, strict=True) if not is_missing(text)}
        if cells:
            rows.append((number, cells))
    return Table(columns, rows)


def is_missing(text: str) -> bool:
    """Whether the text of a cell stands for a missing value: empty, or ``NA`` and its like."""
    return not text or text in _MISSING


def write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write rows of text as CSV, TSV or Parquet, by the suffix; missing cells become empty.

    Raises:
        ManifestError: The suffix is none of these.
    """
    _require_known_suffix(path, ErrorCode.MANIFEST_UNREADABLE)
    table = pd.DataFrame(rows, columns=list(columns), dtype=str).fillna("")
    if path.suffix.lower() in _PARQUET:
        write_sealed_parquet(path, pa.Table.from_pandas(table, preserve_index=False))
        return
    with replacing(path) as temporary:
        guarded = table.rename(columns=guard).map(guard)
        guarded.to_csv(temporary, sep=_SEPARATORS[path.suffix.lower()], index=False)


def _read_text(path: Path) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep=_SEPARATORS[path.suffix.lower()],
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,  # so that row numbers are those of an editor
        encoding="utf-8-sig",
    )


def _read_header(path: Path) -> list[str]:
    """The names of the columns as they are written; pandas renames the second of two equal ones."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file, delimiter=_SEPARATORS[path.suffix.lower()]), [])


def _require_distinct(path: Path, header: Sequence[str], code: ErrorCode) -> None:
    counts = Counter(unguard(name.strip()) for name in header)
    repeated = sorted(name for name, count in counts.items() if name and count > 1)
    if repeated:
        raise ManifestError(
            f"{path}: expected one column of each name, found two of '{repeated[0]}'.",
            hint="Remove or rename one of them.",
            code=ErrorCode.MANIFEST_COLUMN if code is ErrorCode.MANIFEST_UNREADABLE else code,
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    # The metadata that pandas stores beside the columns can be damaged and is not needed.
    table: pd.DataFrame = pq.read_table(path).to_pandas(ignore_metadata=True)
    return table.astype(object).where(table.notna(), "").astype(str)


def _require_known_suffix(path: Path, code: ErrorCode) -> None:
    if path.suffix.lower() not in (*_SEPARATORS, *_PARQUET):
        raise ManifestError(
            f"{path}: expected a .csv, .tsv or .parquet file, found '{path.suffix}'.",
            hint="Save the table as CSV.",
            code=code,
        )
