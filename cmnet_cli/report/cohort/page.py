"""The cohort page: all values and figures of its template."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.report.cohort.comparison import evaluation_figures
from cmnet_cli.report.cohort.differences import contrasts
from cmnet_cli.report.cohort.distributions import (
    DistributionCard,
    distributions,
    main_quantities,
    quantity_sections,
)
from cmnet_cli.report.cohort.group_bullseyes import group_bullseyes
from cmnet_cli.report.cohort.scatters import marker_key, plotted_sample, scatter_plots
from cmnet_cli.report.data.cohort_context import CohortContext, SubjectLink
from cmnet_cli.report.data.cohort_table import SHARED_FRACTION, UNASSIGNED, FloatArray, IntArray, Strata
from cmnet_cli.report.data.load_results import read_provenance
from cmnet_cli.report.data.mean_curves import MOST_SUBJECTS, mean_curves, phases
from cmnet_cli.report.data.qc_summary import count_states, failure_findings, flag_findings
from cmnet_cli.report.data.throughput import host_times, stage_times
from cmnet_cli.report.data.worklist import FEWEST_POINTS, Reason, Worklist
from cmnet_cli.report.formatting import (
    Quantity,
    Tile,
    format_number,
    is_warning,
    missing_metadata_text,
    select_quantities,
)
from cmnet_cli.report.plot import cohort_figures
from cmnet_cli.report.subject.index_table import read_ranges
from cmnet_cli.runs.verdicts import Readings
from cmnet_core.function.reference_ranges import ReferenceRange
from cmnet_core.qc.flags import FLAGS

_COLUMNS = (
    "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvsv_ml", "rvef_pct",
    "gcs_line_midwall_peak_pct",
)  # fmt: skip
_TILES = ("lvef_pct", "gcs_line_midwall_peak_pct", "lvedv_ml", "lvm_g", "rvef_pct")

# Largest number of rows with which the page still opens at once; tables/indices.parquet holds all.
MOST_ROWS = 1000

# So many subjects of the worklist are listed.
MOST_LISTED = 200

# The size of the sample of one sex in the source of a reference range.
_SAMPLE_SIZE = re.compile(r",? \d+ (wo)?men\b")

# Curves that share an axis: columns of the table frames with their names and classes in the style sheet.
_CURVES = {
    "volume (mL)": (
        ("lv_ml", "left ventricle", "lv"), ("rv_ml", "right ventricle", "rv"),
        ("myo_ml", "myocardium", "myo"),
    ),
    "circumferential strain (%)": (
        ("gcs_line_endo_pct", "endocardium", "s0"), ("gcs_line_midwall_pct", "mid-wall", "s1"),
        ("gcs_line_epi_pct", "epicardium", "s2"),
    ),
    "radial strain (%)": (("grs_line_wall_pct", "wall", "s0"),),
    "twist (degrees)": (("twist_deg", "apical minus basal rotation", "all"),),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CycleFigure:
    """Mean curves on one axis.

    Attributes:
        drawing: The figure.
        key: Class and name of each curve.
    """

    drawing: Markup
    key: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """A subject in the worklist."""

    link: SubjectLink
    score: str
    reasons: tuple[Reason, ...]
    verdict: str


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A subject in the cohort's table."""

    link: SubjectLink
    cells: tuple[str, ...]
    quality: str


def render_cohort(pages: Environment, context: CohortContext, worklist: Worklist) -> str:
    """Return the cohort page.

    Args:
        pages: The templates.
        context: The cohort.
        worklist: Its subjects in the order in which they should be checked.
    """
    states = count_states(context.population)
    total = sum(states.values())
    values = {
        "share_safe": context.deidentifier.share_safe,
        "hidden": context.deidentifier.hides(total),
        "total": context.counts.told(total),
        "states": {state: context.counts.told(number) for state, number in states.items()},
        "provenance": read_provenance(context.population.folder, context.deidentifier),
    }
    if not values["hidden"]:
        values |= _quality(context) | _figures(context.included)
        values |= _worklist(context, worklist) | _subject_table(context, worklist)
    return pages.get_template("index.html").render(values)


def _quality(context: CohortContext) -> dict[str, Any]:
    population = context.population
    flags = flag_findings(context)
    shared = [flag for flag in flags if flag.code in population.shared]
    warned = int((population.warnings > 0).sum())
    return {
        "size": population.size,
        "page_count": len(context.pages),
        "tiles": _tiles(context.included),
        "warned": context.counts.told(warned) if population.size else "",
        "failures": failure_findings(context),
        "of_data_set": [flag for flag in shared if flag.code not in FLAGS or not FLAGS[flag.code].missing],
        "missing": missing_metadata_text(flag.code for flag in shared),
        "shared_pct": round(100 * SHARED_FRACTION),
        "flags": [flag for flag in flags if is_warning(flag.code) and flag.code not in population.shared],
        "remarks": [flag for flag in flags if not is_warning(flag.code) and flag.code not in population.shared],
        "times": stage_times(context),
        "hosts": host_times(context),
    }


def _tiles(context: CohortContext) -> list[Tile]:
    """Return the medians of the most common indices."""
    tiles = []
    for quantity in _known(context, _TILES):
        values = context.population.numbers(quantity.column)
        known = values[np.isfinite(values)]
        if not context.deidentifier.hides(len(known)):
            decimals = 0 if quantity.unit in ("mL", "g") else 1
            median = format_number(float(np.median(known)), decimals=decimals)
            tiles.append(Tile(f"median {quantity.title}", median, quantity.unit))
    return tiles


def _known(context: CohortContext, columns: Sequence[str]) -> list[Quantity]:
    return select_quantities("indices", [column for column in columns if context.population.has(column)])


def _figures(context: CohortContext) -> dict[str, Any]:
    ranges = read_ranges(context.population.folder)
    sample = plotted_sample(context)
    return {
        "by_sex": context.by_sex,
        "by_group": context.by_group,
        "compared": context.compared,
        "sections": _sections(context, ranges),
        "histogram_from": cohort_figures.HISTOGRAM_FROM,
        "sources": sorted({_SAMPLE_SIZE.sub("", one.source.partition(";")[0]) for one in ranges}),
        "cycles": _cycle_figures(context),
        "most_in_mean": MOST_SUBJECTS,
        "contrasts": contrasts(context, main_quantities(context)),
        "bullseyes": group_bullseyes(context),
        "sample": sample,
        "scatters": scatter_plots(context, sample),
        "has_gcs": context.population.has("gcs_line_midwall_peak_pct"),
        "key": marker_key(context),
        "evaluation": [] if context.deidentifier.share_safe else evaluation_figures(context.population.folder),
    }


def _sections(
    context: CohortContext, ranges: Sequence[ReferenceRange]
) -> list[tuple[str, bool, list[DistributionCard]]]:
    sections = [
        (section.title, section.is_main, distributions(context, section.quantities, ranges))
        for section in quantity_sections(context)
    ]
    return [section for section in sections if section[2]]


def _cycle_figures(context: CohortContext) -> list[CycleFigure]:
    found = mean_curves(context.population, [column for curves in _CURVES.values() for column, _, _ in curves])
    allowed = {column: curve for column, curve in found.items() if not context.deidentifier.hides(curve.subjects)}
    figures = []
    for label, listed in _CURVES.items():
        curves = [
            (name, kind, allowed[column].mean, allowed[column].sd) for column, name, kind in listed if column in allowed
        ]
        if curves:
            key = tuple((kind, name) for name, kind, _, _ in curves)
            figures.append(CycleFigure(cohort_figures.mean_curve(phases(), curves, label=label), key))
    return figures


def _worklist(context: CohortContext, worklist: Worklist) -> dict[str, Any]:
    """Return the first rows of the worklist, in a share-safe report of subjects with a page only, and the verdicts."""
    population, readings, ids = context.population, context.readings, context.population.case_ids
    scored = [row for row in worklist.order.tolist() if worklist.score[row] >= FEWEST_POINTS]
    listed = [row for row in scored if row in context.pages] if context.deidentifier.share_safe else scored
    chosen = listed[:MOST_LISTED]
    rows = [
        WorklistRow(
            link, format_number(float(worklist.score[row])), tuple(worklist.reasons(row)), _verdict(readings, ids[row])
        )
        for row, link in zip(chosen, context.links(chosen), strict=True)
    ]
    name = context.deidentifier.name
    shown = {} if context.deidentifier.share_safe and not context.pages else readings
    return {
        "worklist": rows,
        "usual": context.counts.told(population.size - len(scored)),
        "not_listed": len(scored) - len(rows),
        "excluded": context.counts.told(len(context.excluded)) if context.excluded else "",
        "excluded_links": [] if context.deidentifier.share_safe else context.links(context.excluded),
        "verdict_data": {
            "store": context.deidentifier.run_name(population.folder.root),
            "size": population.size,
            "readings": {name(case_id): asdict(reading) for case_id, reading in shown.items()},
        },
    }


def _verdict(readings: Readings, case_id: str) -> str:
    reading = readings.get(case_id)
    return ", ".join(filter(None, (reading.verdict, reading.reader, reading.date))) if reading else ""


def _subject_table(context: CohortContext, worklist: Worklist) -> dict[str, Any]:
    """Return the table of subjects: those with a page, then the others, in the order of the worklist.

    A share-safe report lists only the former.
    """
    population = context.population
    columns = _known(context, _COLUMNS)
    order = worklist.order
    has_page = np.isin(order, np.array(list(context.pages), dtype=np.int64))
    without_page = order[:0] if context.deidentifier.share_safe else order[~has_page]
    chosen = np.concatenate([order[has_page], without_page])[:MOST_ROWS]
    strata = [_stratum_names(context, population.strata(column), chosen) for column in ("sex", "group")]
    numbers = [_cells(population.numbers(quantity.column)[chosen]) for quantity in columns]
    flags = zip(population.unusable[chosen].tolist(), population.warnings[chosen].tolist(), strict=True)
    qualities = ["do not use" if severe else f"{count} to check" if count else "" for severe, count in flags]
    lines = zip(context.links(chosen.tolist()), qualities, *strata, *numbers, strict=True)
    rows = [SubjectRow(link, tuple(cells), quality) for link, quality, *cells in lines]
    return {"columns": columns, "rows": rows, "hidden_rows": population.size - len(rows)}


def _stratum_names(context: CohortContext, strata: Strata, chosen: IntArray) -> list[str]:
    """Return the stratum of each subject; empty where the stratum is too small to be shown."""
    sizes = zip(strata.names, strata.sizes, strict=True)
    names = ["" if context.deidentifier.hides(size) else name for name, size in sizes]
    return [("" if code == UNASSIGNED else names[code]) for code in strata.codes[chosen].tolist()]


def _cells(values: FloatArray) -> list[str]:
    return [format_number(None if np.isnan(value) else value) for value in values.tolist()]
