"""The distribution of every index: of all subjects, by sex with the reference range, and by group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import IntArray
from cmnet_cli.report.data.strata import summarise_stratum
from cmnet_cli.report.formatting import Quantity, format_number, table_quantities
from cmnet_cli.report.plot.cohort_figures import (
    HISTOGRAM_FROM,
    RidgelineRow,
    histogram_edges,
    ridgeline,
    value_axis,
)
from cmnet_cli.tables.columns.mechanics import MECHANICS
from cmnet_core.function.reference_ranges import RANGE_Z, Z_COLUMNS, ReferenceRange

ALL_SUBJECTS = "all subjects"

# Quantities that describe the person or the recording, or that restate another index.
_DESCRIPTIVE = {"height_cm", "weight_kg", "frame_ms", "heart_rate_bpm", "bsa_m2", "bsa_du_bois_m2"}

# The most common quantities of those that are measured on the wall.
_MAIN_OF_WALL = {
    "gcs_line_midwall_peak_pct", "grs_line_wall_peak_pct", "time_to_peak_gcs_line_midwall_ms", "wall_thickness_ed_mm",
    "wall_thickening_pct", "twist_deg", "torsion_deg_per_cm", "dyssynchrony_ms", "lv_peak_ejection_rate_ml_s",
    "lv_peak_filling_rate_ml_s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuantitySection:
    """Quantities that are shown together.

    Attributes:
        title: Title of the section.
        is_main: Whether the section is open at first, and its quantities are compared between groups.
        quantities: The quantities that have values.
    """

    title: str
    is_main: bool
    quantities: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True)
class DistributionCard:
    """One quantity.

    Attributes:
        quantity: Its name, meaning and unit.
        drawing: Its distribution.
        lines: Name, count, mean ± SD, quartiles and percentage outside the reference range of each stratum.
    """

    quantity: Quantity
    drawing: Markup
    lines: tuple[tuple[str, ...], ...]


_SECTIONS = (
    ("Volumes, mass and function", True),
    ("Strain and wall", True),
    ("More of strain and wall", False),
    ("Body size, recording and z-scores", False),
)


def quantity_sections(context: CohortContext) -> list[QuantitySection]:
    """Group every quantity of the indices that has values by subject matter."""
    wall = {column.name for column in MECHANICS}
    known = [quantity for quantity in table_quantities("indices") if context.population.has(quantity.column)]
    by_title: dict[str, list[Quantity]] = {title: [] for title, _ in _SECTIONS}
    for quantity in known:
        if quantity.column in _DESCRIPTIVE or quantity.unit == "SD":
            number = 3
        elif quantity.column in wall:
            number = 1 if quantity.column in _MAIN_OF_WALL else 2
        else:
            number = 0
        by_title[_SECTIONS[number][0]].append(quantity)
    return [QuantitySection(title, main, tuple(by_title[title])) for title, main in _SECTIONS if by_title[title]]


def main_quantities(context: CohortContext) -> list[Quantity]:
    """Return the quantities of the sections that are open at first."""
    return [quantity for section in quantity_sections(context) if section.is_main for quantity in section.quantities]


def distributions(
    context: CohortContext, quantities: Iterable[Quantity], ranges: Sequence[ReferenceRange]
) -> list[DistributionCard]:
    """Return a card for each quantity with enough values to be shown."""
    cards = (_card(context, quantity, ranges) for quantity in quantities)
    return [card for card in cards if card is not None]


@dataclass(frozen=True, slots=True, eq=False)
class _Stratum:
    """Some subjects, and the reference range that applies to them."""

    name: str
    rows: IntArray
    reference: tuple[float, float] | None


def _card(context: CohortContext, quantity: Quantity, ranges: Sequence[ReferenceRange]) -> DistributionCard | None:
    values = context.population.numbers(quantity.column)
    axis = value_axis(quantity.unit or quantity.column, values)
    edges = histogram_edges(axis, int(np.isfinite(values).sum()))
    histogram_from = 0 if context.deidentifier.share_safe else HISTOGRAM_FROM
    rows, lines = [], []
    for stratum in _strata(context, quantity, ranges):
        known = values[stratum.rows]
        if context.deidentifier.hides(int(np.isfinite(known).sum())):
            continue
        summary = summarise_stratum(stratum.name, known, edges, histogram_from=histogram_from)
        if summary is not None:
            hidden = [context.deidentifier.hides(count) for count in summary.counts.tolist()]
            counts = np.where(hidden, 0, summary.counts)
            rows.append(RidgelineRow(summary, context.counts.told(summary.moments.n), counts, stratum.reference))
            lines.append(_line(rows[-1], _outside_reference(context, quantity.column, stratum.rows)))
    return DistributionCard(quantity, ridgeline(axis, edges, rows), tuple(lines)) if rows else None


def _strata(context: CohortContext, quantity: Quantity, ranges: Sequence[ReferenceRange]) -> list[_Stratum]:
    """Return all subjects, the sexes, and the groups where there are several."""
    strata = [_Stratum(ALL_SUBJECTS, np.arange(context.population.size), None)]
    for number, sex in enumerate(context.by_sex.names):
        reference = reference_interval(ranges, quantity.column, sex)
        strata.append(_Stratum(sex, context.by_sex.members(number), reference))
    if len(context.by_group.shown) > 1:
        groups = enumerate(context.by_group.names)
        strata += [_Stratum(name, context.by_group.members(number), None) for number, name in groups]
    return strata


def _outside_reference(context: CohortContext, column: str, rows: IntArray) -> str:
    """Return the percentage of subjects outside the reference range, by the z-scores of the table."""
    if column not in Z_COLUMNS:
        return ""
    scores = context.population.numbers(Z_COLUMNS[column])[rows]
    known = scores[np.isfinite(scores)]
    return context.counts.share(int((np.abs(known) > RANGE_Z).sum()), len(known))


def _line(row: RidgelineRow, outside: str) -> tuple[str, ...]:
    first, median, third = row.summary.quartiles
    sd = "" if row.summary.moments.n < 2 else f" ± {format_number(row.summary.moments.sd)}"
    return (
        row.summary.name,
        row.count,
        f"{format_number(row.summary.moments.mean)}{sd}",
        f"{format_number(median)} ({format_number(first)} to {format_number(third)})",
        outside,
    )


def reference_interval(ranges: Iterable[ReferenceRange], column: str, sex: str) -> tuple[float, float] | None:
    """Return the reference range of a sex: mean ± 1.96 SD; None where there is none, or one per age group."""
    found = [one for one in ranges if one.quantity == column and one.sex == sex]
    if len(found) != 1:
        return None
    return found[0].limits
