"""Sex, age, height and weight from another table, joined to the cases of a data set by their ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem, read_row, write_row
from cmnet_cli.cohort.manifest import Table, read_table
from cmnet_core.errors import ErrorCode, ManifestError

_ID_COLUMNS = ("subject_id", "eid", "f.eid", "External code", "participant_id")
_COLUMNS = ("sex", "age_years", "height_cm", "weight_kg", "heart_rate_bpm", "group", "site", "scanner")
# Fields of UK Biobank; see https://biobank.ndph.ox.ac.uk/showcase.
_FIELDS = {"31": "sex", "21003": "age_years", "50": "height_cm", "21002": "weight_kg"}
_FIELD = re.compile(r"(?:p(\d+)(?:_i(\d))?(?:_a\d)?|f?\.?(\d+)[-.](\d)[.]\d)")
_AT_ONE_TIME = "31"  # asked once, whatever the visit
_SEX_CODES = {"0": "female", "1": "male"}  # UK Biobank's coding 9


def join_demographics(cases: Sequence[Case], path: Path) -> tuple[Case, ...]:
    """Give each case what a table says of its subject at its visit.

    Columns are named as in a manifest, or by UK Biobank's fields in any of its styles: ``p21003_i2``,
    ``21003-2.0``, ``f.21003.2.0``. A case whose subject is not in the table stays as it is.

    Raises:
        ManifestError: The table cannot be read, has no column of ids, no subject of the data set, or cells that
            cannot be used; all are listed.
    """
    table = read_table(path)
    rows = _rows_by_id(table, path)
    joined: list[Case] = []
    problems: list[Problem] = []
    for case in cases:
        number, cells = rows.get(case.subject_id, (case.row, {}))
        told = _cells_of(cells, session=case.session)
        found, wrong = read_row(number, write_row(case, folder=path.parent) | told, folder=path.parent)
        joined.append(replace(found, row=case.row))
        problems += wrong
    _require_use(path, problems, matched=sum(case.subject_id in rows for case in cases))
    return tuple(joined)


def _require_use(path: Path, problems: Sequence[Problem], *, matched: int) -> None:
    if problems:
        raise ManifestError(
            f"{path}: {len(problems)} cell(s) cannot be used.\n" + "\n".join(f"  {p}" for p in problems) + "\n",
            hint="Correct them or leave them empty.",
            code=ErrorCode.MANIFEST_ROW,
        )
    if not matched:
        raise ManifestError(
            f"{path}: no subject of the data set has a row in this table.",
            hint="Check that both name their subjects alike.",
            code=ErrorCode.MANIFEST_EMPTY,
        )


def _rows_by_id(table: Table, path: Path) -> dict[str, tuple[int, dict[str, str]]]:
    column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    if column is None:
        raise ManifestError(
            f"{path}: expected a column of ids, found {', '.join(table.columns[:8]) or 'no columns'}.",
            hint=f"Name it {' or '.join(_ID_COLUMNS[:3])}.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    return {cells[column]: (number, cells) for number, cells in table.rows if column in cells}


def _cells_of(cells: Mapping[str, str], *, session: str | None) -> dict[str, str]:
    """The cells of a manifest's row, from those of the table."""
    told = {column: cells[column] for column in _COLUMNS if column in cells}
    for column, text in cells.items():
        field, instance = _field_of(column)
        if field in _FIELDS and (field == _AT_ONE_TIME or instance == (session or "2")):
            told[_FIELDS[field]] = _SEX_CODES.get(text, text) if field == _AT_ONE_TIME else text
    return told


def _field_of(column: str) -> tuple[str | None, str | None]:
    match = _FIELD.fullmatch(column)
    return (match[1] or match[3], match[2] or match[4]) if match else (None, None)
