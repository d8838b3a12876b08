"""The bull's-eyes of one subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.plot.bullseye import Scale, bullseye
from cmnet_cli.tables.columns.column import LOWER, UPPER


@dataclass(frozen=True, slots=True)
class Shown:
    """A quantity that has a bull's-eye.

    Attributes:
        name: For the file that it may be saved as.
        title: The quantity.
        unit: Of it.
        scale: Of the colours; the same for every subject, so that pages can be compared.
        note: What the light end means.
    """

    name: str
    title: str
    unit: str
    scale: Scale
    note: str


QUANTITIES: Mapping[str, Shown] = {
    "ecc_peak_pct": Shown("ecc", "Peak Ecc", "%", Scale(0.0, -30.0), "light: shortens more"),
    "err_peak_pct": Shown("err", "Peak Err", "%", Scale(0.0, 60.0), "light: thickens more"),
    "time_to_peak_ecc_ms": Shown("time-to-peak", "Time to peak Ecc", "ms", Scale(150.0, 550.0), "light: late"),
    "wall_thickness_ed_mm": Shown("thickness", "Wall thickness at ED", "mm", Scale(4.0, 16.0), "light: thick"),
}
"""Columns of the table of segments."""

CONFIDENCE = Shown("confidence", "Confidence in peak Ecc", "± points", Scale(10.0, 0.0, 1), "light: sure")
"""Half the width of the 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bullseye:
    """A bull's-eye and its words."""

    shown: Shown
    drawing: Markup


def subject_bullseyes(segments: Sequence[Row]) -> list[Bullseye]:
    """The bull's-eyes of a subject; those of which no segment is known are left out.

    Args:
        segments: Rows of the table of segments.
    """
    values = {shown: {int(row["segment"]): row.get(column) for row in segments} for column, shown in QUANTITIES.items()}
    values[CONFIDENCE] = {int(row["segment"]): _half_width(row) for row in segments}
    return [
        Bullseye(shown, bullseye(shown.title, shown.unit, known, shown.scale))
        for shown, known in values.items()
        if any(value is not None for value in known.values())
    ]


def _half_width(row: Row) -> float | None:
    low, high = (row.get(f"ecc_peak_pct{end}") for end in (LOWER, UPPER))
    return None if low is None or high is None else (high - low) / 2.0
