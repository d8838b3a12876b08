"""Mean bull's-eyes of groups, and how groups differ in each segment."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cmnet_cli.report.cohort.differences import cells_of_test
from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import NOBODY, Numbers, Places, as_numbers, read_columns
from cmnet_cli.report.data.strata import Pair, Tested, compare_all
from cmnet_cli.report.formatting import Quantity, named
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.bullseye import SEGMENTS, Scale, bullseye
from cmnet_cli.report.subject.bullseyes import QUANTITIES
from cmnet_core.stats.groups import Moments

EVERYONE = "everyone"

# Bull's-eyes of differences share one scale, which reaches at least so far.
_LEAST_EFFECT = 0.5


@dataclass(frozen=True, slots=True)
class Eye:
    """One bull's-eye and the line below it."""

    drawing: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class EyeRow:
    """The bull's-eyes of one quantity.

    Attributes:
        quantity: What they show.
        note: What the light end of the colours means.
        eyes: The mean of each group, then the differences.
        lines: The tests of all segments.
    """

    quantity: Quantity
    note: str
    eyes: tuple[Eye, ...]
    lines: tuple[tuple[str, ...], ...]


Means = Mapping[str, Mapping[int, Moments]]
"""What is known of each stratum and segment."""


def bullseye_rows(showing: Showing) -> list[EyeRow]:
    """Mean bull's-eyes of what is compared, or of everyone, and the differences; tests are corrected together."""
    table = read_columns(showing.population.folder, "segments", ("case_id", "segment", *QUANTITIES))
    if not table.num_rows:
        return []
    known = [q for q in named("segments", QUANTITIES) if q.column in table.column_names]
    places = showing.population.places(table["case_id"])
    segments = table["segment"].to_numpy()
    names, codes = _strata(showing, places)
    means = {
        q.column: _allowed(showing, moments_by(as_numbers(table[q.column]), codes, segments, names)) for q in known
    }
    tests = compare_all([pair for q in known for pair in _pairs(q.column, means[q.column], names)])
    rows = [_row(q, means[q.column], names, [t for t in tests if t.quantity.split(":")[0] == q.column]) for q in known]
    return [row for row in rows if row.eyes]


def _strata(showing: Showing, places: Places) -> tuple[tuple[str, ...], Places]:
    """What is compared, and to which of it each row of the table belongs; rows of nobody's belong to none."""
    if len(showing.compared.shown) > 1:
        return showing.compared.names, np.append(showing.compared.codes, NOBODY)[places]
    return (EVERYONE,), np.where(places == NOBODY, NOBODY, 0)


def moments_by(values: Numbers, codes: Places, segments: Places, names: Sequence[str]) -> Means:
    """Count, mean and standard deviation of each stratum and segment.

    Args:
        values: One a row; NaN where there is none.
        codes: The stratum of each row, by its place in ``names``.
        segments: The segment of each row, 1 to 16.
        names: Of the strata.
    """
    number = len(SEGMENTS)
    use = np.isfinite(values) & (codes != NOBODY) & (segments >= 1) & (segments <= number)
    cells, values = codes[use] * number + segments[use] - 1, values[use]
    count = np.bincount(cells, minlength=len(names) * number)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cells, values, len(count)) / count
        # About the mean, not as a difference of squares: that loses the digits that are asked for.
        sd = np.sqrt(np.bincount(cells, (values - mean[cells]) ** 2, len(count)) / (count - 1))
    sd = np.where(count > 1, sd, math.nan)
    return {
        name: {s + 1: Moments(int(count[c]), float(mean[c]), float(sd[c])) for s, c in _cells_of(place) if count[c]}
        for place, name in enumerate(names)
    }


def _cells_of(stratum: int) -> Iterator[tuple[int, int]]:
    """Every segment, from 0, with the cell that it has in a stratum."""
    return ((segment, stratum * len(SEGMENTS) + segment) for segment in range(len(SEGMENTS)))


def _allowed(showing: Showing, means: Means) -> Means:
    hides = showing.deidentifier.hides
    return {name: {s: one for s, one in found.items() if not hides(one.n)} for name, found in means.items()}


def _pairs(column: str, means: Means, names: Sequence[str]) -> Iterator[Pair]:
    first = means[names[0]]
    for name in names[1:]:
        for segment in sorted(first.keys() & means[name].keys()):
            yield Pair(f"{column}:{segment}", name, first[segment], means[name][segment])


def _row(quantity: Quantity, means: Means, names: Sequence[str], tests: Sequence[Tested]) -> EyeRow:
    shown = QUANTITIES[quantity.column]
    found = [one.mean for name in names for one in means[name].values()]
    if not found:
        return EyeRow(quantity, shown.note, (), ())
    # Light means the same as on a subject's page, over the range of the means: groups differ less than people do.
    turned = shown.scale.dark > shown.scale.light
    scale = _scale_of(found, turned=turned)
    eyes = [_mean(quantity, name, means[name], scale) for name in names if means[name]]
    reach = math.ceil(2 * max([_LEAST_EFFECT, *(abs(test.difference.effect) for test in tests)])) / 2
    effects = Scale(reach, -reach, decimals=1) if turned else Scale(-reach, reach, decimals=1)
    by_name = {name: [test for test in tests if test.second_name == name] for name in names[1:]}
    eyes += [_difference(quantity, names[0], name, listed, effects) for name, listed in by_name.items() if listed]
    return EyeRow(quantity, shown.note, tuple(eyes), tuple(_line(test) for test in tests))


def _scale_of(values: Sequence[float], *, turned: bool) -> Scale:
    axis = svg.axis("", values)
    dark, light = (axis.high, axis.low) if turned else (axis.low, axis.high)
    return Scale(dark, light, decimals=0 if axis.high - axis.low >= 10 else 1)


def _mean(quantity: Quantity, name: str, found: Mapping[int, Moments], scale: Scale) -> Eye:
    values = {segment: one.mean for segment, one in found.items()}
    return Eye(bullseye(f"{quantity.meaning}, mean of {name}", quantity.unit, values, scale), name)


def _difference(quantity: Quantity, first: str, second: str, tests: Sequence[Tested], scale: Scale) -> Eye:
    values = {segment_of(test): test.difference.effect for test in tests}
    starred = [segment_of(test) for test in tests if test.is_discovery]
    title = f"{quantity.meaning}, difference of {second} and {first}, a star where q < 0.05"
    return Eye(bullseye(title, "Hedges' g", values, scale, starred=starred), f"{second} against {first}")


def segment_of(test: Tested) -> int:
    """The AHA segment that a test is about."""
    return int(test.quantity.split(":")[1])


def _line(test: Tested) -> tuple[str, ...]:
    segment = segment_of(test)
    return (f"{segment} {SEGMENTS[segment - 1]}", test.second_name, *cells_of_test(test))
