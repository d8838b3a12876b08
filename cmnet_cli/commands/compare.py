"""The command compare: agreement of the indices of a run with another table, such as UK Biobank's derived fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.table import Table, read_table
from cmnet_cli.cohort.ukb_fields import parse_ukb_column
from cmnet_cli.console import Messages
from cmnet_cli.evaluation.page import AGREEMENT_HEAD, agreement_cells, escape_markdown, markdown_line
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import open_run
from cmnet_cli.runs.verdicts import excluded, read_verdicts, store_verdicts
from cmnet_cli.seals import recording
from cmnet_cli.tables.schema import TABLES, has_this_schema, read_rows, require_whole_tables, to_json, write_table
from cmnet_core.errors import ErrorCode, ManifestError, did_you_mean
from cmnet_core.geometry.lv_coordinates import SEGMENTS
from cmnet_core.io.atomic import write_text
from cmnet_core.stats.agreement import agreement, within_subject

Row = dict[str, Any]

_HEAD = ("quantity", "reference column", *AGREEMENT_HEAD)


@dataclass(frozen=True, slots=True)
class _Match:
    """A column of the other table, and the index that it is compared with.

    Attributes:
        column: The column of the other table.
        index: The column of the table indices, or of the table segments with the number of the segment, ``_aha1`` to
            ``_aha16``.
        session: The visit that the column belongs to; None for all visits.
    """

    column: str
    index: str
    session: str | None


def compare(
    run: Path, against: Path, messages: Messages, *, on: str, as_json: bool, verdicts: Path | None = None
) -> list[Row]:
    """Compare the indices of a run with another table, and print and store the agreement.

    Args:
        run: A run folder with the table indices.
        against: A CSV, TSV or Parquet file with one row per subject, or per subject and visit where it has a column
            ``session``.
        messages: Where to print.
        on: The column of the other table that holds ``subject_id``.
        as_json: Print JSON only.
        verdicts: Verdicts of readers to keep in the run; None for those that it has.

    Returns:
        The rows of the table comparison.

    Raises:
        ManifestError: There are no indices, the verdicts cannot be used, or the other table has no subject or no
            column in common with the indices.
    """
    opened = open_run(run)
    folder = opened.folder
    readings = read_verdicts(folder, opened.order, verdicts)
    left_out = excluded(readings)
    estimates = [row for row in _read_indices(folder) if row["case_id"] not in set(left_out)]
    table = _read_outside(against, on)
    matches = _match_columns(table.columns, on=on, path=against)
    references = _rows_by_subject(table, on, against)
    rows = [_compare_column(match, estimates, references) for match in matches]
    if not {row["subject_id"] for row in estimates} & {subject for subject, _ in references}:
        raise _unusable(
            f"{against}: none of its ids in '{on}' is a subject_id of the run",
            "Name the column of ids with --on. Ids are compared as text: 0012 is not 12.",
        )
    if verdicts is not None:
        store_verdicts(folder, readings)
    write_table(folder.table("comparison"), "comparison", rows)
    unmatched = _unmatched_lines(estimates, references)
    named = [f"{len(left_out)} excluded by their verdict: {', '.join(left_out)}"] if left_out else []
    with recording(folder.comparison_page.parent, [folder.comparison_page.name]):
        write_text(folder.comparison_page, "\n".join(_page(against, rows, [*unmatched, *named])) + "\n")
    if as_json:
        messages.result(to_json(rows))
    else:
        messages.table(f"Run - {against.name}", _HEAD, [_cells(row) for row in rows])
        for line in [
            *unmatched,
            *(f"{len(left_out)} excluded: {folder.comparison_page.name} names them" for _ in named),
        ]:
            messages.result(line)
        messages.result(f"Stored in {folder.table('comparison')} and {folder.comparison_page}")
    return rows


def _read_indices(folder: RunFolder) -> list[Row]:
    require_whole_tables(folder, ("indices", "segments"))
    path = folder.table("indices")
    if not path.exists() or not has_this_schema(path):
        raise ManifestError(
            f"{folder.root} has no table of indices, or one that another version of cmnet wrote.",
            hint="Run cmnet indices first.",
            code=ErrorCode.RUN,
        )
    rows = {row["case_id"]: row for row in read_rows(path)}
    segments = folder.table("segments")
    for row in read_rows(segments) if segments.exists() and has_this_schema(segments) else ():
        if row["case_id"] in rows:
            rows[row["case_id"]] |= {_of_segment(name, row["segment"]): row[name] for name in _segment_columns()}
    return list(rows.values())


def _segment_columns() -> list[str]:
    return [column.name for column in TABLES["segments"] if column.kind == "number"]


def _of_segment(name: str, segment: int) -> str:
    return f"{name}_aha{segment}"


def comparable_columns() -> dict[str, str]:
    """Return every column that can be compared, with the UK Biobank field of the same quantity or an empty text.

    The fields of the 16 segments of a quantity have consecutive numbers, of which the table names the range.
    """
    columns = {column.name: column.ukb_field for column in TABLES["indices"] if column.kind == "number"}
    fields = {column.name: column.ukb_field.partition("-")[0] for column in TABLES["segments"]}
    for name in _segment_columns():
        for segment in range(1, SEGMENTS + 1):
            columns[_of_segment(name, segment)] = str(int(fields[name]) + segment - 1) if fields[name] else ""
    return columns


def _read_outside(path: Path, on: str) -> Table:
    """Read the other table and check that it has rows and the column of ids."""
    table = read_table(path, code=ErrorCode.OUTSIDE_TABLE)
    if on not in table.columns:
        names = ", ".join(table.columns[:8])
        raise _unusable(
            f"{path} has no column '{on}'; it has {names}",
            f"{did_you_mean(on, table.columns)}Name the column of ids with --on.",
        )
    if not table.rows:
        raise _unusable(f"{path} has no rows", "Give a table with one row per subject.")
    return table


def _unusable(message: str, hint: str) -> ManifestError:
    return ManifestError(f"{message}.", hint=hint, code=ErrorCode.OUTSIDE_TABLE)


def _match_columns(names: Sequence[str], *, on: str, path: Path) -> list[_Match]:
    """Match the columns of the other table that name an index, or the UK Biobank field of one."""
    indices = comparable_columns()
    of_field = {field: name for name, field in indices.items() if field}
    matches = []
    for name in names:
        parsed = parse_ukb_column(name)
        if name in indices and name != on:
            matches.append(_Match(name, name, None))
        elif parsed and parsed.field in of_field:
            matches.append(_Match(name, of_field[parsed.field], parsed.instance))
    if not matches:
        raise _unusable(
            f"{path} has no column that can be compared",
            "Name columns as in the table indices (lvef_pct) or as in UK Biobank (p24103_i2, 24103-2.0).",
        )
    return matches


_Key = tuple[str, str | None]


def _rows_by_subject(table: Table, on: str, path: Path) -> dict[_Key, Mapping[str, str]]:
    """Return rows by subject and, where the table has a column ``session``, by visit."""
    rows: dict[_Key, Mapping[str, str]] = {}
    for _, cells in table.rows:
        key = (cells.get(on, "").removeprefix("sub-"), cells.get("session"))
        if key in rows:
            raise _unusable(
                f"{path} has two rows for one subject and visit",
                "Keep one of them; the column session distinguishes visits.",
            )
        rows[key] = cells
    return rows


def _compare_column(match: _Match, rows: Sequence[Row], others: Mapping[_Key, Mapping[str, str]]) -> Row:
    estimates, references, subjects = [], [], []
    for row in rows:
        # The instance in the name of a column is a visit. The subjects of a run without visits match any instance.
        if match.session is not None and row["session"] not in (None, match.session):
            continue
        other = others.get((row["subject_id"], row["session"])) or others.get((row["subject_id"], None))
        if other is not None:
            estimates.append(row.get(match.index))
            references.append(_number(other.get(match.column, "")))
            subjects.append(row["subject_id"])
    found = agreement(estimates, references)
    unreadable = sum(match.column in cells and _number(cells[match.column]) is None for cells in others.values())
    columns = {"index": match.index, "reference_column": match.column, "unreadable": unreadable}
    return {**columns, **asdict(found), **asdict(within_subject(estimates, subjects))}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _unmatched_lines(rows: Sequence[Row], others: Mapping[_Key, Mapping[str, str]]) -> list[str]:
    """Return how many rows of either table have no counterpart; their ids are not printed."""
    other_subjects, subjects = {subject for subject, _ in others}, {row["subject_id"] for row in rows}
    unmatched = [number for number, row in enumerate(rows, start=1) if row["subject_id"] not in other_subjects]
    lines = [
        f"{len(subjects & other_subjects)} subjects in both; {len(unmatched)} rows of the run without a counterpart, "
        f"{len(other_subjects - subjects)} of the other table"
    ]
    if unmatched:
        lines.append(f"The first of the run without one is row {unmatched[0]} of its indices")
    return lines


def _cells(row: Row) -> list[str]:
    index, *agreement_of_index = agreement_cells(row)
    return [index, row["reference_column"], *agreement_of_index]


def _page(path: Path, rows: Sequence[Row], unmatched: Sequence[str]) -> Iterator[str]:
    yield from (f"# Run compared with {escape_markdown(path.name)}", "", *unmatched, "")
    yield from (markdown_line(_HEAD), markdown_line(["---"] * len(_HEAD)))
    yield from (markdown_line(_cells(row)) for row in rows)
    yield ""
    yield "Bias is run - other table, with its 95 % interval. Limits of agreement: Bland and Altman 1986. ICC(2,1):"
    yield "Shrout and Fleiss 1979. CCC: Lin 1989. Slope: of the difference on the mean of both values, with its p. CV:"
    yield "within subjects of the run with several visits."
