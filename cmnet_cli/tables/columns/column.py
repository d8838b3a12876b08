"""How a column is declared: once, with all that the schema, the data dictionary and the documentation say of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "number", "count", "words", "flag", "curve"]

LOWER, UPPER = "_lo", "_hi"
"""Endings of the two columns that hold the 95 % interval of a third."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: Quantity and unit, as in ``lvedv_ml``.
        kind: What its values are.
        meaning: What it is, in words.
        unit: Unit of measurement, ``1`` for a number without one, empty for words and counts.
        formula: How it is computed.
        source: Where the formula or the convention comes from.
        ukb_field: The UK Biobank field that holds the same quantity.
        interval: Whether its 95 % interval stands beside it, in two columns more: ``<name>_lo`` and ``<name>_hi``.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    formula: str = ""
    source: str = ""
    ukb_field: str = ""
    interval: bool = False


def with_intervals(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns, each that has an interval followed by the two that hold it."""
    return tuple(column for declared in columns for column in (declared, *_limits(declared)))


def _limits(column: Column) -> tuple[Column, ...]:
    if not column.interval:
        return ()
    ends = ((LOWER, "Lower", "2.5"), (UPPER, "Upper", "97.5"))
    return tuple(
        replace(
            column,
            name=f"{column.name}{ending}",
            meaning=f"{which} end of the 95 % interval of {column.name}",
            formula=f"{percent}th percentile over the samples of the posterior, calibrated",
            source="cmnet indices --samples",
            ukb_field="",
            interval=False,
        )
        for ending, which, percent in ends
    )
