"""Declaration of a column: the single source of its Parquet type, its metadata and its documentation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Kind = Literal["text", "number", "integer", "text_list", "curve"]

LOWER, UPPER = "_lo", "_hi"
"""Suffixes of the two columns that hold the 95 % interval of a quantity."""


class Interval(StrEnum):
    """How the ends of a 95 % interval are limited.

    :func:`cmnet_core.uncertainty.calibration.intervals` computes the intervals; a test of the schema evaluates the
    formulas below against it.
    """

    UNBOUNDED = "unbounded"
    NON_NEGATIVE = "non-negative"
    TIME = "time"


HALF_WIDTH = (
    "half = q x sqrt(sd^2 + t^2) or, where the spread of samples does not predict the error, half = q; sd = (84.13th - "
    "15.87th percentile of the posterior samples) / 2; q and t of the calibration. Null if half is more than a quarter "
    "of the population's range"
)
INTERVAL_FORMULAS = {
    Interval.UNBOUNDED: ("value - half", "value + half"),
    Interval.NON_NEGATIVE: ("max(0, value - half)", "value + half"),
    Interval.TIME: ("max(0, value - half)", "min(frames x frame_ms, value + half)"),
}
"""Lower and upper end."""


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
        interval: How its 95 % interval is limited, which is stored in the columns ``<name>_lo`` and ``<name>_hi``;
            None for a quantity without an interval of its own.
        scaled_from: The column of which the quantity is a multiple without error; its interval is as many times that
            of the other column.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    formula: str = ""
    source: str = ""
    ukb_field: str = ""
    interval: Interval | None = None
    scaled_from: str = ""


def with_intervals(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Insert the two interval columns after each column that has a 95 % interval."""
    return tuple(column for declared in columns for column in (declared, *_interval_columns(declared)))


def _interval_columns(column: Column) -> Iterator[Column]:
    if column.interval is None and not column.scaled_from:
        return
    for suffix, end in ((LOWER, "Lower"), (UPPER, "Upper")):
        yield replace(
            column,
            name=f"{column.name}{suffix}",
            meaning=f"{end} end of the 95 % interval of {column.name}",
            formula=_formula(column, suffix),
            source="cmnet indices --samples, --calibration",
            ukb_field="",
            interval=None,
            scaled_from="",
        )


def _formula(column: Column, suffix: str) -> str:
    if column.interval is None:
        return f"{column.scaled_from}{suffix} x {column.name} / {column.scaled_from}"
    lower, upper = INTERVAL_FORMULAS[column.interval]
    return f"{lower if suffix == LOWER else upper}; {HALF_WIDTH}"
