"""The bull's-eye plots of one subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.plot.bullseye import ColourScale, bullseye
from cmnet_cli.tables.columns.column import LOWER, UPPER


@dataclass(frozen=True, slots=True)
class BullseyeQuantity:
    """A quantity that has a bull's-eye plot.

    Attributes:
        name: Name of the file to which the plot is exported.
        title: The quantity.
        unit: Unit of the quantity.
        scale: The colour scale; it is the same for every subject, so that pages can be compared.
        note: Meaning of the light end of the scale.
    """

    name: str
    title: str
    unit: str
    scale: ColourScale
    note: str


QUANTITIES: Mapping[str, BullseyeQuantity] = {
    "ecc_line_wall_peak_pct": BullseyeQuantity(
        "ecc", "Peak Ecc", "%", ColourScale(0.0, -30.0), "engineering strain; light: more shortening"
    ),
    "err_line_wall_peak_pct": BullseyeQuantity(
        "err", "Peak Err", "%", ColourScale(0.0, 60.0), "engineering strain; light: more thickening"
    ),
    "time_to_peak_ecc_line_wall_ms": BullseyeQuantity(
        "time-to-peak", "Time to peak Ecc", "ms", ColourScale(150.0, 550.0), "light: late"
    ),
    "wall_thickness_ed_mm": BullseyeQuantity(
        "thickness", "Wall thickness at ED", "mm", ColourScale(4.0, 16.0), "light: thick"
    ),
}
"""Columns of the table of segments."""

UNCERTAINTY = BullseyeQuantity(
    "uncertainty", "Peak Ecc uncertainty", "± percentage points", ColourScale(10.0, 0.0, 1), "light: low uncertainty"
)
"""Half the width of the 95 % interval."""


@dataclass(frozen=True, slots=True)
class SubjectBullseye:
    """A bull's-eye plot and its quantity."""

    quantity: BullseyeQuantity
    drawing: Markup


def subject_bullseyes(segments: Sequence[Row]) -> list[SubjectBullseye]:
    """Draw the bull's-eye plots of a subject; quantities without a value in any segment are left out.

    Args:
        segments: Rows of the table of segments.
    """
    values = {
        quantity: {int(row["segment"]): row.get(column) for row in segments} for column, quantity in QUANTITIES.items()
    }
    values[UNCERTAINTY] = {int(row["segment"]): _half_width(row) for row in segments}
    return [
        SubjectBullseye(quantity, bullseye(quantity.title, quantity.unit, known, quantity.scale))
        for quantity, known in values.items()
        if any(value is not None for value in known.values())
    ]


def _half_width(row: Row) -> float | None:
    low, high = (row.get(f"ecc_line_wall_peak_pct{end}") for end in (LOWER, UPPER))
    return None if low is None or high is None else (high - low) / 2.0
