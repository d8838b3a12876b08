"""Numbers and flags as people read them."""

from collections.abc import Iterable
from dataclasses import dataclass

from cmnet_cli.tables.schema import DECLARED, Column
from cmnet_core.qc.flags import FLAGS

_UNITS = {"m2": "m²", "mL/m2": "mL/m²", "g/m2": "g/m²", "1/mm2": "1/mm²"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of a table and how it is shown.

    Attributes:
        column: Its name in the table.
        title: A short name.
        meaning: What it is.
        unit: Unit of measurement.
    """

    column: str
    title: str
    meaning: str
    unit: str

    @property
    def label(self) -> str:
        """Name and unit, as beside an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure in large type."""

    name: str
    value: str
    unit: str


def named(table: str, columns: Iterable[str]) -> list[Quantity]:
    """The quantities of these columns."""
    by_name = {column.name: column for column in DECLARED[table]}
    return [_quantity(by_name[column]) for column in columns]


def quantities(table: str) -> tuple[Quantity, ...]:
    """Every number of a table that says something about the heart, in the order of its schema."""
    return tuple(_quantity(column) for column in DECLARED[table] if column.kind == "number" and column.unit != "years")


def _quantity(column: Column) -> Quantity:
    return Quantity(
        column.name, column.name.split("_")[0].upper(), column.meaning, _UNITS.get(column.unit, column.unit)
    )


def is_warning(flag: str) -> bool:
    """Whether a flag asks for a look at the subject; a flag that is not known does."""
    return flag not in FLAGS or not FLAGS[flag].remark


def flag_in_words(flag: str) -> str:
    """What a quality flag means and what to do; a flag that is not known is shown as it is."""
    if flag not in FLAGS:
        return flag
    told = FLAGS[flag]
    # The name of a column begins as it is.
    begins_with_column = "_" in told.raised.split()[0]
    return f"{told.raised[0] if begins_with_column else told.raised[0].upper()}{told.raised[1:]}. {told.advice}"


def shown(value: float | None, *, decimals: int = 1) -> str:
    """A number as in a table; nothing for a value that could not be determined.

    >>> shown(61.25), shown(148.0, decimals=0), shown(None)
    ('61.2', '148', '')
    """
    return "" if value is None else f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
