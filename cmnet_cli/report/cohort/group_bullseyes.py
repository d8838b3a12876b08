"""Mean bull's-eye plots of groups, and differences between groups in each segment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmnet_cli.report.cohort.differences import format_test
from cmnet_cli.report.cohort.distributions import ALL_SUBJECTS
from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import UNASSIGNED, FloatArray, IntArray, as_numbers, read_columns
from cmnet_cli.report.data.strata import StratumPair, TestedDifference, compare_all
from cmnet_cli.report.formatting import Quantity, select_quantities
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.bullseye import SEGMENTS, ColourScale, bullseye
from cmnet_cli.report.subject.bullseyes import QUANTITIES
from cmnet_core.stats.groups import Moments

# Plots of differences share one scale, which extends at least to this effect size.
_LEAST_EFFECT = 0.5


@dataclass(frozen=True, slots=True)
class GroupBullseyes:
    """The bull's-eye plots of one quantity.

    Attributes:
        quantity: The quantity.
        note: Meaning of the light end of the colour scale.
        plots: The mean of each group, then the differences.
        lines: The tests of all segments.
    """

    quantity: Quantity
    note: str
    plots: tuple[svg.CaptionedFigure, ...]
    lines: tuple[tuple[str, ...], ...]


Means = Mapping[str, Mapping[int, Moments]]
"""Moments of each stratum and segment."""


def group_bullseyes(context: CohortContext) -> list[GroupBullseyes]:
    """Draw the means of all compared groups, or of all subjects, and the differences; tests are corrected together."""
    table = read_columns(context.population.folder, "segments", ("case_id", "segment", *QUANTITIES))
    if not table.num_rows:
        return []
    known = [q for q in select_quantities("segments", QUANTITIES) if q.column in table.column_names]
    rows = context.population.rows_of(table["case_id"])
    segments = table["segment"].to_numpy()
    names, codes = _strata(context, rows)
    means = {
        q.column: _allowed(context, moments_by(as_numbers(table[q.column]), codes, segments, names)) for q in known
    }
    tests = compare_all([pair for q in known for pair in _pairs(q.column, means[q.column], names)])
    drawn = [
        _draw(q, means[q.column], names, [t for t in tests if t.quantity.split(":")[0] == q.column]) for q in known
    ]
    return [row for row in drawn if row.plots]


def _strata(context: CohortContext, rows: IntArray) -> tuple[tuple[str, ...], IntArray]:
    """Return the compared strata, and the stratum of each row of the table; rows of unknown subjects have none."""
    if len(context.compared.shown) > 1:
        return context.compared.names, np.append(context.compared.codes, UNASSIGNED)[rows]
    return (ALL_SUBJECTS,), np.where(rows == UNASSIGNED, UNASSIGNED, 0)


def moments_by(values: FloatArray, codes: IntArray, segments: IntArray, names: Sequence[str]) -> Means:
    """Compute count, mean and standard deviation of each stratum and segment.

    Args:
        values: One per row; NaN where there is none.
        codes: The stratum of each row, as an index into ``names``.
        segments: The segment of each row, 1 to 16.
        names: Names of the strata.
    """
    number = len(SEGMENTS)
    use = np.isfinite(values) & (codes != UNASSIGNED) & (segments >= 1) & (segments <= number)
    cells, values = codes[use] * number + segments[use] - 1, values[use]
    count = np.bincount(cells, minlength=len(names) * number)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cells, values, len(count)) / count
        # A difference of squares would lose the significant digits.
        sd = np.sqrt(np.bincount(cells, (values - mean[cells]) ** 2, len(count)) / (count - 1))
    sd = np.where(count > 1, sd, math.nan)
    return {
        name: {s + 1: Moments(int(count[c]), float(mean[c]), float(sd[c])) for s, c in _cells_of(stratum) if count[c]}
        for stratum, name in enumerate(names)
    }


def _cells_of(stratum: int) -> Iterator[tuple[int, int]]:
    """Yield every segment, from 0, with its cell in a stratum."""
    return ((segment, stratum * len(SEGMENTS) + segment) for segment in range(len(SEGMENTS)))


def _allowed(context: CohortContext, means: Means) -> Means:
    hides = context.deidentifier.hides
    return {name: {s: one for s, one in found.items() if not hides(one.n)} for name, found in means.items()}


def _pairs(column: str, means: Means, names: Sequence[str]) -> Iterator[StratumPair]:
    first = means[names[0]]
    for name in names[1:]:
        for segment in sorted(first.keys() & means[name].keys()):
            yield StratumPair(f"{column}:{segment}", name, first[segment], means[name][segment])


def _draw(quantity: Quantity, means: Means, names: Sequence[str], tests: Sequence[TestedDifference]) -> GroupBullseyes:
    described = QUANTITIES[quantity.column]
    found = [one.mean for name in names for one in means[name].values()]
    if not found:
        return GroupBullseyes(quantity, described.note, (), ())
    # Light has the same meaning as on a subject's page. The scale spans the means: groups differ less than subjects.
    reversed_scale = described.scale.dark > described.scale.light
    scale = _mean_scale(found, reversed_scale=reversed_scale)
    plots = [_mean_plot(quantity, name, means[name], scale) for name in names if means[name]]
    limit = math.ceil(2 * max([_LEAST_EFFECT, *(abs(test.difference.effect) for test in tests)])) / 2
    effects = ColourScale(limit, -limit, decimals=1) if reversed_scale else ColourScale(-limit, limit, decimals=1)
    by_name = {name: [test for test in tests if test.second_name == name] for name in names[1:]}
    plots += [_difference_plot(quantity, names[0], name, listed, effects) for name, listed in by_name.items() if listed]
    return GroupBullseyes(quantity, described.note, tuple(plots), tuple(_line(test) for test in tests))


def _mean_scale(values: Sequence[float], *, reversed_scale: bool) -> ColourScale:
    axis = svg.axis("", values)
    dark, light = (axis.high, axis.low) if reversed_scale else (axis.low, axis.high)
    return ColourScale(dark, light, decimals=0 if axis.high - axis.low >= 10 else 1)


def _mean_plot(quantity: Quantity, name: str, found: Mapping[int, Moments], scale: ColourScale) -> svg.CaptionedFigure:
    values = {segment: one.mean for segment, one in found.items()}
    return svg.CaptionedFigure(bullseye(f"{quantity.meaning}, mean of {name}", quantity.unit, values, scale), name)


def _difference_plot(
    quantity: Quantity, first: str, second: str, tests: Sequence[TestedDifference], scale: ColourScale
) -> svg.CaptionedFigure:
    values = {segment_of(test): test.difference.effect for test in tests}
    starred = [segment_of(test) for test in tests if test.is_discovery]
    title = f"{quantity.meaning}, difference of {second} and {first}, a star where q < 0.05"
    drawing = bullseye(title, "Hedges' g", values, scale, starred=starred)
    return svg.CaptionedFigure(drawing, f"{second} against {first}")


def segment_of(test: TestedDifference) -> int:
    """Return the AHA segment of a test."""
    return int(test.quantity.split(":")[1])


def _line(test: TestedDifference) -> tuple[str, ...]:
    segment = segment_of(test)
    return (f"{segment} {SEGMENTS[segment - 1]}", test.second_name, *format_test(test))
