"""Sex, age, height and weight from a separate table, joined to the cases of a data set by their ids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem, raise_problems, read_row, write_row
from cmnet_cli.cohort.table import Table, read_table
from cmnet_cli.cohort.ukb_fields import parse_ukb_column
from cmnet_core.errors import ErrorCode, ManifestError

_ID_COLUMNS = ("subject_id", "eid", "f.eid", "External code", "participant_id")
_COLUMNS = ("sex", "age_years", "height_cm", "weight_kg", "heart_rate_bpm", "group", "site", "scanner")
# Data fields of UK Biobank; see https://biobank.ndph.ox.ac.uk/showcase.
_UKB_FIELDS = {"31": "sex", "21003": "age_years", "50": "height_cm", "21002": "weight_kg"}
_UKB_SEX = "31"  # the same at every visit
_UKB_SEX_CODES = {"0": "female", "1": "male"}  # coding 9 of UK Biobank


def join_demographics(cases: Sequence[Case], path: Path) -> tuple[Case, ...]:
    """Add the demographics of a table to the cases whose subjects it lists.

    Columns are named as in a manifest, or as UK Biobank's data fields in any of its styles: ``p21003_i2``,
    ``21003-2.0``, ``f.21003.2.0``. Cases of subjects without a row in the table are unchanged.

    Raises:
        ManifestError: The table cannot be read, has no column of ids, lists no subject of the data set, or has cells
            that cannot be used; all of these are listed.
    """
    table = read_table(path)
    rows = _rows_by_id(table, path)
    joined: list[Case] = []
    problems: list[Problem] = []
    for case in cases:
        number, cells = rows.get(case.subject_id, (case.row, {}))
        merged = write_row(case, folder=path.parent) | _manifest_cells(cells, session=case.session)
        found, row_problems = read_row(number, merged, folder=path.parent)
        joined.append(replace(found, row=case.row))
        problems += row_problems
    raise_problems(path, problems, hint="Correct these cells or leave them empty.", code=ErrorCode.MANIFEST_ROW)
    if not any(case.subject_id in rows for case in cases):
        raise ManifestError(
            f"{path}: no subject of the data set has a row in this table.",
            hint="Check that the ids of both are the same text.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return tuple(joined)


def _rows_by_id(table: Table, path: Path) -> dict[str, tuple[int, dict[str, str]]]:
    column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    if column is None:
        raise ManifestError(
            f"{path}: expected a column of ids, found {', '.join(table.columns[:8]) or 'no columns'}.",
            hint=f"Name it {' or '.join(_ID_COLUMNS[:3])}.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    return {cells[column]: (number, cells) for number, cells in table.rows if column in cells}


def _manifest_cells(cells: Mapping[str, str], *, session: str | None) -> dict[str, str]:
    """Return the cells of a row of the manifest, from those of a row of the table."""
    known = {column: cells[column] for column in _COLUMNS if column in cells}
    for column, text in cells.items():
        parsed = parse_ukb_column(column)
        if parsed is None or parsed.field not in _UKB_FIELDS:
            continue
        if parsed.field == _UKB_SEX:
            known["sex"] = _UKB_SEX_CODES.get(text, text)
        elif parsed.instance == (session or "2"):
            known[_UKB_FIELDS[parsed.field]] = text
    return known
