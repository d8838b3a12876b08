"""The cohort page: everything that is told of a population, put together for its template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.report.cohort.comparison import illustrate
from cmnet_cli.report.cohort.differences import contrasts
from cmnet_cli.report.cohort.distributions import Card, chapters, distributions, first_quantities
from cmnet_cli.report.cohort.group_bullseyes import bullseye_rows
from cmnet_cli.report.cohort.scatters import key_of, sample_of, scatter_plots
from cmnet_cli.report.data.cohort_context import Link, Showing
from cmnet_cli.report.data.cohort_table import NOBODY, Numbers, Places, Strata
from cmnet_cli.report.data.load_results import read_provenance
from cmnet_cli.report.data.mean_curves import mean_cycles, phases
from cmnet_cli.report.data.qc_summary import failures_of, flags_of, states_of
from cmnet_cli.report.data.throughput import host_times, stage_times
from cmnet_cli.report.formatting import Quantity, Tile, is_warning, named, shown
from cmnet_cli.report.plot import cohort_figures
from cmnet_cli.report.subject.index_table import read_ranges
from cmnet_core.function.reference_ranges import ReferenceRange

_COLUMNS = (
    "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvsv_ml", "rvef_pct",
    "gcs_peak_pct",
)  # fmt: skip
_TILES = ("lvef_pct", "gcs_peak_pct", "lvedv_ml", "lvm_g", "rvef_pct")

# What the table can hold and the page still open at once; tables/indices.parquet holds the rest.
MOST_ROWS = 1000

# What a source says of one sex only.
_SAMPLE = re.compile(r",? \d+ (wo)?men\b")

# Curves that share an axis: columns of the table frames with their names and kinds.
_CYCLES = {
    "volume (mL)": (
        ("lv_ml", "left ventricle", "lv"), ("rv_ml", "right ventricle", "rv"),
        ("myo_ml", "myocardium", "myo"),
    ),
    "strain (%)": (
        ("grs_pct", "radial", "s0"), ("gcs_pct", "circumferential", "s1"),
        ("gls_sax_pct", "longitudinal (SAX)", "s2"),
    ),
    "twist (degrees)": (("twist_deg", "apex against base", "all"),),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CycleFigure:
    """Mean curves on one axis.

    Attributes:
        drawing: The figure.
        key: Kind and name of each curve.
    """

    drawing: Markup
    key: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TableRow:
    """A subject in the cohort's table."""

    link: Link
    cells: tuple[str, ...]
    quality: str


def render_cohort(pages: Environment, showing: Showing) -> str:
    """The cohort page."""
    states = states_of(showing.population)
    total = sum(states.values())
    told = {state: showing.counting.told(number) for state, number in states.items()}
    everything = {
        "share_safe": showing.deidentifier.share_safe,
        "hidden": showing.deidentifier.hides(total),
        "total": showing.counting.told(total),
        "states": told,
        "provenance": read_provenance(showing.population.folder, showing.deidentifier),
    }
    if not everything["hidden"]:
        everything |= _troubles(showing) | _figures(showing) | _rows(showing)
    return pages.get_template("index.html").render(everything)


def _troubles(showing: Showing) -> dict[str, Any]:
    population, counting = showing.population, showing.counting
    flags = flags_of(showing)
    warned = int((population.warnings > 0).sum())
    return {
        "size": population.size,
        "pages_made": len(showing.pages),
        "tiles": _tiles(showing),
        "warned": counting.told(warned) if population.size else "",
        "failures": failures_of(showing),
        "flags": [flag for flag in flags if is_warning(flag.code)],
        "remarks": [flag for flag in flags if not is_warning(flag.code)],
        "times": stage_times(showing),
        "hosts": host_times(showing),
    }


def _tiles(showing: Showing) -> list[Tile]:
    """Medians of what is asked for first."""
    tiles = []
    for quantity in _known(showing, _TILES):
        values = showing.population.numbers(quantity.column)
        known = values[np.isfinite(values)]
        if not showing.deidentifier.hides(len(known)):
            decimals = 0 if quantity.unit in ("mL", "g") else 1
            tiles.append(
                Tile(f"median {quantity.title}", shown(float(np.median(known)), decimals=decimals), quantity.unit)
            )
    return tiles


def _known(showing: Showing, columns: Sequence[str]) -> list[Quantity]:
    return named("indices", [column for column in columns if showing.population.has(column)])


def _figures(showing: Showing) -> dict[str, Any]:
    ranges = read_ranges(showing.population.folder)
    sample = sample_of(showing)
    return {
        "by_sex": showing.by_sex,
        "by_group": showing.by_group,
        "compared": showing.compared,
        "chapters": _chapters(showing, ranges),
        "sources": sorted({_SAMPLE.sub("", one.source.partition(";")[0]) for one in ranges}),
        "cycles": _cycles(showing),
        "contrasts": contrasts(showing, first_quantities(showing)),
        "bullseyes": bullseye_rows(showing),
        "sample": sample,
        "scatters": scatter_plots(showing, sample),
        "has_gcs": showing.population.has("gcs_peak_pct"),
        "key": key_of(showing),
        "evaluation": [] if showing.deidentifier.share_safe else illustrate(showing.population.folder),
    }


def _chapters(showing: Showing, ranges: Sequence[ReferenceRange]) -> list[tuple[str, bool, list[Card]]]:
    shown_chapters = [
        (chapter.title, chapter.first, distributions(showing, chapter.quantities, ranges))
        for chapter in chapters(showing)
    ]
    return [chapter for chapter in shown_chapters if chapter[2]]


def _cycles(showing: Showing) -> list[CycleFigure]:
    found = mean_cycles(showing.population, [column for curves in _CYCLES.values() for column, _, _ in curves])
    told = {column: cycle for column, cycle in found.items() if not showing.deidentifier.hides(cycle.subjects)}
    drawn = []
    for up, listed in _CYCLES.items():
        curves = [(name, kind, told[column].mean, told[column].sd) for column, name, kind in listed if column in told]
        if curves:
            key = tuple((kind, name) for name, kind, _, _ in curves)
            drawn.append(CycleFigure(cohort_figures.mean_curve(phases(), curves, up=up), key))
    return drawn


def _rows(showing: Showing) -> dict[str, Any]:
    """The table of subjects: those with a page, then those with the most flags; without the latter if share-safe."""
    population = showing.population
    columns = _known(showing, _COLUMNS)
    order = np.argsort(-population.warnings, kind="stable")
    has_page = np.isin(order, np.array(list(showing.pages), dtype=np.int64))
    without = order[:0] if showing.deidentifier.share_safe else order[~has_page]
    chosen = np.concatenate([order[has_page], without])[:MOST_ROWS]
    words = [_words(showing, population.strata(column), chosen) for column in ("sex", "group")]
    numbers = [_cells(population.numbers(quantity.column)[chosen]) for quantity in columns]
    qualities = [f"{count} to check" if count else "" for count in population.warnings[chosen].tolist()]
    links = showing.links(chosen.tolist())
    lines = zip(links, qualities, *words, *numbers, strict=True)
    rows = [TableRow(link, tuple(cells), quality) for link, quality, *cells in lines]
    return {"columns": columns, "rows": rows, "hidden_rows": population.size - len(rows)}


def _words(showing: Showing, strata: Strata, chosen: Places) -> list[str]:
    """The stratum of each subject, unless it is too small to be told of."""
    named = ["" if showing.deidentifier.hides(n) else name for name, n in zip(strata.names, strata.sizes, strict=True)]
    return [("" if code == NOBODY else named[code]) for code in strata.of[chosen].tolist()]


def _cells(values: Numbers) -> list[str]:
    return [shown(None if np.isnan(value) else value) for value in values.tolist()]
