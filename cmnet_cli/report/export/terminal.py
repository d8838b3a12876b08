"""The report on a terminal: summary, failures, flags, indices and curves."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from cmnet_cli.console import Messages
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.report.cohort.distributions import first_quantities
from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import Numbers, most_flagged, read_population
from cmnet_cli.report.data.mean_curves import mean_cycles
from cmnet_cli.report.data.qc_summary import Reason, failures_of, flags_of, states_of
from cmnet_cli.report.data.strata import scale_of
from cmnet_cli.report.formatting import Quantity, is_warning, shown
from cmnet_cli.runs.paths import RunFolder

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_LINES = 12
_BINS = 16
_NAMED = 2

# Columns of the table frames whose mean curve is printed.
_CURVES = {
    "lv_ml": "LV volume mL",
    "rv_ml": "RV volume mL",
    "gcs_pct": "GCS %",
    "grs_pct": "GRS %",
    "mean_displacement_myo_mm": "wall's displacement mm",
}


def show_population(run: Path, messages: Messages, *, share_safe: bool) -> None:
    """Print what the cohort page says first.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    folder = RunFolder(run)
    deidentifier = open_deidentifier(folder.share_key if share_safe else None, share_safe=share_safe)
    showing = Showing(read_population(folder), deidentifier, {})
    states = states_of(showing.population)
    if deidentifier.hides(sum(states.values())):
        messages.result("Ten or fewer subjects: a share-safe report says nothing of them.")
        return
    warned = int((showing.population.warnings > 0).sum())
    told = [f"{showing.counting.told(number)} {state}" for state, number in states.items()]
    messages.result(", ".join([*told, f"{showing.counting.told(warned)} to check"]))
    _show_reasons(messages, "What failed, and why", failures_of(showing))
    _show_reasons(messages, "Quality flags", [flag for flag in flags_of(showing) if is_warning(flag.code)])
    _show_indices(showing, messages)
    _show_cycles(showing, messages)
    _show_flagged(showing, messages)


def sparkline(values: Sequence[float] | Numbers) -> str:
    """Values as a line of blocks, the lowest and the highest at the ends of the scale.

    >>> sparkline([0.0, 5.0, 10.0]), sparkline([3.0, 3.0]), sparkline([])
    ('▁▅█', '▁▁', '')
    """
    numbers = np.asarray(values, dtype=float)
    if not len(numbers):
        return ""
    reach = np.ptp(numbers)
    levels = np.zeros(len(numbers)) if reach == 0 else (numbers - numbers.min()) / reach * (len(_BLOCKS) - 1)
    return "".join(_BLOCKS[int(level)] for level in np.floor(levels + 0.5))


def _show_reasons(messages: Messages, title: str, reasons: Sequence[Reason]) -> None:
    """Reasons, or flags, with how many subjects have them, what to do, and who comes first."""
    lines = []
    for reason in reasons[:_MOST_LINES]:
        first = ", ".join(link.name for link in reason.links[:_NAMED])
        who = f"{first}, …" if len(reason.links) > _NAMED or reason.more else first
        lines.append([reason.code, reason.count, reason.share, reason.advice, who])
    _table(messages, title, ["<", ">subjects", ">share", "<what to do", "<who"], lines)
    if len(reasons) > _MOST_LINES:
        messages.result(f"and {len(reasons) - _MOST_LINES} more: see the cohort page")


def _table(messages: Messages, title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table; a column's first letter says where its text is: < left, > right, = left and never broken."""
    if not lines or messages.quiet:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        where: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column[1:], justify=where, no_wrap=column.startswith(("=", ">")), overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    messages.results.print(table)


def _show_indices(showing: Showing, messages: Messages) -> None:
    lines = [line for quantity in first_quantities(showing) if (line := _index(showing, quantity))]
    _table(messages, "Indices", ["<", "<unit", ">n", ">median", ">quartiles", "=distribution"], lines)


def _index(showing: Showing, quantity: Quantity) -> list[str] | None:
    values = showing.population.numbers(quantity.column)
    known = values[np.isfinite(values)]
    if showing.deidentifier.hides(len(known)):
        return None
    first, middle, third = np.percentile(known, (25, 50, 75)).tolist()
    counts = np.histogram(known, np.linspace(*_ends(known), _BINS + 1))[0]
    drawn = [0 if showing.deidentifier.hides(count) else count for count in counts.tolist()]
    return [
        quantity.meaning,
        quantity.unit,
        showing.counting.told(len(known)),
        shown(middle),
        f"{shown(first)} to {shown(third)}",
        sparkline(drawn),
    ]


def _ends(known: Numbers) -> tuple[float, float]:
    axis = scale_of("", known)
    return axis.low, axis.high


def _show_cycles(showing: Showing, messages: Messages) -> None:
    lines = []
    for column, cycle in mean_cycles(showing.population, tuple(_CURVES)).items():
        if not showing.deidentifier.hides(cycle.subjects):
            reach = f"{shown(cycle.mean.min())} to {shown(cycle.mean.max())}"
            lines.append([_CURVES[column], showing.counting.told(cycle.subjects), reach, sparkline(cycle.mean)])
    _table(messages, "Mean over the cycle", ["<", ">subjects", ">range", "=curve"], lines)


def _show_flagged(showing: Showing, messages: Messages) -> None:
    """The subjects with the most flags, each with what is flagged."""
    population = showing.population
    first = most_flagged(population, np.flatnonzero(population.warnings))[:_MOST_LINES]
    if not first or showing.deidentifier.share_safe:
        return
    flags = {place: _flags_of(showing, place) for place in first}
    lines = [[population.case_ids[place], ", ".join(flags[place])] for place in first]
    _table(messages, "Look at these first", ["=subject", "<flags"], lines)


def _flags_of(showing: Showing, place: int) -> Iterable[str]:
    found = showing.population.flagged
    return [flag for flag, who in zip(found.flags, found.subjects, strict=True) if place in who and is_warning(flag)]
