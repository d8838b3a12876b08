"""The distribution of every index, by sex beside its reference range and by group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import Places
from cmnet_cli.report.data.strata import Told, bins_of, scale_of, tell
from cmnet_cli.report.formatting import Quantity, quantities, shown
from cmnet_cli.report.plot.cohort_figures import ONE_BY_ONE, RidgeRow, ridges
from cmnet_cli.tables.columns.mechanics import MECHANICS
from cmnet_core.function.reference_ranges import RANGE_Z, Z_COLUMNS, ReferenceRange

# Numbers that describe the person or the recording, or that say another index once more.
_ASIDE = {"height_cm", "weight_kg", "frame_ms", "heart_rate_bpm", "bsa_m2", "bsa_du_bois_m2"}

# What is asked for first of all that is measured on the wall.
_FIRST_OF_WALL = {
    "gcs_peak_pct", "grs_peak_pct", "gls_sax_peak_pct", "time_to_peak_gcs_ms", "wall_thickness_ed_mm",
    "wall_thickening_pct", "twist_deg", "torsion_deg_per_cm", "dyssynchrony_ms", "lv_peak_ejection_rate_ml_s",
    "lv_peak_filling_rate_ml_s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chapter:
    """Quantities that are shown together.

    Attributes:
        title: What they are.
        first: Whether they are seen at once, and compared between groups.
        quantities: Those that have values.
    """

    title: str
    first: bool
    quantities: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One quantity.

    Attributes:
        quantity: Its name, meaning and unit.
        drawing: Its distribution.
        lines: Name, count, mean ± SD, quartiles and share outside the reference range of each stratum.
    """

    quantity: Quantity
    drawing: Markup
    lines: tuple[tuple[str, ...], ...]


def chapters(showing: Showing) -> list[Chapter]:
    """Every number of the indices that has values, by what it is about."""
    wall = {column.name for column in MECHANICS}
    known = [quantity for quantity in quantities("indices") if showing.population.has(quantity.column)]
    by_title: dict[str, list[Quantity]] = {title: [] for title, _ in _CHAPTERS}
    for quantity in known:
        if quantity.column in _ASIDE or quantity.unit == "SD":
            place = 3
        elif quantity.column in wall:
            place = 1 if quantity.column in _FIRST_OF_WALL else 2
        else:
            place = 0
        by_title[_CHAPTERS[place][0]].append(quantity)
    return [Chapter(title, first, tuple(by_title[title])) for title, first in _CHAPTERS if by_title[title]]


_CHAPTERS = (
    ("Volumes, mass and function", True),
    ("Strain and wall", True),
    ("More of strain and wall", False),
    ("Bodies, recordings and z-scores", False),
)


def first_quantities(showing: Showing) -> list[Quantity]:
    """The quantities that are seen at once."""
    return [quantity for chapter in chapters(showing) if chapter.first for quantity in chapter.quantities]


def distributions(showing: Showing, wanted: Iterable[Quantity], ranges: Sequence[ReferenceRange]) -> list[Card]:
    """A card for each quantity of which something may be told."""
    cards = (_card(showing, quantity, ranges) for quantity in wanted)
    return [card for card in cards if card is not None]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some subjects, and the reference range that holds for them."""

    name: str
    places: Places
    normal: tuple[float, float] | None


def _card(showing: Showing, quantity: Quantity, ranges: Sequence[ReferenceRange]) -> Card | None:
    values = showing.population.numbers(quantity.column)
    axis = scale_of(quantity.unit or quantity.column, values)
    edges = bins_of(axis, int(np.isfinite(values).sum()))
    rows, lines = [], []
    for part in _parts(showing, quantity, ranges):
        known = values[part.places]
        if showing.deidentifier.hides(int(np.isfinite(known).sum())):
            continue
        told = tell(part.name, known, edges, one_by_one=0 if showing.deidentifier.share_safe else ONE_BY_ONE)
        if told is not None:
            rows.append(_row(showing, told, part.normal))
            lines.append(_line(rows[-1], _outside(showing, quantity.column, part.places)))
    return Card(quantity, ridges(axis, edges, rows), tuple(lines)) if rows else None


def _parts(showing: Showing, quantity: Quantity, ranges: Sequence[ReferenceRange]) -> list[_Part]:
    """Everyone, the sexes, and the groups where there are several."""
    parts = [_Part("everyone", np.arange(showing.population.size), None)]
    for number, sex in enumerate(showing.by_sex.names):
        parts.append(_Part(sex, showing.by_sex.members(number), normal_range(ranges, quantity.column, sex)))
    if len(showing.by_group.shown) > 1:
        groups = enumerate(showing.by_group.names)
        parts += [_Part(name, showing.by_group.members(number), None) for number, name in groups]
    return parts


def _row(showing: Showing, told: Told, normal: tuple[float, float] | None) -> RidgeRow:
    hidden = [showing.deidentifier.hides(count) for count in told.counts.tolist()]
    return RidgeRow(told, showing.counting.told(told.moments.n), np.where(hidden, 0, told.counts), normal)


def _outside(showing: Showing, column: str, places: Places) -> str:
    """The share of subjects outside the reference range, by the z-scores of the table."""
    if column not in Z_COLUMNS:
        return ""
    scores = showing.population.numbers(Z_COLUMNS[column])[places]
    known = scores[np.isfinite(scores)]
    return showing.counting.share(int((np.abs(known) > RANGE_Z).sum()), len(known))


def _line(row: RidgeRow, outside: str) -> tuple[str, ...]:
    first, middle, third = row.told.quartiles
    spread = "" if row.told.moments.n < 2 else f" ± {shown(row.told.moments.sd)}"
    return (
        row.told.name,
        row.count,
        f"{shown(row.told.moments.mean)}{spread}",
        f"{shown(middle)} ({shown(first)} to {shown(third)})",
        outside,
    )


def normal_range(ranges: Iterable[ReferenceRange], column: str, sex: str) -> tuple[float, float] | None:
    """The reference range of a sex: mean ± 1.96 SD. None where there is none, or several for several ages."""
    found = [one for one in ranges if one.quantity == column and one.sex == sex]
    if len(found) != 1:
        return None
    return found[0].mean - RANGE_Z * found[0].sd, found[0].mean + RANGE_Z * found[0].sd
