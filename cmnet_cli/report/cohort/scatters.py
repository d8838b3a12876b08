"""Scatter plots of two quantities of each subject; the points link to the subjects' pages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmnet_cli.privacy.deidentify import MIN_GROUP_SIZE
from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import UNASSIGNED, FloatArray, IntArray
from cmnet_cli.report.formatting import Quantity, format_number, select_quantities
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.cohort_figures import GROUP_MARKERS, ScatterPoint, scatter, value_axis

MOST_POINTS = 1200
"""A cohort of more subjects is sampled: their points would hide each other, and the page would be slow."""

MOST_FLAGGED = 300
"""Largest number of flagged subjects with a page that are drawn in addition to the sample."""

_SEED = 1
# Rows and columns of the cells that show the density of all subjects.
_GRID = (36, 48)


@dataclass(frozen=True, slots=True)
class QuantityPair:
    """Two columns of the indices.

    Attributes:
        x: Column on the horizontal axis.
        y: Column on the vertical axis.
        identity_line: Whether both are equal in an ideal heart, so that the line of equality is drawn.
    """

    x: str
    y: str
    identity_line: bool = False


QUANTITY_PAIRS = (
    QuantityPair("gcs_line_midwall_peak_pct", "lvef_pct"),
    QuantityPair("lvsv_ml", "rvsv_ml", identity_line=True),
    QuantityPair("lvedv_ml", "lvm_g"),
    QuantityPair("lvedv_ml", "rvedv_ml"),
    QuantityPair("age_years", "lvef_pct"),
    QuantityPair("bsa_m2", "lvedv_ml"),
)
"""The pairs that are drawn where both columns have values."""


@dataclass(frozen=True, slots=True)
class PlottedSample:
    """The subjects that are drawn as points.

    Attributes:
        rows: Their row numbers.
        is_complete: Whether no subject is left out.
        flagged: Number of subjects that were added to a random sample because they have a warning and a page.
    """

    rows: IntArray
    is_complete: bool
    flagged: int = 0


def plotted_sample(context: CohortContext) -> PlottedSample:
    """Draw subjects at random, the same ones each time, and add the flagged ones that have a page."""
    size = context.population.size
    if context.deidentifier.share_safe:
        return PlottedSample(np.zeros(0, np.int64), is_complete=False)
    if size <= MOST_POINTS:
        return PlottedSample(np.arange(size), is_complete=True)
    drawn = np.random.default_rng(_SEED).choice(size, MOST_POINTS, replace=False)
    warned = [row for row in context.pages if context.population.warnings[row]][:MOST_FLAGGED]
    added = np.setdiff1d(np.array(warned, dtype=np.int64), drawn)
    return PlottedSample(np.sort(np.concatenate([drawn, added])), is_complete=False, flagged=len(added))


def scatter_plots(context: CohortContext, sample: PlottedSample) -> list[svg.CaptionedFigure]:
    """Draw every pair of quantities that both have values in enough subjects."""
    known = [pair for pair in QUANTITY_PAIRS if context.population.has(pair.x) and context.population.has(pair.y)]
    plots = (_scatter(context, sample, pair) for pair in known)
    return [plot for plot in plots if plot is not None]


def _scatter(context: CohortContext, sample: PlottedSample, pair: QuantityPair) -> svg.CaptionedFigure | None:
    quantities = select_quantities("indices", (pair.x, pair.y))
    x, y = (context.population.numbers(quantity.column) for quantity in quantities)
    both = np.isfinite(x) & np.isfinite(y)
    if not both.any() or context.deidentifier.hides(int(both.sum())):
        return None
    x_axis, y_axis = (
        value_axis(quantity.full_label, values[both]) for quantity, values in zip(quantities, (x, y), strict=True)
    )
    plot = svg.Plot(x_axis, y_axis, height=320)
    caption = f"{quantities[0].meaning} and {quantities[1].meaning}: {_correlation(x[both], y[both], context)}"
    points = _points(context, sample, plot, (x, y), quantities)
    cells = np.zeros(_GRID, np.int64) if sample.is_complete else _cells(plot, x[both], y[both])
    if context.deidentifier.share_safe:
        cells = np.where(cells < MIN_GROUP_SIZE, 0, cells)
    return svg.CaptionedFigure(scatter(plot, points, cells, identity_line=pair.identity_line, text=caption), caption)


def _correlation(x: FloatArray, y: FloatArray, context: CohortContext) -> str:
    subjects = f"{context.counts.told(len(x))} subjects"
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return subjects
    r = format_number(float(np.corrcoef(x, y)[0, 1]), decimals=2)
    return f"{subjects}, r\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{r}"


def _cells(plot: svg.Plot, x: FloatArray, y: FloatArray) -> IntArray:
    rows, columns = _GRID
    edges = (
        np.linspace(plot.y_axis.low, plot.y_axis.high, rows + 1),
        np.linspace(plot.x_axis.low, plot.x_axis.high, columns + 1),
    )
    return np.histogram2d(y, x, edges)[0].astype(np.int64)


def _points(
    context: CohortContext,
    sample: PlottedSample,
    plot: svg.Plot,
    values: tuple[FloatArray, FloatArray],
    quantities: Sequence[Quantity],
) -> list[ScatterPoint]:
    x, y = values
    # The axes leave out the outermost subjects of a large cohort; their points would be drawn over other figures.
    inside = (x >= plot.x_axis.low) & (x <= plot.x_axis.high) & (y >= plot.y_axis.low) & (y <= plot.y_axis.high)
    drawn = sample.rows[inside[sample.rows]]
    markers = _markers(context)[drawn].tolist()
    links = context.links(drawn.tolist())
    units = [quantity.unit for quantity in quantities]
    points = []
    for row, marker, link in zip(drawn.tolist(), markers, links, strict=True):
        text = f"{link.name}: {format_number(x[row])} {units[0]}, {format_number(y[row])} {units[1]}"
        flagged = bool(context.population.warnings[row])
        points.append(ScatterPoint(float(x[row]), float(y[row]), marker, link.page, text, flagged))
    return points


def _markers(context: CohortContext) -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    """Return the marker of each subject by the compared strata; a plain one for subjects in none of them."""
    names = np.array([*GROUP_MARKERS[: len(context.compared.shown)], "none"])
    codes = context.compared.codes
    return names[np.where(codes == UNASSIGNED, len(names) - 1, codes)]


def marker_key(context: CohortContext) -> Sequence[tuple[str, str]]:
    """Return marker and name of the compared strata."""
    return list(zip(GROUP_MARKERS, context.compared.names, strict=False))
