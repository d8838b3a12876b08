"""The table of a subject's indices: value, interval, reference range, and which side of it the value is on."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.formatting import Quantity, quantities, shown
from cmnet_cli.runs.paths import RunFolder
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

_FUNCTION, _STRAIN = "Volumes, mass and function", "Strain of the left ventricle"
_ABOUT = {
    f"_({'|'.join((*LAYERS, *LEVELS))})_peak": "Strain by layer and level",
    "rotation|twist|torsion": "Rotation and twist",
    "^wall_": "Thickness of the wall",
}
_OF_THE_WALL = {column.name for column in MECHANICS}
_DECIMALS = {"m²": 2, "L/min": 2, "1/s": 2, "ms": 0, "mL/s": 0, "1/min": 0}

_OF_THE_BODY = ("height_cm", "weight_kg", "frame_ms")


@dataclass(frozen=True, slots=True)
class Line:
    """One index.

    Attributes:
        name: What it is.
        value: As a number in words.
        unit: Of it.
        interval: 95 %; empty where there is none.
        reference: The range of healthy people of that sex; empty where none is known.
        verdict: ``above`` or ``below`` that range, or empty.
    """

    name: str
    value: str
    unit: str
    interval: str
    reference: str
    verdict: str


def read_ranges(folder: RunFolder) -> tuple[ReferenceRange, ...]:
    """The reference ranges that the indices were compared with; none where their table is gone."""
    if not folder.record.exists():
        return ()
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    settings = record.get("commands", {}).get("indices", {}).get("settings", {})
    try:
        return read_reference(Path(settings["reference"]) if settings.get("reference") else SHIPPED)
    except ManifestError:
        return ()


def index_lines(row: Row, ranges: tuple[ReferenceRange, ...]) -> dict[str, list[Line]]:
    """Every index that a subject has, in the order of the table, by what it is about.

    Args:
        row: Of the indices.
        ranges: The reference.
    """
    about: dict[str, list[Line]] = {name: [] for name in (_FUNCTION, _STRAIN, *_ABOUT.values())}
    for column, line in _lines(row, ranges):
        about[_about(column)].append(line)
    return {name: lines for name, lines in about.items() if lines}


def _about(column: str) -> str:
    if column not in _OF_THE_WALL or column.endswith("_ml_s"):
        return _FUNCTION
    return next((name for pattern, name in _ABOUT.items() if re.search(pattern, column)), _STRAIN)


def _lines(row: Row, ranges: tuple[ReferenceRange, ...]) -> Iterator[tuple[str, Line]]:
    for quantity in quantities("indices"):
        value = row.get(quantity.column)
        if value is None or quantity.column in (*_OF_THE_BODY, *Z_COLUMNS.values()):
            continue
        line = Line(
            quantity.meaning,
            shown(value, decimals=_decimals(quantity)),
            quantity.unit,
            interval(row, quantity.column, decimals=_decimals(quantity)),
            _reference(row, quantity, ranges),
            _verdict(row, quantity.column),
        )
        yield quantity.column, line


def _decimals(quantity: Quantity) -> int:
    return _DECIMALS.get(quantity.unit, 1)


def interval(row: Row, column: str, *, decimals: int) -> str:
    """The 95 % interval of a quantity in words; empty where there is none."""
    low, high = row.get(column + LOWER), row.get(column + UPPER)
    return "" if low is None or high is None else f"{shown(low, decimals=decimals)} to {shown(high, decimals=decimals)}"


def _reference(row: Row, quantity: Quantity, ranges: tuple[ReferenceRange, ...]) -> str:
    # Without a z-score the value was not compared, so that there is no range to show.
    if row.get(Z_COLUMNS.get(quantity.column, "")) is None:
        return ""
    chosen = choose_range(ranges, quantity.column, sex=row["sex"], age_years=row["age_years"])
    if chosen is None:
        return ""
    reach = RANGE_Z * chosen.sd
    decimals = _decimals(quantity)
    return f"{shown(chosen.mean - reach, decimals=decimals)} to {shown(chosen.mean + reach, decimals=decimals)}"


def _verdict(row: Row, column: str) -> str:
    z = row.get(Z_COLUMNS.get(column, ""))
    if z is None or abs(z) <= RANGE_Z:
        return ""
    return "above" if z > 0 else "below"


def reference_source(row: Row, ranges: tuple[ReferenceRange, ...]) -> str:
    """Name and source of the ranges that a subject was compared with; empty where it was compared with none."""
    told = [
        choose_range(ranges, quantity, sex=row["sex"], age_years=row["age_years"])
        for quantity, column in Z_COLUMNS.items()
        if row.get(column) is not None
    ]
    sources: dict[str, list[str]] = {}
    for used in filter(None, told):
        sources.setdefault(used.table, []).append(used.source)
    return "; ".join(f"{table}: {'; '.join(filter(None, dict.fromkeys(listed)))}" for table, listed in sources.items())
