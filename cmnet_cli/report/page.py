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
from cmnet_cli.report.gather import Row, Run, read_hearts, read_origin, read_run
from cmnet_cli.report.pictures import Pictures, draw_pictures
from cmnet_cli.report.templating import open_templates
from cmnet_cli.report.words import Quantity, flag_in_words, is_warning, named, quantities, shown
from cmnet_cli.sidecar import write_text
from cmnet_core.errors import CaseError

_COLUMNS = (
    "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvsv_ml", "rvef_pct",
)  # fmt: skip
_SUBJECT_TILES = ("lvef_pct", "lvedv_ml", "lvesv_ml", "lvm_g", "rvef_pct")
_COHORT_TILES = ("lvef_pct", "lvedv_ml", "lvm_g", "rvef_pct")

_CURVES = (
    ("lv_propagated_ml", "left ventricle by motion", "lv motion"),
    ("rv_propagated_ml", "right ventricle by motion", "rv motion"),
    ("lv_ml", "left ventricle", "lv"),
    ("rv_ml", "right ventricle", "rv"),
)

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
    warnings = sum(is_warning(flag) for flag in _flags(run, row))
    quality = f"{warnings} to check" if warnings else ""
    return TableRow(row["case_id"], page, tuple(shown(row[quantity.column]) for quantity in columns), quality)


def _flags(run: Run, row: Row) -> list[str]:
    """The flags of the indices and of the motion, each once."""
    motion = run.motion.get(row["case_id"], {})
    return list(dict.fromkeys([*(row["qc_flags"] or ()), *(motion.get("qc_flags") or ())]))


def render_subject(pages: Environment, run: Run, row: Row) -> str:
    """The page of one subject.

    Args:
        pages: The templates.
        run: The run.
        row: The subject's row of the indices.
    """
    pictures, trouble = _pictures_or_why_not(run, row)
    flags = _flags(run, row)
    return pages.get_template("subject.html").render(
        case_id=row["case_id"],
        tiles=[
            Tile(quantity.title, shown(row[quantity.column], decimals=0), quantity.unit)
            for quantity in named("indices", _SUBJECT_TILES)
            if row[quantity.column] is not None
        ],
        warnings=[flag_in_words(flag) for flag in flags if is_warning(flag)],
        remarks=[flag_in_words(flag) for flag in flags if not is_warning(flag)],
        pictures=pictures,
        trouble=trouble,
        curves=_curves(run.frames.get(row["case_id"], ()), row),
        indices=[
            Tile(quantity.meaning, shown(row[quantity.column]), quantity.unit)
            for quantity in quantities("indices")
            if row[quantity.column] is not None
        ],
        provenance=(*read_origin(run.folder.case(row["case_id"])), *run.provenance),
    )


def _curves(frames: Sequence[Row], row: Row) -> Markup | None:
    """The volumes of both ventricles over the cycle, if they are known."""
    curves = [curve for column, name, kind in _CURVES if (curve := _curve(frames, column, name, kind))]
    if not curves:
        return None
    timed = frames[-1]["time_ms"] is not None
    times = [float(frame["time_ms"] if timed else frame["frame"]) for frame in frames]
    marked = [("ED", int(row["ed_frame"])), ("ES", int(row["es_frame"]))]
    return figures.cycle(times, curves, marked=marked, across="time (ms)" if timed else "frame", up="volume (mL)")


def _curve(frames: Sequence[Row], column: str, name: str, kind: str) -> figures.Curve | None:
    values = _known(frames, column)
    return figures.Curve(name, kind, tuple(values)) if frames and len(values) == len(frames) else None


def _pictures_or_why_not(run: Run, row: Row) -> tuple[Pictures | None, str]:
    try:
        hearts = read_hearts(run.folder.case(row["case_id"]))
    except CaseError as error:
        # A page without pictures still holds the subject's numbers, and says what is wrong with its files.
        return None, str(error)
    pictures = draw_pictures(hearts, ed=int(row["ed_frame"]), es=int(row["es_frame"]))
    return (pictures, "") if pictures.rows else (None, "no left ventricle was found at end-diastole.")
