"""Figures of single slices, of cycles and of agreement: arrays and numbers in, SVG out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

from cmnet_cli.report.data.slice_geometry import Contour
from cmnet_cli.report.plot import svg
from cmnet_core.labels import Label

_T = TypeVar("_T")

_LEAST_VALUES_OF_A_BOX = 5
_WHISKER = 1.5

# More points than this cannot be distinguished.
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the cycle.

    Attributes:
        name: Name in the legend.
        kind: Class in the style sheet.
        values: One per frame.
    """

    name: str
    kind: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """The interval of a quantity at one frame.

    Attributes:
        kind: Class in the style sheet.
        frame: The frame.
        low: Lower limit.
        high: Upper limit.
    """

    kind: str
    frame: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ValueGroup:
    """The values of one group.

    Attributes:
        name: Name beside the row.
        kind: Class in the style sheet.
        values: One per subject.
    """

    name: str
    kind: str
    values: tuple[float, ...]


def slice_figure(grey: UInt8[np.ndarray, "height width"], outlines: Sequence[Contour], *, text: str) -> Markup:
    """Draw a slice of the heart with the contours of its structures.

    Args:
        grey: The image.
        outlines: Contours in voxels of the image.
        text: Text alternative of the figure for screen readers.
    """
    height, width = grey.shape
    marks = [svg.image(grey)]
    for outline in outlines:
        # Voxel centres are at whole numbers, the image's corner half a voxel before the first of them.
        lines = [[(float(x) + 0.5, float(y) + 0.5) for x, y in line] for line in outline.lines]
        kind = f"contour {Label(outline.structure).name.lower()}"
        marks.append(svg.path(lines, kind=kind, closed=True))
    return svg.picture(width, height, marks, text=text)


@dataclass(frozen=True, slots=True)
class CycleAxis:
    """The time axis of a cardiac cycle.

    Attributes:
        times: One per frame.
        label: Name and unit of the times.
        marked: Names and frames that are marked with a vertical line, for instance ED.
    """

    times: tuple[float, ...]
    label: str
    marked: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ReferenceBand:
    """A range of values that is drawn behind the curves.

    Attributes:
        low: Lower limit.
        high: Upper limit.
        text: What it is, as a tooltip.
    """

    low: float
    high: float
    text: str


# Part of a vertical axis by which intervals may extend it; longer ones end in an arrow at its end.
_INTERVAL_FRACTION = 0.25


def cycle_figure(
    time: CycleAxis,
    curves: Sequence[Curve],
    *,
    label: str,
    bands: Sequence[Band] = (),
    limits: tuple[float, float] | None = None,
    reference: ReferenceBand | None = None,
) -> Markup:
    """Draw curves over the cardiac cycle.

    Args:
        time: The time axis.
        curves: Curves of one value per frame.
        label: Quantity and unit of the curves.
        bands: Intervals at single frames. One that does not fit ends in an arrow.
        limits: Ends of the vertical axis; values beyond them are drawn at its end with a mark. None for an axis that
            fits the curves.
        reference: Range that is drawn behind the curves.
    """
    x_axis = svg.axis(time.label, time.times, whole=True)
    y_axis = _value_axis(label, curves, bands) if limits is None else svg.axis(label, limits)
    plot = svg.Plot(x_axis, y_axis, width=340, height=240, left=40)
    marks = [svg.frame(plot)]
    if reference is not None:
        low, high = (min(max(value, y_axis.low), y_axis.high) for value in (reference.low, reference.high))
        corner, width = (plot.left, plot.y(high)), plot.width - plot.left - plot.right
        marks.append(svg.bar(corner, width, plot.y(low) - plot.y(high), kind="reference", text=reference.text))
    marks += [*_marked_frames(plot, time), *(_band(plot, time, band) for band in bands)]
    for curve in curves:
        points = [
            (plot.x(at), plot.y(_within(y_axis, value))) for at, value in zip(time.times, curve.values, strict=True)
        ]
        marks.append(svg.path([points], kind=f"curve {curve.kind}", text=curve.name))
        marks += [
            _beyond(plot, x, curve.kind, upwards=value > y_axis.high)
            for (x, _), value in zip(points, curve.values, strict=True)
            if value != _within(y_axis, value)
        ]
    ends = ((plot.x(time.times[0]), plot.top), (plot.x(time.times[-1]), plot.height - plot.bottom))
    # The frame that the player shows; its script moves the line between the first frame and the last.
    marks.append(
        Markup('<line class="now" data-first="{0:g}" data-last="{2:g}" y1="{1:g}" y2="{3:g}"/>').format(
            *ends[0], *ends[1]
        )
    )
    names = " and ".join(curve.name for curve in curves)
    return svg.picture(plot.width, plot.height, marks, text=f"{names}: {label} over {time.label}")


def _value_axis(label: str, curves: Sequence[Curve], bands: Sequence[Band]) -> svg.Axis:
    """An axis from 0 that fits all curves, and intervals up to a fraction of it."""
    values = [0.0, *(value for curve in curves for value in curve.values)]
    low, high = min(values), max(values)
    margin = _INTERVAL_FRACTION * (high - low)
    limits = [limit for band in bands for limit in (band.low, band.high)]
    return svg.axis(label, [*values, *(min(max(limit, low - margin), high + margin) for limit in limits)])


def _within(axis: svg.Axis, value: float) -> float:
    return min(max(value, axis.low), axis.high)


def _beyond(plot: svg.Plot, x: float, kind: str, *, upwards: bool) -> Markup:
    """A triangle at the end of the vertical axis, which points to a value beyond it."""
    y, tip = (plot.top, -6.0) if upwards else (plot.height - plot.bottom, 6.0)
    return svg.path([[(x - 4.0, y), (x + 4.0, y), (x, y + tip)]], kind=f"beyond {kind}", closed=True)


def _marked_frames(plot: svg.Plot, time: CycleAxis) -> list[Markup]:
    base = plot.height - plot.bottom
    marks = []
    for name, frame in time.marked:
        x = plot.x(time.times[frame])
        marks += [
            svg.line((x, plot.top), (x, base), kind="mark"),
            svg.text(name, (x + 4, base - 7), kind="marked"),
        ]
    return marks


def _band(plot: svg.Plot, time: CycleAxis, band: Band) -> Markup:
    x, width = plot.x(time.times[band.frame]), 9.0
    low, high = (_within(plot.y_axis, limit) for limit in (band.low, band.high))
    corner = (x - width / 2, plot.y(high))
    text = f"95 % interval {svg.format_tick(round(band.low, 1))} to {svg.format_tick(round(band.high, 1))}"
    bar = svg.bar(corner, width, plot.y(low) - plot.y(high), kind=f"band {band.kind}", text=text)
    arrows = [
        _beyond(plot, x, band.kind, upwards=upwards)
        for upwards, is_cut in ((True, high < band.high), (False, low > band.low))
        if is_cut
    ]
    return svg.join([bar, *arrows])


def strip_plot(label: str, groups: Sequence[ValueGroup]) -> Markup:
    """Draw the values of several groups one below the other: one point per subject, a bar at the median.

    Args:
        label: Quantity and unit.
        groups: Each with at least one value.
    """
    x_axis = svg.axis(label, [value for group in groups for value in group.values])
    y_axis = svg.Axis("", 0.0, float(len(groups)), ())
    plot = svg.Plot(x_axis, y_axis, width=440, height=62 + 30 * len(groups), left=178, top=8)
    marks = [svg.frame(plot)]
    for row, group in enumerate(groups):
        y = plot.y(len(groups) - row - 0.5)
        marks.append(svg.text(group.name, (plot.left - 10, y + 4), kind="tick end"))
        for value in _thinned(sorted(group.values)):
            marks.append(svg.dot((plot.x(value), y), kind=f"dot faint {group.kind}", radius=4))
        median = plot.x(float(np.median(group.values)))
        marks.append(svg.line((median, y - 9), (median, y + 9), kind="median"))
    text = "; ".join(f"{group.name}: median {np.median(group.values):.1f}" for group in groups)
    return svg.picture(plot.width, plot.height, marks, text=f"{label}. {text}")


def box_plot(label: str, groups: Sequence[ValueGroup]) -> Markup:
    """Draw the values of several groups as boxes one below the other (Tukey, Exploratory Data Analysis, 1977).

    A box reaches from the lower to the upper quartile, with a bar at the median; whiskers reach to the last value
    within 1.5 times the length of the box, and every value beyond is a point. Fewer values than the five numbers of a
    box are drawn as points.

    Args:
        label: Quantity and unit.
        groups: Each with at least one value.
    """
    x_axis = svg.axis(label, [value for group in groups for value in group.values])
    plot = svg.Plot(
        x_axis, svg.Axis("", 0.0, float(len(groups)), ()), width=440, height=62 + 26 * len(groups), left=178, top=8
    )
    marks = [svg.frame(plot)]
    for row, group in enumerate(groups):
        y = plot.y(len(groups) - row - 0.5)
        marks.append(svg.text(group.name, (plot.left - 10, y + 4), kind="tick end"))
        marks += _box(plot, group, y)
    text = "; ".join(f"{group.name}: median {np.median(group.values):.3g}" for group in groups)
    return svg.picture(plot.width, plot.height, marks, text=f"{label}. {text}")


def _box(plot: svg.Plot, group: ValueGroup, y: float) -> list[Markup]:
    """Return the marks of one group around a height of the plot."""
    low, middle, high = (float(value) for value in np.quantile(group.values, (0.25, 0.5, 0.75)))
    median = svg.line((plot.x(middle), y - 8), (plot.x(middle), y + 8), kind="median")
    outside = list(group.values)
    marks: list[Markup] = []
    if len(group.values) >= _LEAST_VALUES_OF_A_BOX:
        reach = _WHISKER * (high - low)
        within = [value for value in group.values if low - reach <= value <= high + reach]
        outside = [value for value in group.values if value not in within]
        marks += [
            svg.line((plot.x(min(within)), y), (plot.x(low), y), kind="whisker"),
            svg.line((plot.x(high), y), (plot.x(max(within)), y), kind="whisker"),
            svg.bar((plot.x(low), y - 7), max(plot.x(high) - plot.x(low), 0.5), 14, kind=f"box {group.kind}"),
        ]
    points = [svg.dot((plot.x(value), y), kind=f"dot faint {group.kind}", radius=3.0) for value in outside]
    return [*marks, *_thinned(points), median]


def _thinned(values: Sequence[_T]) -> Sequence[_T]:
    """Choose evenly so many of a sorted sequence as can be distinguished; the first and the last are kept."""
    if len(values) <= _MOST_POINTS:
        return values
    return [values[round(i * (len(values) - 1) / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]


def bland_altman(label: str, estimates: Sequence[float], references: Sequence[float]) -> Markup:
    """Draw difference over mean, with bias and limits of agreement (Bland and Altman, Lancet 1986).

    Args:
        label: Quantity and unit.
        estimates: Values by cmnet, one per subject; at least two.
        references: Reference values, in the same order.
    """
    difference = np.asarray(estimates, dtype=float) - np.asarray(references, dtype=float)
    mean = (np.asarray(estimates, dtype=float) + np.asarray(references, dtype=float)) / 2.0
    bias, half_width = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    limits = (bias - half_width, bias, bias + half_width)
    plot = svg.Plot(svg.axis(f"mean {label}", mean.tolist()), svg.axis("difference", [*difference.tolist(), *limits]))
    marks = [svg.frame(plot)]
    for limit, kind in zip(limits, ("mark", "median flat", "mark"), strict=True):
        marks.append(svg.line((plot.left, plot.y(limit)), (plot.width - plot.right, plot.y(limit)), kind=kind))
    for x, y in _thinned(sorted(zip(mean.tolist(), difference.tolist(), strict=True))):
        marks.append(svg.dot((plot.x(x), plot.y(y)), kind="dot point faint", radius=3.5))
    text = f"{label}: bias {bias:.1f}, limits of agreement {limits[0]:.1f} to {limits[2]:.1f}"
    return svg.picture(plot.width, plot.height, marks, text=text)
