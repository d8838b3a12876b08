"""The command compare: the indices of a run beside an outside table, such as UK Biobank's derived fields."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import open_run
from cmnet_cli.tables.schema import TABLES, has_this_schema, read_rows, to_json, write_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.geometry.lv_coordinates import SEGMENTS
from cmnet_core.io.atomic import write_text
from cmnet_core.stats.agreement import agreement

Row = dict[str, Any]

_READERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
# How UK Biobank's tools name a column: p24100_i2, p24100_i2_a0, 24100-2.0, f.24100.2.0; without an instance p24100.
_FIELD = re.compile(r"(?:p|f\.)?(?P<field>\d{3,6})(?:(?:_i|-|\.)(?P<instance>\d+)(?:(?:_a|\.)\d+)?)?")
_HEAD = ("quantity", "reference column", "n", "bias", "limits of agreement", "RMSE", "r")


@dataclass(frozen=True, slots=True)
class _Match:
    """A column of the outside table and the index that it is held against.

    Attributes:
        theirs: The outside column.
        ours: The column of the table indices; of the table segments with the segment's number, ``_aha1`` to ``_aha16``.
        session: The visit that the column belongs to; None for all visits.
    """

    theirs: str
    ours: str
    session: str | None


def compare(run: Path, against: Path, messages: Messages, *, on: str, as_json: bool) -> list[Row]:
    """Hold the indices of a run against an outside table, print and store the agreement.

    Args:
        run: A run folder with the table indices.
        against: CSV, TSV or Parquet with one row a subject, or a subject and visit where it has a column ``session``.
        messages: Where to print.
        on: The column of the outside table that holds ``subject_id``.
        as_json: Print JSON and nothing else.

    Returns:
        The rows of the table comparison.

    Raises:
        ManifestError: There are no indices, or nothing in the outside table fits them.
    """
    folder = open_run(run).folder
    ours = _read_indices(folder)
    theirs = _read_outside(against, on)
    matches = _match_columns(list(theirs.columns), on=on, against=against)
    outside = _by_subject(theirs, on, against)
    rows = [_compare_column(match, ours, outside) for match in matches]
    shared = {row["subject_id"] for row in ours} & {subject for subject, _ in outside}
    if not shared:
        raise _unusable(
            f"{against}: none of its ids in '{on}' is a subject_id of the run",
            "Name the column of ids with --on. Ids are compared as text: 0012 is not 12.",
        )
    write_table(folder.table("comparison"), "comparison", rows)
    missing = _tell_unmatched(ours, outside)
    write_text(folder.comparison_page, "\n".join(_page(against, rows, missing)) + "\n")
    if as_json:
        messages.result(to_json(rows))
    else:
        messages.table(f"Run - {against.name}", _HEAD, [_cells(row) for row in rows])
        for line in missing:
            messages.result(line)
        messages.result(f"Stored as {folder.table('comparison')} and {folder.comparison_page}")
    return rows


def _read_indices(folder: RunFolder) -> list[Row]:
    path = folder.table("indices")
    if not path.exists() or not has_this_schema(path):
        raise ManifestError(
            f"{folder.root} has no table of indices, or one of another version of cmnet.",
            hint="Run cmnet indices first.",
            code=ErrorCode.RUN,
        )
    rows = {row["case_id"]: row for row in read_rows(path)}
    segments = folder.table("segments")
    for row in read_rows(segments) if segments.exists() and has_this_schema(segments) else ():
        if row["case_id"] in rows:
            rows[row["case_id"]] |= {_of_segment(name, row["segment"]): row[name] for name in _segment_numbers()}
    return list(rows.values())


def _segment_numbers() -> list[str]:
    return [column.name for column in TABLES["segments"] if column.kind == "number"]


def _of_segment(name: str, segment: int) -> str:
    return f"{name}_aha{segment}"


def _our_columns() -> dict[str, str]:
    """Every column that can be compared, with the UK Biobank field that holds the same; a range holds 16 segments."""
    named = {column.name: column.ukb_field for column in TABLES["indices"] if column.kind == "number"}
    fields = {column.name: column.ukb_field.partition("-")[0] for column in TABLES["segments"]}
    for name in _segment_numbers():
        for segment in range(1, SEGMENTS + 1):
            named[_of_segment(name, segment)] = str(int(fields[name]) + segment - 1) if fields[name] else ""
    return named


def _read_outside(path: Path, on: str) -> pd.DataFrame:
    """The outside table, all of it as text, so that no id loses a zero."""
    suffix = path.suffix.lower()
    try:
        if suffix in _PARQUET:
            table = pd.read_parquet(path).astype("string").fillna("")
        else:
            separator = _READERS.get(suffix, ",")
            table = pd.read_csv(path, sep=separator, dtype="string", keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise _unusable(f"{path} cannot be read as a table: {error}", "Give a CSV, TSV or Parquet file.") from error
    if on not in table.columns:
        named = ", ".join(map(str, table.columns[:8]))
        raise _unusable(f"{path} has no column '{on}'; it has {named}", "Name the column of ids with --on.")
    if table.empty:
        raise _unusable(f"{path} has no rows", "Give a table with one row a subject.")
    return table


def _unusable(message: str, hint: str) -> ManifestError:
    return ManifestError(f"{message}.", hint=hint, code=ErrorCode.OUTSIDE_TABLE)


def _match_columns(names: Sequence[str], *, on: str, against: Path) -> list[_Match]:
    """Outside columns that name an index, or the UK Biobank field of one."""
    ours = _our_columns()
    of_field = {field: name for name, field in ours.items() if field}
    matches = []
    for name in names:
        found = _FIELD.fullmatch(name)
        if name in ours and name != on:
            matches.append(_Match(name, name, None))
        elif found and found["field"] in of_field:
            matches.append(_Match(name, of_field[found["field"]], found["instance"]))
    if not matches:
        raise _unusable(
            f"{against} has no column that can be compared",
            "Name columns as in the table indices (lvef_pct), or as UK Biobank does (p24103_i2, 24103-2.0).",
        )
    return matches


_Key = tuple[str, str | None]


def _by_subject(table: pd.DataFrame, on: str, against: Path) -> dict[_Key, Mapping[str, str]]:
    """Rows by subject and, where the table has a column session, by visit."""
    rows: dict[_Key, Mapping[str, str]] = {}
    for row in table.to_dict("records"):
        cells = {str(name): str(value).strip() for name, value in row.items()}
        key = (cells[on].removeprefix("sub-"), cells.get("session") or None)
        if key in rows:
            raise _unusable(
                f"{against} has two rows for one subject and visit",
                "Keep one row of each; the column session tells visits.",
            )
        rows[key] = cells
    return rows


def _compare_column(match: _Match, ours: Sequence[Row], outside: Mapping[_Key, Mapping[str, str]]) -> Row:
    estimates, references = [], []
    for row in ours:
        # An instance in the column's name is a visit; a run without visits has the one that the user gave it.
        if match.session is not None and row["session"] not in (None, match.session):
            continue
        theirs = outside.get((row["subject_id"], row["session"])) or outside.get((row["subject_id"], None))
        if theirs is not None:
            estimates.append(row.get(match.ours))
            references.append(_number(theirs[match.theirs]))
    found = agreement(estimates, references)
    unreadable = sum(_number(cells[match.theirs]) is None and bool(cells[match.theirs]) for cells in outside.values())
    return {"index": match.ours, "reference_column": match.theirs, "unreadable": unreadable, **asdict(found)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tell_unmatched(ours: Sequence[Row], outside: Mapping[_Key, Mapping[str, str]]) -> list[str]:
    """How many rows found no partner; whose they are stands in the tables, not on the screen."""
    theirs, own = {subject for subject, _ in outside}, {row["subject_id"] for row in ours}
    without = [row["case_id"] for row in ours if row["subject_id"] not in theirs]
    return [
        f"{len(own & theirs)} subjects in both; {len(without)} rows of the run without a partner, "
        f"{len(theirs - own)} of the outside table",
        *([f"The first of the run without one is row {_row_of(ours, without[0])} of its indices"] if without else []),
    ]


def _row_of(ours: Sequence[Row], case_id: str) -> int:
    return 1 + [row["case_id"] for row in ours].index(case_id)


def _cells(row: Row) -> list[str]:
    limits = "" if row["lower"] is None else f"{row['lower']:.2f} to {row['upper']:.2f}"
    shown = ["" if row[name] is None else f"{row[name]:.2f}" for name in ("bias", "rmse", "r")]
    return [row["index"], row["reference_column"], str(row["n"]), shown[0], limits, shown[1], shown[2]]


def _page(against: Path, rows: Sequence[Row], missing: Sequence[str]) -> Iterator[str]:
    yield from (f"# Run against {against.name}", "", *missing, "")
    yield from (f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}")
    yield from (f"| {' | '.join(_cells(row))} |" for row in rows)
    yield from ("", "Bias is run - outside table. Limits of agreement: Bland and Altman 1986.")
