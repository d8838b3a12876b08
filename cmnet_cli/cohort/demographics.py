"""Sex, age, height and weight from a separate table, joined to the cases of a data set by their ids."""

import re
from collections.abc import Mapping
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.case_id import without_prefix
from cmnet_cli.cohort.listing import LeftOut, Listing, checked, listing_of
from cmnet_cli.cohort.table import Table, read_table
from cmnet_cli.cohort.ukb_fields import parse_ukb_column
from cmnet_core.errors import ErrorCode, ManifestError

_ID_COLUMNS = ("subject_id", "eid", "f.eid", "External code", "participant_id")
_COLUMNS = ("sex", "age_years", "height_cm", "weight_kg", "heart_rate_bpm", "group", "site", "scanner")
# Data fields of UK Biobank; see https://biobank.ndph.ox.ac.uk/showcase.
_UKB_FIELDS = {"31": "sex", "21003": "age_years", "50": "height_cm", "21002": "weight_kg"}
_UKB_SEX = "31"  # the same at every visit
_UKB_SEX_CODES = {"0": "female", "1": "male"}  # coding 9 of UK Biobank
# Codings 100291 and 100349 of UK Biobank.
_UKB_NOT_ANSWERED = frozenset({"-1", "-3", "Do not know", "Prefer not to answer"})
_NUMBER_AS_ID = re.compile(r"\d+\.0*|\d\.?\d*[eE]\+?\d+")


def join_demographics(listing: Listing, path: Path) -> tuple[Listing, int]:
    """Add the demographics of a table to the cases whose subjects it lists.

    Columns are named as in a manifest, or as UK Biobank's data fields in any of its styles: ``p21003_i2``,
    ``21003-2.0``, ``f.21003.2.0``. Cases of subjects without a row in the table are unchanged; a case whose row has a
    cell that cannot be used is left out.

    Returns:
        The cases with their demographics, and the number of cases without a row in the table.

    Raises:
        ManifestError: The table cannot be read, has no column of ids, or lists no subject of the data set.
    """
    rows = _rows_by_id(read_table(path), path)
    if listing.cases and not any(case.subject_id in rows for case in listing.cases):
        numbers = any(_NUMBER_AS_ID.fullmatch(name) for name in rows)
        raise ManifestError(
            f"{path}: no subject of the data set has a row in this table.",
            hint="A table program made numbers of the ids: store their column as text."
            if numbers
            else "Check that the ids of both are the same text.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    joined: list[Case | LeftOut] = []
    for case in listing.cases:
        number, cells = rows.get(case.subject_id, (0, {}))
        source = f"row {number} of {path.name}, "
        joined.append(checked(case, _manifest_cells(cells, session=case.session), path=case.image[0], source=source))
    missing = sum(case.subject_id not in rows for case in listing.cases)
    return listing_of(joined, more=listing.left_out), missing


def _rows_by_id(table: Table, path: Path) -> dict[str, tuple[int, dict[str, str]]]:
    column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    if column is None:
        raise ManifestError(
            f"{path}: expected a column of ids, found {', '.join(table.columns[:8]) or 'no columns'}.",
            hint="Check that commas separate the columns."
            if len(table.columns) == 1
            else f"Name it {' or '.join(_ID_COLUMNS[:3])}.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    return {without_prefix(cells[column], "sub-"): (row, cells) for row, cells in table.rows if column in cells}


def _manifest_cells(cells: Mapping[str, str], *, session: str | None) -> dict[str, str]:
    """Return the cells of a row of the manifest, from those of a row of the table."""
    known = {column: cells[column] for column in _COLUMNS if column in cells}
    for column, text in cells.items():
        parsed = parse_ukb_column(column)
        if parsed is None or parsed.field not in _UKB_FIELDS or text in _UKB_NOT_ANSWERED:
            continue
        if parsed.field == _UKB_SEX:
            known["sex"] = _UKB_SEX_CODES.get(text, text)
        elif parsed.instance == (session or "2"):
            known[_UKB_FIELDS[parsed.field]] = text
    return known
