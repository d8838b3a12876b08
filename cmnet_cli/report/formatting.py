"""Numbers, quantities and quality flags as text."""

from collections.abc import Iterable
from dataclasses import dataclass

from cmnet_cli.tables.schema import DECLARED, Column
from cmnet_core.qc.flags import FLAGS

_UNITS = {"m2": "m²", "mL/m2": "mL/m²", "g/m2": "g/m²", "1/mm2": "1/mm²"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of a table and how it is displayed.

    Attributes:
        column: Name of the column.
        title: Short name.
        meaning: What the column holds.
        unit: Unit of measurement.
    """

    column: str
    title: str
    meaning: str
    unit: str

    @property
    def label(self) -> str:
        """Short name and unit, as beside an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def full_label(self) -> str:
        """Meaning and unit, as in a table."""
        return f"{self.meaning} ({self.unit})" if self.unit else self.meaning


@dataclass(frozen=True, slots=True)
class Tile:
    """A value in large type at the top of a page.

    Attributes:
        name: What the value is.
        value: The value as text.
        unit: Unit of the value.
        interval: The 95 % interval as text; empty where there is none.
    """

    name: str
    value: str
    unit: str
    interval: str = ""


def select_quantities(table: str, columns: Iterable[str]) -> list[Quantity]:
    """Return the quantities of some columns of a table."""
    by_name = {column.name: column for column in DECLARED[table]}
    return [_quantity(by_name[column]) for column in columns]


def table_quantities(table: str) -> tuple[Quantity, ...]:
    """Return every numeric column of a table apart from the age, in the order of the schema."""
    return tuple(_quantity(column) for column in DECLARED[table] if column.kind == "number" and column.unit != "years")


def _quantity(column: Column) -> Quantity:
    return Quantity(
        column.name, column.name.split("_")[0].upper(), column.meaning, _UNITS.get(column.unit, column.unit)
    )


def is_warning(flag: str) -> bool:
    """Return whether a subject with this flag should be checked; an unknown flag counts as a warning."""
    return flag not in FLAGS or not FLAGS[flag].remark


def flag_text(flag: str) -> str:
    """Describe when a quality flag is raised and what to do; an unknown flag is returned as it is."""
    if flag not in FLAGS:
        return flag
    known = FLAGS[flag]
    # A sentence that begins with the name of a column keeps its first letter.
    begins_with_column = "_" in known.raised.split()[0]
    return f"{known.raised[0] if begins_with_column else known.raised[0].upper()}{known.raised[1:]}. {known.advice}"


def format_number(value: float | None, *, decimals: int = 1) -> str:
    """Format a number as in a table; a missing value gives an empty text.

    >>> format_number(61.25), format_number(148.0, decimals=0), format_number(-0.01), format_number(None)
    ('61.2', '148', '0.0', '')
    """
    return "" if value is None else f"{value:z.{decimals}f}".replace("-", "\N{MINUS SIGN}")
