"""Figures of the cohort page: numbers in, SVG out. Colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from markupsafe import Markup

from cmnet_cli.report.data.cohort_table import FloatArray, IntArray
from cmnet_cli.report.data.strata import StratumSummary, TestedDifference
from cmnet_cli.report.plot import svg

HISTOGRAM_FROM = 12
"""Fewer values than this are drawn individually instead of as a histogram."""

GROUP_MARKERS = ("a", "b", "c", "d", "e", "f")
"""Marker shapes and colours of the groups, as classes in the style sheet."""

# From this many values on, an axis leaves out the outermost, so that one wrong contour does not compress all others.
_TRIM_FROM, _TRIMMED_PCT = 200, 0.25
_FEWEST_BINS, _MOST_BINS = 8, 40

_ROW, _CURVE = 40, 26
_NAMES, _COUNTS = 108, 62


def value_axis(label: str, values: FloatArray) -> svg.Axis:
    """Return an axis for these values; in a large cohort the outermost 0.25 % at each end may be beyond it.

    Args:
        label: Quantity and unit.
        values: All values; at least one is known.
    """
    known = values[np.isfinite(values)]
    trimmed = _TRIMMED_PCT if len(known) >= _TRIM_FROM else 0.0
    low, high = np.percentile(known, (trimmed, 100.0 - trimmed))
    return svg.axis(label, [float(low), float(high)])


def histogram_edges(axis: svg.Axis, count: int) -> FloatArray:
    """Return the edges of bins over an axis, narrower for more values; the ticks of the axis are edges too."""
    wanted = int(np.clip(1.5 * math.sqrt(count), _FEWEST_BINS, _MOST_BINS))
    steps = max(1, round(wanted / max(1, len(axis.ticks) - 1)))
    inner = [np.linspace(start, end, steps, endpoint=False) for start, end in pairwise(axis.ticks)]
    return np.append(np.concatenate(inner), axis.ticks[-1])


@dataclass(frozen=True, slots=True)
class RidgelineRow:
    """One stratum of a quantity.

    Attributes:
        summary: Statistics of the stratum.
        count: Number of subjects, as the page states it.
        counts: The histogram, with suppressed bins set to 0.
        reference: The reference range; None where there is none.
    """

    summary: StratumSummary
    count: str
    counts: IntArray
    reference: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ScatterPoint:
    """One subject of a scatter plot.

    Attributes:
        x: Value on the horizontal axis.
        y: Value on the vertical axis.
        marker: Class of its shape and colour.
        page: Its page, empty where it has none.
        text: Tooltip.
        flagged: Whether it has a warning.
    """

    x: float
    y: float
    marker: str
    page: str
    text: str
    flagged: bool


def ridgeline(axis: svg.Axis, edges: FloatArray, rows: Sequence[RidgelineRow]) -> Markup:
    """Draw the distribution of a quantity in several strata, one below the other.

    Args:
        axis: Quantity and unit.
        edges: Edges of the histogram's bins.
        rows: The strata; at least one.
    """
    height = 10 + _ROW * len(rows) + 44
    plot = svg.Plot(axis, svg.Axis("", 0.0, 1.0, ()), height=height, left=_NAMES, right=_COUNTS, top=10)
    marks = [_vertical_grid(plot)]
    for number, row in enumerate(rows):
        marks.append(_ridge(plot, edges, row, 10.0 + _ROW * number + _CURVE + 4))
    marks += [
        svg.text(svg.format_tick(tick), (plot.x(tick), height - 27), kind="tick middle") for tick in plot.x_axis.ticks
    ]
    marks.append(svg.text(axis.label, ((plot.left + plot.width - plot.right) / 2, height - 6), kind="name middle"))
    statistics = [
        f"{row.summary.name}: median {row.summary.quartiles[1]:.1f}, quartiles {row.summary.quartiles[0]:.1f} and "
        f"{row.summary.quartiles[2]:.1f}, {row.count} subjects"
        for row in rows
    ]
    return svg.picture(plot.width, height, marks, text=f"{axis.label}. {'; '.join(statistics)}")


def _vertical_grid(plot: svg.Plot) -> Markup:
    top, base = float(plot.top), float(plot.height - plot.bottom)
    return svg.join(svg.line((plot.x(tick), top), (plot.x(tick), base), kind="grid") for tick in plot.x_axis.ticks)


def _ridge(plot: svg.Plot, edges: FloatArray, row: RidgelineRow, base: float) -> Markup:
    marks = [
        svg.text(_shortened(row.summary.name), (plot.left - 10, base), kind="stratum end"),
        svg.text(f"n {row.count}", (plot.width, base), kind="tick end"),
    ]
    if row.reference:
        marks.append(_reference_range(plot, row.reference, base))
    if len(row.summary.values):
        values = row.summary.values.tolist()
        marks += [svg.dot((plot.x(value), base - 8), kind="dot point", radius=4) for value in values]
    elif row.counts.any():
        marks.append(_histogram(plot, edges, row.counts, base))
    first, median, third = (plot.x(_clamped(plot.x_axis, value)) for value in row.summary.quartiles)
    marks += [
        svg.line((first, base + 3), (third, base + 3), kind="quartiles"),
        svg.line((median, base - 1), (median, base + 7), kind="median"),
    ]
    return svg.join(marks)


def _clamped(axis: svg.Axis, value: float) -> float:
    return min(max(value, axis.low), axis.high)


def _reference_range(plot: svg.Plot, limits: tuple[float, float], base: float) -> Markup:
    """Draw the reference range as a band with dashed limits, which are visible in print too."""
    low, high = (plot.x(_clamped(plot.x_axis, limit)) for limit in limits)
    lines = [
        svg.line((plot.x(limit), base - _CURVE), (plot.x(limit), base + 7), kind="mark")
        for limit in limits
        if plot.x_axis.low <= limit <= plot.x_axis.high
    ]
    band = svg.bar((low, base - _CURVE), max(high - low, 0.0), _CURVE + 7.0, kind="reference")
    return svg.join([band, *lines])


def _histogram(plot: svg.Plot, edges: FloatArray, counts: IntArray, base: float) -> Markup:
    tallest = counts.max()
    points = [(plot.x(float(edges[0])), base)]
    for (start, end), count in zip(pairwise(edges.tolist()), counts.tolist(), strict=True):
        y = base - _CURVE * count / tallest
        points += [(plot.x(start), y), (plot.x(end), y)]
    return svg.path([[*points, (plot.x(float(edges[-1])), base)]], kind="histogram", closed=True)


def _shortened(name: str, most: int = 15) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def scatter(
    plot: svg.Plot,
    points: Sequence[ScatterPoint],
    cells: Int[np.ndarray, "y x"],
    *,
    identity_line: bool,
    text: str,
) -> Markup:
    """Draw two quantities of each subject against each other; a point with a page is a link to it.

    Args:
        plot: Both axes.
        points: The subjects that are drawn individually.
        cells: Number of subjects in each cell of a grid over the plot, of all subjects; zeros for no cells.
        identity_line: Whether to draw the line on which both quantities are equal.
        text: Text alternative of the figure for screen readers.
    """
    marks = [_density(plot, cells), svg.frame(plot)]
    if identity_line:
        low, high = max(plot.x_axis.low, plot.y_axis.low), min(plot.x_axis.high, plot.y_axis.high)
        marks.append(svg.line((plot.x(low), plot.y(low)), (plot.x(high), plot.y(high)), kind="mark"))
    marks += [_scatter_point(plot, point) for point in points]
    # A group, not an image: screen readers do not reach elements inside an image, and these points are links.
    return Markup('<svg role="group" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        text, plot.width, plot.height, svg.join(marks)
    )


def _scatter_point(plot: svg.Plot, point: ScatterPoint) -> Markup:
    kind = f"at {point.marker} flagged" if point.flagged else f"at {point.marker}"
    drawn = Markup('<use class="{}" href="#at-{}" x="{:g}" y="{:g}"><title>{}</title></use>').format(
        kind, point.marker, plot.x(point.x), plot.y(point.y), point.text
    )
    return Markup('<a href="{}" tabindex="-1">{}</a>').format(point.page, drawn) if point.page else drawn


def _density(plot: svg.Plot, cells: Int[np.ndarray, "y x"]) -> Markup:
    """Draw the cells of the grid, more opaque for more subjects, on a logarithmic scale of ten steps."""
    if not cells.any():
        return Markup("")
    rows, columns = cells.shape
    width = (plot.width - plot.left - plot.right) / columns
    height = (plot.height - plot.top - plot.bottom) / rows
    steps = np.ceil(10 * np.log1p(cells) / np.log1p(cells.max())).astype(int)
    marks = []
    for step in range(1, 11):
        positions = np.argwhere(steps == step).tolist()
        corners = [(plot.left + width * x, plot.height - plot.bottom - height * (y + 1)) for y, x in positions]
        squares = "".join(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}Z" for x, y in corners)
        if squares:
            marks.append(Markup('<path class="cells c{}" d="{}"/>').format(step, squares))
    return svg.join(marks)


def effects(rows: Sequence[tuple[str, TestedDifference]]) -> Markup:
    """Draw effect sizes with their 95 % intervals, one below the other; discoveries are filled.

    Args:
        rows: Name of the quantity and its test; at least one.
    """
    largest = max(
        0.5, *(abs(end) for _, test in rows for end in (test.difference.effect_low, test.difference.effect_high))
    )
    limit = min(largest, 3.0)
    x_axis = svg.axis("Hedges' g: difference in standard deviations", [-limit, 0.0, limit])
    plot = svg.Plot(x_axis, svg.Axis("", 0.0, 1.0, ()), width=640, height=58 + 24 * len(rows), left=300, top=10)
    marks = [_vertical_grid(plot), svg.line((plot.x(0), plot.top), (plot.x(0), plot.height - plot.bottom), kind="axis")]
    for number, (name, test) in enumerate(rows):
        y = plot.top + 24.0 * (number + 0.5)
        marks += [svg.text(_shortened(name, 44), (plot.left - 10, y + 4), kind="stratum end"), _effect(plot, test, y)]
    marks += [svg.text(svg.format_tick(t), (plot.x(t), plot.height - 27), kind="tick middle") for t in x_axis.ticks]
    centre = (plot.left + plot.width - plot.right) / 2
    marks.append(svg.text(x_axis.label, (centre, plot.height - 6), kind="name middle"))
    text = "; ".join(f"{name}: {test.difference.effect:.2f}, q {test.q:.3g}" for name, test in rows)
    return svg.picture(plot.width, plot.height, marks, text=f"{x_axis.label}. {text}")


def _effect(plot: svg.Plot, test: TestedDifference, y: float) -> Markup:
    found = test.difference
    low, middle, high = (
        plot.x(_clamped(plot.x_axis, value)) for value in (found.effect_low, found.effect, found.effect_high)
    )
    kind = "dot found" if test.is_discovery else "dot open"
    return svg.line((low, y), (high, y), kind="interval") + svg.dot((middle, y), kind=kind, radius=4.5)


def mean_curve(phases: FloatArray, curves: Sequence[tuple[str, str, FloatArray, FloatArray]], *, label: str) -> Markup:
    """Draw mean curves over the cycle, each in a band of one standard deviation.

    Args:
        phases: Per cent of the cycle, one per sample.
        curves: Name, class in the style sheet, mean and standard deviation of each.
        label: Quantity and unit.
    """
    ends = [value for _, _, mean, sd in curves for value in (*(mean - sd).tolist(), *(mean + sd).tolist())]
    plot = svg.Plot(svg.axis("% of the cycle", [0.0, 100.0]), svg.axis(label, ends))
    marks = [svg.frame(plot)]
    for _, kind, mean, sd in curves:
        top, base = (_curve_points(plot, phases, values) for values in (mean + sd, mean - sd))
        marks.append(svg.path([[*top, *reversed(base)]], kind=f"spread {kind}", closed=True))
    for _, kind, mean, _ in curves:
        marks.append(svg.path([_curve_points(plot, phases, mean)], kind=f"curve {kind}"))
    text = "; ".join(f"{name}: from {mean.max():.0f} to {mean.min():.0f}" for name, _, mean, _ in curves)
    return svg.picture(plot.width, plot.height, marks, text=f"{label} over the cycle. {text}")


def _curve_points(plot: svg.Plot, phases: FloatArray, values: FloatArray) -> list[svg.Point]:
    return [(plot.x(x), plot.y(y)) for x, y in zip(phases.tolist(), values.tolist(), strict=True)]
