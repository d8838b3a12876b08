"""The report's figures: arrays and numbers in, SVG out. Nothing here knows of files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.overlay import Contour
from cmnet_core.labels import Label

_T = TypeVar("_T")

# More points than this are no longer told apart.
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the cycle.

    Attributes:
        name: As in the legend.
        kind: Its class in the style sheet.
        values: One a frame.
    """

    name: str
    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """The interval of a quantity at one frame.

    Attributes:
        kind: Its class in the style sheet.
        frame: Where it is drawn.
        low: Its lower end.
        high: Its upper end.
    """

    kind: str
    frame: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one group.

    Attributes:
        name: As beside the row.
        kind: Its class in the style sheet.
        values: One a subject.
    """

    name: str
    kind: str
    values: tuple[float, ...]


def heart(grey: UInt8[np.ndarray, "height width"], outlines: Sequence[Contour], *, text: str) -> Markup:
    """A slice of the heart with the outlines of its structures.

    Args:
        grey: The picture.
        outlines: Contours in its voxels.
        text: What the picture shows, for those who cannot see it.
    """
    height, width = grey.shape
    marks = [svg.image(grey)]
    for outline in outlines:
        # Voxel centres lie at whole numbers, the picture's corner half a voxel before the first of them.
        lines = [[(float(x) + 0.5, float(y) + 0.5) for x, y in line] for line in outline.lines]
        kind = f"contour {Label(outline.structure).name.lower()}"
        marks.append(svg.path(lines, kind=kind, closed=True))
    return svg.picture(width, height, marks, text=text)


@dataclass(frozen=True, slots=True)
class Cycle:
    """The frames of a cardiac cycle, as a figure shows them.

    Attributes:
        times: One a frame.
        across: Name and unit of the times.
        marked: Names of frames that get a vertical line, for instance ED.
    """

    times: tuple[float, ...]
    across: str
    marked: tuple[tuple[str, int], ...]


def cycle(
    over: Cycle, curves: Sequence[Curve], *, up: str, bands: Sequence[Band] = (), held: Sequence[float] = ()
) -> Markup:
    """Curves over the cardiac cycle.

    Args:
        over: The frames.
        curves: What is drawn, one value a frame.
        up: Quantity and unit of the curves.
        bands: Intervals at single frames.
        held: More values that the axis is to hold, so that figures can be compared.
    """
    everything = [value for curve in curves for value in curve.values]
    everything += [*held, *(end for band in bands for end in (band.low, band.high))]
    across, upwards = svg.axis(over.across, over.times, whole=True), svg.axis(up, everything, from_zero=True)
    plot = svg.Plot(across, upwards, width=340, height=240, left=40)
    marks = [svg.frame(plot), *_marked(plot, over), *(_band(plot, over, band) for band in bands)]
    for curve in curves:
        points = [(plot.x(time), plot.y(value)) for time, value in zip(over.times, curve.values, strict=True)]
        marks.append(svg.path([points], kind=f"curve {curve.kind}", text=curve.name))
    ends = ((plot.x(over.times[0]), plot.top), (plot.x(over.times[-1]), plot.height - plot.bottom))
    # Where the page's player is; its script moves the line between the first frame and the last.
    marks.append(
        Markup('<line class="now" data-first="{0:g}" data-last="{2:g}" y1="{1:g}" y2="{3:g}"/>').format(
            *ends[0], *ends[1]
        )
    )
    names = " and ".join(curve.name for curve in curves)
    return svg.picture(plot.width, plot.height, marks, text=f"{names}: {up} over {over.across}")


def _marked(plot: svg.Plot, over: Cycle) -> list[Markup]:
    base = plot.height - plot.bottom
    drawn = []
    for name, index in over.marked:
        x = plot.x(over.times[index])
        drawn += [
            svg.line((x, plot.top), (x, base), kind="mark"),
            svg.words(name, (x + 4, base - 7), kind="marked"),
        ]
    return drawn


def _band(plot: svg.Plot, over: Cycle, band: Band) -> Markup:
    x, width = plot.x(over.times[band.frame]), 9.0
    corner = (x - width / 2, plot.y(band.high))
    text = f"95 % interval {svg.number(round(band.low, 1))} to {svg.number(round(band.high, 1))}"
    return svg.bar(corner, width, plot.y(band.low) - plot.y(band.high), kind=f"band {band.kind}", text=text)


def spreads(label: str, groups: Sequence[Spread]) -> Markup:
    """Values of several groups below each other: one point a subject, a bar at the median.

    Args:
        label: Quantity and unit.
        groups: Each with at least one value.
    """
    across = svg.axis(label, [value for group in groups for value in group.values])
    up = svg.Axis("", 0.0, float(len(groups)), ())
    plot = svg.Plot(across, up, width=440, height=62 + 30 * len(groups), left=165, top=8)
    marks = [svg.frame(plot)]
    for row, group in enumerate(groups):
        y = plot.y(len(groups) - row - 0.5)
        marks.append(svg.words(group.name, (plot.left - 10, y + 4), kind="tick end"))
        for value in _thinned(sorted(group.values)):
            marks.append(svg.dot((plot.x(value), y), kind=f"dot faint {group.kind}", radius=4))
        middle = plot.x(float(np.median(group.values)))
        marks.append(svg.line((middle, y - 9), (middle, y + 9), kind="median"))
    text = "; ".join(f"{group.name}: median {np.median(group.values):.1f}" for group in groups)
    return svg.picture(plot.width, plot.height, marks, text=f"{label}. {text}")


def _thinned(values: Sequence[_T]) -> Sequence[_T]:
    """As many values as can be told apart, evenly chosen from a sorted sequence; the first and the last stay."""
    if len(values) <= _MOST_POINTS:
        return values
    return [values[round(i * (len(values) - 1) / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]


def agreement(label: str, estimates: Sequence[float], references: Sequence[float]) -> Markup:
    """Difference over mean, with bias and limits of agreement (Bland and Altman, Lancet 1986).

    Args:
        label: Quantity and unit.
        estimates: What cmnet found, one a subject; at least two.
        references: What it is compared with, in the same order.
    """
    difference = np.asarray(estimates, dtype=float) - np.asarray(references, dtype=float)
    mean = (np.asarray(estimates, dtype=float) + np.asarray(references, dtype=float)) / 2.0
    bias, reach = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    limits = (bias - reach, bias, bias + reach)
    plot = svg.Plot(svg.axis(f"mean {label}", mean.tolist()), svg.axis("difference", [*difference.tolist(), *limits]))
    marks = [svg.frame(plot)]
    for level, kind in zip(limits, ("mark", "median flat", "mark"), strict=True):
        marks.append(svg.line((plot.left, plot.y(level)), (plot.width - plot.right, plot.y(level)), kind=kind))
    for x, y in _thinned(sorted(zip(mean.tolist(), difference.tolist(), strict=True))):
        marks.append(svg.dot((plot.x(x), plot.y(y)), kind="dot point faint", radius=3.5))
    text = f"{label}: bias {bias:.1f}, limits of agreement {limits[0]:.1f} to {limits[2]:.1f}"
    return svg.picture(plot.width, plot.height, marks, text=text)
