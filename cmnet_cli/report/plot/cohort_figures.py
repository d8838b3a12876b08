"""The figures of the cohort page: numbers in, SVG out. Colours come from the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from markupsafe import Markup

from cmnet_cli.report.data.cohort_table import Numbers, Places
from cmnet_cli.report.data.strata import Tested, Told
from cmnet_cli.report.plot import svg

ONE_BY_ONE = 12
"""Fewer values than this are drawn one by one: bars would say less."""

MARKS = ("a", "b", "c", "d", "e", "f")
"""Shapes and colours by which groups are told apart."""

_ROW, _CURVE = 40, 26
_NAMES, _COUNTS = 108, 62


@dataclass(frozen=True, slots=True)
class RidgeRow:
    """One stratum of a quantity.

    Attributes:
        told: What is known of it.
        count: Its size, as the page tells it.
        drawn: The histogram, without bins that must not be shown.
        normal: The reference range, if there is one.
    """

    told: Told
    count: str
    drawn: Places
    normal: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Dot:
    """One subject of a scatter plot.

    Attributes:
        x: Value on the horizontal axis.
        y: Value on the vertical axis.
        mark: Its shape and colour.
        page: Its page, empty where it has none.
        text: What is shown when the pointer rests on it.
        flagged: Whether it asks for a look.
    """

    x: float
    y: float
    mark: str
    page: str
    text: str
    flagged: bool


def ridges(axis: svg.Axis, edges: Numbers, rows: Sequence[RidgeRow]) -> Markup:
    """The distribution of a quantity in several strata, one below the other.

    Args:
        axis: Quantity and unit.
        edges: Of the histogram's bins.
        rows: The strata; at least one.
    """
    height = 10 + _ROW * len(rows) + 44
    plot = svg.Plot(axis, svg.Axis("", 0.0, 1.0, ()), height=height, left=_NAMES, right=_COUNTS, top=10)
    marks = [_upright(plot)]
    for number, row in enumerate(rows):
        base = 10.0 + _ROW * number + _CURVE + 4
        marks.append(_ridge(plot, edges, row, base))
    marks += [
        svg.words(svg.number(tick), (plot.x(tick), height - 27), kind="tick middle") for tick in plot.across.ticks
    ]
    marks.append(svg.words(axis.label, ((plot.left + plot.width - plot.right) / 2, height - 6), kind="name middle"))
    return svg.picture(plot.width, height, marks, text=_in_words(axis.label, rows))


def _upright(plot: svg.Plot) -> Markup:
    ends = (float(plot.top), float(plot.height - plot.bottom))
    return svg.join(
        svg.line((plot.x(tick), ends[0]), (plot.x(tick), ends[1]), kind="grid") for tick in plot.across.ticks
    )


def _ridge(plot: svg.Plot, edges: Numbers, row: RidgeRow, base: float) -> Markup:
    marks = [
        svg.words(_short(row.told.name), (plot.left - 10, base), kind="stratum end"),
        svg.words(f"n {row.count}", (plot.width, base), kind="tick end"),
    ]
    if row.normal:
        marks.append(_normal(plot, row.normal, base))
    if len(row.told.values):
        marks += [svg.dot((plot.x(value), base - 8), kind="dot point", radius=4) for value in row.told.values.tolist()]
    elif row.drawn.any():
        marks.append(_silhouette(plot, edges, row.drawn, base))
    first, middle, third = (plot.x(_within(plot.across, value)) for value in row.told.quartiles)
    marks += [
        svg.line((first, base + 3), (third, base + 3), kind="quartiles"),
        svg.line((middle, base - 1), (middle, base + 7), kind="median"),
    ]
    return svg.join(marks)


def _within(axis: svg.Axis, value: float) -> float:
    return min(max(value, axis.low), axis.high)


def _normal(plot: svg.Plot, normal: tuple[float, float], base: float) -> Markup:
    """The reference range as a band, its ends dashed so that it is seen in print too."""
    low, high = (plot.x(_within(plot.across, value)) for value in normal)
    ends = [
        svg.line((plot.x(value), base - _CURVE), (plot.x(value), base + 7), kind="mark")
        for value in normal
        if plot.across.low <= value <= plot.across.high
    ]
    band = svg.bar((low, base - _CURVE), max(high - low, 0.0), _CURVE + 7.0, kind="normal")
    return svg.join([band, *ends])


def _silhouette(plot: svg.Plot, edges: Numbers, counts: Places, base: float) -> Markup:
    tallest = counts.max()
    points = [(plot.x(float(edges[0])), base)]
    for (start, end), count in zip(pairwise(edges.tolist()), counts.tolist(), strict=True):
        y = base - _CURVE * count / tallest
        points += [(plot.x(start), y), (plot.x(end), y)]
    return svg.path([[*points, (plot.x(float(edges[-1])), base)]], kind="silhouette", closed=True)


def _short(name: str, most: int = 15) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _in_words(label: str, rows: Sequence[RidgeRow]) -> str:
    told = [
        f"{row.told.name}: median {row.told.quartiles[1]:.1f}, quartiles {row.told.quartiles[0]:.1f} and "
        f"{row.told.quartiles[2]:.1f}, {row.count} subjects"
        for row in rows
    ]
    return f"{label}. {'; '.join(told)}"


def scatter(plot: svg.Plot, dots: Sequence[Dot], cells: Int[np.ndarray, "y x"], *, level: bool, text: str) -> Markup:
    """Two quantities of each subject against each other; a point with a page is a link to it.

    Args:
        plot: Both axes.
        dots: The subjects that are drawn.
        cells: How many subjects fall into each cell of a grid over the plot, all of them; empty for no cells.
        level: Whether both axes hold the same quantity, so that a line marks where they are equal.
        text: What the figure shows, for those who cannot see it.
    """
    marks = [_cells(plot, cells), svg.frame(plot)]
    if level:
        low, high = max(plot.across.low, plot.up.low), min(plot.across.high, plot.up.high)
        marks.append(svg.line((plot.x(low), plot.y(low)), (plot.x(high), plot.y(high)), kind="mark"))
    marks += [_dot(plot, dot) for dot in dots]
    # A group, not an image: what is inside an image cannot be reached, and these points are links.
    return Markup('<svg role="group" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        text, plot.width, plot.height, svg.join(marks)
    )


def _dot(plot: svg.Plot, dot: Dot) -> Markup:
    kind = f"at {dot.mark} flagged" if dot.flagged else f"at {dot.mark}"
    drawn = Markup('<use class="{}" href="#at-{}" x="{:g}" y="{:g}"><title>{}</title></use>').format(
        kind, dot.mark, plot.x(dot.x), plot.y(dot.y), dot.text
    )
    return Markup('<a href="{}" tabindex="-1">{}</a>').format(dot.page, drawn) if dot.page else drawn


def _cells(plot: svg.Plot, cells: Int[np.ndarray, "y x"]) -> Markup:
    """The cells of the grid, the stronger the more subjects they hold, on a logarithmic scale of ten steps."""
    if not cells.any():
        return Markup("")
    rows, columns = cells.shape
    width = (plot.width - plot.left - plot.right) / columns
    height = (plot.height - plot.top - plot.bottom) / rows
    steps = np.ceil(10 * np.log1p(cells) / np.log1p(cells.max())).astype(int)
    marks = []
    for step in range(1, 11):
        places = np.argwhere(steps == step).tolist()
        corners = [(plot.left + width * x, plot.height - plot.bottom - height * (y + 1)) for y, x in places]
        squares = "".join(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}Z" for x, y in corners)
        if squares:
            marks.append(Markup('<path class="cells c{}" d="{}"/>').format(step, squares))
    return svg.join(marks)


def effects(rows: Sequence[tuple[str, Tested]]) -> Markup:
    """Effect sizes with their intervals, one below the other; filled where they are discoveries.

    Args:
        rows: Name of the quantity and its test; at least one.
    """
    reach = max(
        0.5, *(abs(end) for _, test in rows for end in (test.difference.effect_low, test.difference.effect_high))
    )
    across = svg.axis("Hedges' g: difference in standard deviations", [-min(reach, 3.0), 0.0, min(reach, 3.0)])
    plot = svg.Plot(across, svg.Axis("", 0.0, 1.0, ()), width=640, height=58 + 24 * len(rows), left=300, top=10)
    marks = [_upright(plot), svg.line((plot.x(0), plot.top), (plot.x(0), plot.height - plot.bottom), kind="axis")]
    for number, (name, test) in enumerate(rows):
        y = plot.top + 24.0 * (number + 0.5)
        marks += [svg.words(_short(name, 44), (plot.left - 10, y + 4), kind="stratum end"), _effect(plot, test, y)]
    marks += [svg.words(svg.number(t), (plot.x(t), plot.height - 27), kind="tick middle") for t in across.ticks]
    middle = (plot.left + plot.width - plot.right) / 2
    marks.append(svg.words(across.label, (middle, plot.height - 6), kind="name middle"))
    text = "; ".join(f"{name}: {test.difference.effect:.2f}, q {test.q:.3g}" for name, test in rows)
    return svg.picture(plot.width, plot.height, marks, text=f"{across.label}. {text}")


def _effect(plot: svg.Plot, test: Tested, y: float) -> Markup:
    found = test.difference
    low, middle, high = (
        plot.x(_within(plot.across, value)) for value in (found.effect_low, found.effect, found.effect_high)
    )
    kind = "dot found" if test.is_discovery else "dot open"
    return svg.line((low, y), (high, y), kind="interval") + svg.dot((middle, y), kind=kind, radius=4.5)


def mean_curve(phases: Numbers, curves: Sequence[tuple[str, str, Numbers, Numbers]], *, up: str) -> Markup:
    """Mean curves over the cycle, each in a band of one standard deviation.

    Args:
        phases: Per cent of the cycle, one a point.
        curves: Name, kind, mean and standard deviation of each.
        up: Quantity and unit.
    """
    ends = [value for _, _, mean, sd in curves for value in (*(mean - sd).tolist(), *(mean + sd).tolist())]
    plot = svg.Plot(svg.axis("% of the cycle", [0.0, 100.0]), svg.axis(up, ends))
    marks = [svg.frame(plot)]
    for _, kind, mean, sd in curves:
        top = [(plot.x(x), plot.y(y)) for x, y in zip(phases.tolist(), (mean + sd).tolist(), strict=True)]
        foot = [(plot.x(x), plot.y(y)) for x, y in zip(phases.tolist(), (mean - sd).tolist(), strict=True)]
        marks.append(svg.path([[*top, *reversed(foot)]], kind=f"spread {kind}", closed=True))
    for _, kind, mean, _ in curves:
        line = [(plot.x(x), plot.y(y)) for x, y in zip(phases.tolist(), mean.tolist(), strict=True)]
        marks.append(svg.path([line], kind=f"curve {kind}"))
    text = "; ".join(f"{name}: from {mean.max():.0f} to {mean.min():.0f}" for name, _, mean, _ in curves)
    return svg.picture(plot.width, plot.height, marks, text=f"{up} over the cycle. {text}")
