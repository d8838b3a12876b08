"""Two quantities of each subject against each other; the points lead to the subjects' pages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cmnet_cli.privacy.deidentify import MIN_GROUP_SIZE
from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import NOBODY, Numbers, Places
from cmnet_cli.report.data.strata import scale_of
from cmnet_cli.report.formatting import Quantity, named, shown
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.cohort_figures import MARKS, Dot, scatter

MOST_DOTS = 1200
"""More subjects than this are sampled: their points would hide each other, and the page would be slow."""

MOST_FLAGGED = 300
"""So many of the flagged subjects that have a page are drawn whatever the sample is."""

_SEED = 1
_GRID = (36, 48)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two columns of the indices.

    Attributes:
        across: On the horizontal axis.
        up: On the vertical axis.
        level: Whether both would be equal in an ideal heart.
    """

    across: str
    up: str
    level: bool = False


PAIRINGS = (
    Pairing("gcs_peak_pct", "lvef_pct"),
    Pairing("lvsv_ml", "rvsv_ml", level=True),
    Pairing("lvedv_ml", "lvm_g"),
    Pairing("lvedv_ml", "rvedv_ml"),
    Pairing("age_years", "lvef_pct"),
    Pairing("bsa_m2", "lvedv_ml"),
)
"""What is drawn where both columns have values."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The subjects that are drawn as points.

    Attributes:
        places: Where they stand.
        is_everyone: Whether nobody is left out.
        flagged: How many were added to a random sample because they are flagged and have a page.
    """

    places: Places
    is_everyone: bool
    flagged: int = 0


@dataclass(frozen=True, slots=True)
class ScatterPlot:
    """A figure and the line below it."""

    drawing: Markup
    caption: str


def sample_of(showing: Showing) -> Sample:
    """Draw subjects at random, the same ones each time, and add the flagged ones that have a page."""
    size = showing.population.size
    if showing.deidentifier.share_safe:
        return Sample(np.zeros(0, np.int64), is_everyone=False)
    if size <= MOST_DOTS:
        return Sample(np.arange(size), is_everyone=True)
    drawn = np.random.default_rng(_SEED).choice(size, MOST_DOTS, replace=False)
    warned = [place for place in showing.pages if showing.population.warnings[place]][:MOST_FLAGGED]
    added = np.setdiff1d(np.array(warned, dtype=np.int64), drawn)
    return Sample(np.sort(np.concatenate([drawn, added])), is_everyone=False, flagged=len(added))


def scatter_plots(showing: Showing, sample: Sample) -> list[ScatterPlot]:
    """Every pairing whose columns both have values in enough subjects."""
    wanted = [pair for pair in PAIRINGS if showing.population.has(pair.across) and showing.population.has(pair.up)]
    plots = (_scatter(showing, sample, pair) for pair in wanted)
    return [plot for plot in plots if plot is not None]


def _scatter(showing: Showing, sample: Sample, pair: Pairing) -> ScatterPlot | None:
    across, up = named("indices", (pair.across, pair.up))
    x, y = (showing.population.numbers(column) for column in (pair.across, pair.up))
    both = np.isfinite(x) & np.isfinite(y)
    if not both.any() or showing.deidentifier.hides(int(both.sum())):
        return None
    plot = svg.Plot(scale_of(_named(across), x[both]), scale_of(_named(up), y[both]), height=320)
    caption = f"{across.meaning} and {up.meaning}: {_relation(x[both], y[both], showing)}"
    dots = _dots(showing, sample, plot, (x, y), (across, up))
    cells = np.zeros(_GRID, np.int64) if sample.is_everyone else _cells(plot, x[both], y[both])
    if showing.deidentifier.share_safe:
        cells = np.where(cells < MIN_GROUP_SIZE, 0, cells)
    return ScatterPlot(scatter(plot, dots, cells, level=pair.level, text=caption), caption)


def _named(quantity: Quantity) -> str:
    return f"{quantity.meaning} ({quantity.unit})" if quantity.unit else quantity.meaning


def _relation(x: Numbers, y: Numbers, showing: Showing) -> str:
    told = f"{showing.counting.told(len(x))} subjects"
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return told
    return f"{told}, r\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{shown(float(np.corrcoef(x, y)[0, 1]), decimals=2)}"


def _cells(plot: svg.Plot, x: Numbers, y: Numbers) -> Places:
    rows, columns = _GRID
    edges = (
        np.linspace(plot.up.low, plot.up.high, rows + 1),
        np.linspace(plot.across.low, plot.across.high, columns + 1),
    )
    return np.histogram2d(y, x, edges)[0].astype(np.int64)


def _dots(
    showing: Showing,
    sample: Sample,
    plot: svg.Plot,
    values: tuple[Numbers, Numbers],
    quantities: tuple[Quantity, Quantity],
) -> list[Dot]:
    x, y = values
    # A point beyond the axes, which hold all but the outermost of a large cohort, would lie on other figures.
    inside = (x >= plot.across.low) & (x <= plot.across.high) & (y >= plot.up.low) & (y <= plot.up.high)
    drawn = sample.places[inside[sample.places]]
    marks = _marks(showing)[drawn].tolist()
    links = showing.links(drawn.tolist())
    units = [quantity.unit for quantity in quantities]
    dots = []
    for place, mark, link in zip(drawn.tolist(), marks, links, strict=True):
        text = f"{link.name}: {shown(x[place])} {units[0]}, {shown(y[place])} {units[1]}"
        flagged = bool(showing.population.warnings[place])
        dots.append(Dot(float(x[place]), float(y[place]), mark, link.page, text, flagged))
    return dots


def _marks(showing: Showing) -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    """The mark of each subject: by what is compared; a plain one for who is in none of it."""
    names = np.array([*MARKS[: len(showing.compared.shown)], "none"])
    codes = showing.compared.codes
    return names[np.where(codes == NOBODY, len(names) - 1, codes)]


def key_of(showing: Showing) -> Sequence[tuple[str, str]]:
    """Mark and name of what is told apart in the scatter plots."""
    return list(zip(MARKS, showing.compared.names, strict=False))
