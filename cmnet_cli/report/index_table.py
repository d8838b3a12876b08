"""The table of a subject's indices: value, interval, reference range, and which side of it the value is on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.columns.column import LOWER, UPPER
from cmnet_cli.layout import RunFolder
from cmnet_cli.report.gather import Row
from cmnet_cli.report.words import Quantity, quantities, shown
from cmnet_core.errors import ManifestError
from cmnet_core.reference import RANGE_Z, SHIPPED, Z_COLUMNS, ReferenceRange, choose_range, read_reference

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


def index_lines(row: Row, ranges: tuple[ReferenceRange, ...]) -> list[Line]:
    """Every index that a subject has, in the order of the table.

    Args:
        row: Of the indices.
        ranges: The reference.
    """
    return list(_lines(row, ranges))


def _lines(row: Row, ranges: tuple[ReferenceRange, ...]) -> Iterator[Line]:
    for quantity in quantities("indices"):
        value = row.get(quantity.column)
        if value is None or quantity.column in (*_OF_THE_BODY, *Z_COLUMNS.values()):
            continue
        yield Line(
            quantity.meaning,
            shown(value, decimals=_decimals(quantity)),
            quantity.unit,
            interval(row, quantity.column, decimals=_decimals(quantity)),
            _reference(row, quantity, ranges),
            _verdict(row, quantity.column),
        )


def _decimals(quantity: Quantity) -> int:
    return 2 if quantity.unit in ("m²", "L/min", "1/s") else 1


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
    told = (
        choose_range(ranges, quantity, sex=row["sex"], age_years=row["age_years"])
        for quantity, column in Z_COLUMNS.items()
        if row.get(column) is not None
    )
    return "; ".join(dict.fromkeys(": ".join(filter(None, (r.table, r.source))) for r in told if r is not None))
