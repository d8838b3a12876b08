"""Numbers, quantities and quality flags as text."""

from collections.abc import Iterable
from dataclasses import dataclass

from cmnet_cli.tables.schema import DECLARED, Column
from cmnet_core.qc.flags import FLAGS, Severity

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


def severity_of(flag: str) -> Severity:
    """Return the severity of a flag; a subject with an unknown flag should be checked."""
    return FLAGS[flag].severity if flag in FLAGS else Severity.CHECK


def is_warning(flag: str) -> bool:
    """Return whether a subject with this flag should be checked, or values of it not be used."""
    return severity_of(flag) is not Severity.INFORMATION


def by_severity(flags: Iterable[str]) -> list[str]:
    """Sort flags, the most severe first; flags of one severity stay in their order."""
    return sorted(flags, key=lambda flag: list(Severity).index(severity_of(flag)))


def flag_condition(flag: str) -> str:
    """Describe when a quality flag is raised; an unknown flag is returned as it is."""
    if flag not in FLAGS:
        return flag
    raised = FLAGS[flag].raised
    # A sentence that begins with the name of a column keeps its first letter.
    begins_with_column = "_" in raised.split()[0]
    return raised if begins_with_column else f"{raised[0].upper()}{raised[1:]}"


def flag_text(flag: str) -> str:
    """Describe when a quality flag is raised and what to do; an unknown flag is returned as it is."""
    return f"{flag_condition(flag)}. {FLAGS[flag].advice}" if flag in FLAGS else flag


def missing_metadata_text(flags: Iterable[str]) -> str:
    """Describe in one line the metadata whose absence raised some flags, and the effect; empty where all are given."""
    missing = [FLAGS[flag] for flag in flags if flag in FLAGS and FLAGS[flag].missing]
    if not missing:
        return ""
    effects = " ".join(flag.advice for flag in missing)
    return f"Neither the manifest nor the header gives: {', '.join(flag.missing for flag in missing)}. {effects}"


def format_number(value: float | None, *, decimals: int = 1) -> str:
    """Format a number as in a table; a missing value gives an empty text.

    >>> format_number(61.25), format_number(148.0, decimals=0), format_number(-0.01), format_number(None)
    ('61.2', '148', '0.0', '')
    """
    return "" if value is None else f"{value:z.{decimals}f}".replace("-", "\N{MINUS SIGN}")
