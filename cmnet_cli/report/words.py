"""Numbers and flags as people read them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cmnet_cli.tables import DECLARED, Column

# What each quality flag means, and what to do about it.
_WARNINGS: Mapping[str, str] = {
    "spacing-from-zooms": "The header's affine and its voxel sizes disagree; direction was taken from the one, scale "
    "from the other. Check that the volumes are of the size you expect.",
    "trigger-times-differ": "Slices were recorded at different heart rates. Volumes add slices at the same share of "
    "the cycle; times in ms are those of an average beat.",
    "phases-interpolated": "Some slices have fewer frames than others; their missing frames were interpolated in time.",
    "slices-dropped": "Slices without a whole cycle were left out. Check that base and apex are still in the stack.",
    "slice-gap-uneven": "The distance between slices is not the same everywhere; volumes use its mean. "
    "Check for missing slices.",
    "slices-shifted": "Slices are shifted against each other in the plane. Volumes are not affected; motion may be.",
    "repeated-slices": "Slices were recorded more than once; the last complete recording was used.",
    "duplicate-images": "Some images occur twice; each was used once.",
    "files-unreadable": "Some files of the series could not be read and were passed over. Copy the series again.",
    "lv-missing-at-ed": "No left ventricle was found at end-diastole. Look at the contours; check ED in the manifest.",
    "lv-missing-at-es": "No left ventricle was found at end-systole. Look at the contours; check ES in the manifest.",
    "rv-missing-at-ed": "No right ventricle was found at end-diastole. Look at the contours.",
    "rv-missing-at-es": "No right ventricle was found at end-systole. Look at the contours.",
    "myo-missing-at-ed": "No myocardium was found at end-diastole. Look at the contours.",
    "lv-does-not-contract": "The left ventricle is not smaller at end-systole than at end-diastole. Check ED and ES.",
    "rv-does-not-contract": "The right ventricle is not smaller at end-systole than at end-diastole. Look at it.",
}

# Why some quantities are not given. Nothing is wrong with the subject.
_REMARKS: Mapping[str, str] = {
    "no-heart-rate": "No cardiac output: neither the manifest nor the header tells the heart rate.",
    "no-body-size": "No indices per m² of body surface: the manifest does not tell height and weight.",
    "motion-not-stored": "No displacement by frame: the run did not store the motion of every step.",
}

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


def named(table: str, columns: Iterable[str]) -> list[Quantity]:
    """The quantities of these columns."""
    by_name = {quantity.column: quantity for quantity in quantities(table)}
    return [by_name[column] for column in columns]


def quantities(table: str) -> tuple[Quantity, ...]:
    """Every number of a table that says something about the heart, in the order of its schema."""
    return tuple(_quantity(column) for column in DECLARED[table] if column.kind == "number" and column.unit != "years")


def _quantity(column: Column) -> Quantity:
    return Quantity(
        column.name, column.name.split("_")[0].upper(), column.meaning, _UNITS.get(column.unit, column.unit)
    )


def is_warning(flag: str) -> bool:
    """Whether a flag asks for a look at the subject; a flag that is not known does."""
    return flag not in _REMARKS


def flag_in_words(flag: str) -> str:
    """What a quality flag means and what to do; a flag that is not known is shown as it is."""
    return {**_WARNINGS, **_REMARKS}.get(flag, flag)


def shown(value: float | None, *, decimals: int = 1) -> str:
    """A number as in a table; nothing for a value that could not be determined.

    >>> shown(61.25), shown(148.0, decimals=0), shown(None)
    ('61.2', '148', '')
    """
    return "" if value is None else f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
