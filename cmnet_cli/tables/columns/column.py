"""Declaration of a column: the single source of its Parquet type, its metadata and its documentation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Kind = Literal["text", "number", "integer", "text_list", "curve"]

LOWER, UPPER = "_lo", "_hi"
"""Suffixes of the two columns that hold the 95 % interval of a quantity."""


class Interval(StrEnum):
    """How the ends of a 95 % interval are bounded.

    :func:`cmnet_core.uncertainty.calibration.intervals` computes the intervals; a test of the schema evaluates the
    formulas below against it.
    """

    UNBOUNDED = "unbounded"
    NON_NEGATIVE = "non-negative"
    TIME = "time"


SPREAD = (
    "sd = (84.13th - 15.87th percentile of the posterior samples) / 2; factor = calibration factor of the weights, 1 "
    "without calibration"
)
INTERVAL_FORMULAS = {
    Interval.UNBOUNDED: ("value - 1.96 x factor x sd", "value + 1.96 x factor x sd"),
    Interval.NON_NEGATIVE: ("max(0, value - 1.96 x factor x sd)", "value + 1.96 x factor x sd"),
    Interval.TIME: (
        "max(0, value - 1.96 x factor x sqrt(sd^2 + frame_ms^2 / 12))",
        "min(frames x frame_ms, value + 1.96 x factor x sqrt(sd^2 + frame_ms^2 / 12))",
    ),
}
"""Lower and upper end. A time is resolved no better than one frame, whose uniform distribution has the SD t/√12."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: Quantity and unit, as in ``lvedv_ml``.
        kind: Type of its values. A ``curve`` has one number per frame.
        meaning: Definition of the quantity.
        unit: Unit of measurement, ``1`` for a dimensionless number, empty for text and integers.
        formula: How the value is computed.
        source: Reference of the formula or convention, or the data that the value is computed from.
        ukb_field: UK Biobank field that holds the same quantity.
        interval: How its 95 % interval is bounded, which is stored in the columns ``<name>_lo`` and ``<name>_hi``;
            None for a quantity without an interval.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    formula: str = ""
    source: str = ""
    ukb_field: str = ""
    interval: Interval | None = None


def with_intervals(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Insert the two interval columns after each column that has a 95 % interval."""
    return tuple(column for declared in columns for column in (declared, *_interval_columns(declared)))


def _interval_columns(column: Column) -> Iterator[Column]:
    if column.interval is None:
        return
    formulas = INTERVAL_FORMULAS[column.interval]
    for suffix, end, formula in zip((LOWER, UPPER), ("Lower", "Upper"), formulas, strict=True):
        yield replace(
            column,
            name=f"{column.name}{suffix}",
            meaning=f"{end} end of the 95 % interval of {column.name}",
            formula=f"{formula}; {SPREAD}",
            source="cmnet indices --samples",
            ukb_field="",
            interval=None,
        )
