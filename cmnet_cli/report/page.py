"""Gather, draw and write: one page for the cohort and one for each subject, from the run folder alone."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.layout import RunFolder
from cmnet_cli.report import figures
from cmnet_cli.report.comparison import illustrate
from cmnet_cli.report.gather import Row, Run, read_run
from cmnet_cli.report.subject_page import flags_of, render_subject
from cmnet_cli.report.templating import open_templates
from cmnet_cli.report.words import Quantity, is_warning, named, shown
from cmnet_cli.sidecar import write_text

_COLUMNS = (
    "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvsv_ml", "rvef_pct",
)  # fmt: skip
_COHORT_TILES = ("lvef_pct", "lvedv_ml", "lvm_g", "rvef_pct")

# What a page can hold and still open at once; the tables hold the rest.
_MOST_ROWS = 1000
_MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure in large type."""

    name: str
    value: str
    unit: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """A subject in the cohort's table; ``page`` is empty where it has none."""

    case_id: str
    page: str
    cells: tuple[str, ...]
    quality: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some subjects failed."""

    code: str
    hint: str
    cases: tuple[Row, ...]


def write_report(run: Path, *, progress: Callable[[Sequence[Row]], Iterable[Row]] = iter) -> Path:
    """Write the cohort page and the page of each subject that has indices.

    Args:
        run: A run folder.
        progress: Wraps the subjects while their pages are made, for instance in a progress bar.

    Returns:
        The cohort page.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    found = read_run(RunFolder(run))
    pages = open_templates()
    for row in progress(found.indices):
        write_text(found.folder.report_page(row["case_id"]), render_subject(pages, found, row))
    write_text(found.folder.report, render_cohort(pages, found))
    return found.folder.report


def render_cohort(pages: Environment, run: Run) -> str:
    """The cohort page."""
    columns = named("indices", _COLUMNS)
    return pages.get_template("index.html").render(
        states=run.states,
        total=sum(number for _, number in run.states),
        few=len(run.indices) < figures.BARS_FROM,
        tiles=_median_tiles(run.indices),
        failures=_reasons(run.failures),
        shown_failures=_MOST_FAILURES,
        distributions=_distributions(run.indices, columns),
        evaluation=illustrate(run),
        columns=columns,
        rows=[_table_row(run, row, columns) for row in run.indices[:_MOST_ROWS]],
        hidden_rows=max(0, len(run.indices) - _MOST_ROWS),
        provenance=run.provenance,
    )


def _known(rows: Iterable[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row[column] is not None]


def _median_tiles(rows: Sequence[Row]) -> list[Tile]:
    known = [(quantity, sorted(_known(rows, quantity.column))) for quantity in named("indices", _COHORT_TILES)]
    return [
        Tile(f"median {quantity.title}", shown(values[len(values) // 2], decimals=0), quantity.unit)
        for quantity, values in known
        if values
    ]


def _reasons(failures: Iterable[Row]) -> list[Reason]:
    """The failures by code, the most frequent first."""
    by_code: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in failures:
        by_code[row["error_code"] or "unknown", row["hint"] or ""].append(row)
    reasons = [Reason(code, hint, tuple(rows)) for (code, hint), rows in by_code.items()]
    return sorted(reasons, key=lambda reason: -len(reason.cases))


def _distributions(rows: Sequence[Row], columns: Iterable[Quantity]) -> list[Markup]:
    known = [(quantity, _known(rows, quantity.column)) for quantity in columns]
    return [figures.distribution(quantity.label, values) for quantity, values in known if values]


def _table_row(run: Run, row: Row, columns: Sequence[Quantity]) -> TableRow:
    page = run.folder.report_page(row["case_id"]).name
    warnings = sum(is_warning(flag) for flag in flags_of(run, row))
    quality = f"{warnings} to check" if warnings else ""
    return TableRow(row["case_id"], page, tuple(shown(row[quantity.column]) for quantity in columns), quality)
