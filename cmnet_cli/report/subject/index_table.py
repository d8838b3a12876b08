"""The table of a subject's indices: value, 95 % interval, reference range, and values outside that range."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.formatting import Quantity, format_number, table_quantities
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import read_record
from cmnet_cli.tables.columns.column import LOWER, UPPER
from cmnet_cli.tables.columns.mechanics import LAYERS, LEVELS, MECHANICS
from cmnet_core.errors import ManifestError
from cmnet_core.function.reference_ranges import (
    RANGE_Z,
    SHIPPED,
    Z_COLUMNS,
    ReferenceRange,
    choose_range,
    read_reference,
)

_FUNCTION, _STRAIN = "Volumes, mass and function", "Strain of the left ventricle (engineering)"
_WALL_GROUPS = {
    "^ukb_": "Strain as the UK Biobank defines it",
    f"_green_({'|'.join(LAYERS)})_peak|_wall_({'|'.join(LEVELS)})_peak": "Strain by layer and level",
    "_green_": "Green-Lagrange strain",
    "rotation|twist|torsion": "Rotation and twist",
    "^wall_": "Wall thickness",
}
_WALL_COLUMNS = {column.name for column in MECHANICS}
_DECIMALS = {"m²": 2, "L/min": 2, "1/s": 2, "ms": 0, "mL/s": 0, "1/min": 0}

# Columns that describe the person or the recording.
_NOT_INDICES = ("height_cm", "weight_kg", "frame_ms")


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One index; every value is text.

    Attributes:
        name: Meaning of the index.
        value: Its value.
        unit: Its unit.
        interval: 95 % interval; empty where there is none.
        reference: Reference range of healthy people of the same sex; empty where there is none.
        outside: ``above`` or ``below`` that range, or empty.
    """

    name: str
    value: str
    unit: str
    interval: str
    reference: str
    outside: str


def read_ranges(folder: RunFolder) -> tuple[ReferenceRange, ...]:
    """Read the reference ranges that the indices were compared with; none where they cannot be read."""
    record = read_record(folder)
    if not record:
        return ()
    settings = record.get("commands", {}).get("indices", {}).get("settings", {})
    try:
        return read_reference(Path(settings["reference"]) if settings.get("reference") else SHIPPED)
    except ManifestError:
        return ()


def index_table_rows(row: Row, ranges: tuple[ReferenceRange, ...]) -> dict[str, list[IndexRow]]:
    """Return every index that a subject has, grouped by subject matter, in the order of the table.

    Args:
        row: The subject's row of the indices.
        ranges: The reference ranges.
    """
    groups: dict[str, list[IndexRow]] = {name: [] for name in (_FUNCTION, _STRAIN, *_WALL_GROUPS.values())}
    for column, index in _index_rows(row, ranges):
        groups[_group_of(column)].append(index)
    return {name: rows for name, rows in groups.items() if rows}


def _group_of(column: str) -> str:
    if column not in _WALL_COLUMNS or column.startswith(("lv_", "rv_")):
        return _FUNCTION
    return next((name for pattern, name in _WALL_GROUPS.items() if re.search(pattern, column)), _STRAIN)


def _index_rows(row: Row, ranges: tuple[ReferenceRange, ...]) -> Iterator[tuple[str, IndexRow]]:
    for quantity in table_quantities("indices"):
        value = row.get(quantity.column)
        if value is None or quantity.column in (*_NOT_INDICES, *Z_COLUMNS.values()):
            continue
        decimals = _DECIMALS.get(quantity.unit, 1)
        index = IndexRow(
            quantity.meaning,
            format_number(value, decimals=decimals),
            quantity.unit,
            format_interval(row, quantity.column, decimals=decimals),
            _reference(row, quantity, ranges, decimals=decimals),
            _outside(row, quantity.column),
        )
        yield quantity.column, index


def format_interval(row: Row, column: str, *, decimals: int) -> str:
    """Format the 95 % interval of a quantity; empty where there is none."""
    return _limits(row.get(column + LOWER), row.get(column + UPPER), decimals=decimals)


def _limits(low: float | None, high: float | None, *, decimals: int) -> str:
    if low is None or high is None:
        return ""
    return f"{format_number(low, decimals=decimals)} to {format_number(high, decimals=decimals)}"


def _reference(row: Row, quantity: Quantity, ranges: tuple[ReferenceRange, ...], *, decimals: int) -> str:
    # Without a z-score the value was not compared with a range.
    if row.get(Z_COLUMNS.get(quantity.column, "")) is None:
        return ""
    chosen = choose_range(ranges, quantity.column, sex=row["sex"], age_years=row["age_years"])
    if chosen is None:
        return ""
    return _limits(*chosen.limits, decimals=decimals)


def _outside(row: Row, column: str) -> str:
    z = row.get(Z_COLUMNS.get(column, ""))
    if z is None or abs(z) <= RANGE_Z:
        return ""
    return "above" if z > 0 else "below"


def reference_source(row: Row, ranges: tuple[ReferenceRange, ...]) -> str:
    """Return name and source of the reference ranges that were applied to a subject; empty where there were none."""
    applied = [
        choose_range(ranges, quantity, sex=row["sex"], age_years=row["age_years"])
        for quantity, column in Z_COLUMNS.items()
        if row.get(column) is not None
    ]
    sources: dict[str, list[str]] = {}
    for reference in filter(None, applied):
        sources.setdefault(reference.table, []).append(reference.source)
    return "; ".join(f"{table}: {'; '.join(filter(None, dict.fromkeys(listed)))}" for table, listed in sources.items())
