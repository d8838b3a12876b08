"""The report on a terminal: summary, failures, flags, indices and curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from cmnet_cli.console import Messages
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.report.cohort.distributions import main_quantities
from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import FloatArray, read_population
from cmnet_cli.report.data.mean_curves import mean_curves
from cmnet_cli.report.data.qc_summary import QCFinding, count_states, failure_findings, flag_findings
from cmnet_cli.report.data.worklist import FEWEST_POINTS, Worklist, make_worklist
from cmnet_cli.report.formatting import Quantity, format_number, is_warning
from cmnet_cli.report.plot.cohort_figures import value_axis
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.verdicts import read_verdicts, store_verdicts

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_LINES = 12
_BINS = 16
_LISTED = 2

# Columns of the table frames whose mean curve is printed.
_CURVES = {
    "lv_ml": "LV volume (mL)",
    "rv_ml": "RV volume (mL)",
    "gcs_line_midwall_pct": "GCS (%)",
    "grs_line_wall_pct": "GRS (%)",
    "mean_displacement_myo_mm": "myocardial displacement (mm)",
}


def show_population(run: Path, messages: Messages, *, share_safe: bool, verdicts: Path | None) -> None:
    """Print a summary of the cohort page.

    Raises:
        ManifestError: This is no run folder, nothing has run in it, or the verdicts cannot be used.
    """
    folder = RunFolder(run)
    deidentifier = open_deidentifier(folder.share_key if share_safe else None, share_safe=share_safe)
    population = read_population(folder)
    readings = read_verdicts(folder, population.all_case_ids, verdicts)
    if verdicts is not None:
        store_verdicts(folder, readings)
    context = CohortContext(population, deidentifier, {}, readings)
    states = count_states(context.population)
    if deidentifier.hides(sum(states.values())):
        messages.result("There are ten or fewer subjects: a share-safe report does not describe them.")
        return
    warned = int((context.population.warnings > 0).sum())
    counts = [f"{context.counts.told(number)} {state}" for state, number in states.items()]
    left_out = [f"{context.counts.told(len(context.excluded))} excluded by a verdict"] if context.excluded else []
    messages.result(", ".join([*counts, f"{context.counts.told(warned)} to check", *left_out]))
    _show_findings(messages, "Failures", failure_findings(context))
    warnings = [flag for flag in flag_findings(context) if is_warning(flag.code)]
    shared = population.shared
    _show_findings(messages, "Quality flags", [flag for flag in warnings if flag.code not in shared])
    _show_findings(messages, "Flags of nearly all subjects", [flag for flag in warnings if flag.code in shared])
    _show_indices(context.included, messages)
    _show_curves(context.included, messages)
    _show_worklist(context, messages)


def sparkline(values: Sequence[float] | FloatArray) -> str:
    """Return values as a line of blocks, with the lowest and the highest at the ends of the scale.

    >>> sparkline([0.0, 5.0, 10.0]), sparkline([3.0, 3.0]), sparkline([])
    ('▁▅█', '▁▁', '')
    """
    numbers = np.asarray(values, dtype=float)
    if not len(numbers):
        return ""
    extent = np.ptp(numbers)
    levels = np.zeros(len(numbers)) if extent == 0 else (numbers - numbers.min()) / extent * (len(_BLOCKS) - 1)
    return "".join(_BLOCKS[int(level)] for level in np.floor(levels + 0.5))


def _show_findings(messages: Messages, title: str, findings: Sequence[QCFinding]) -> None:
    """Print failures or flags with their number of subjects, what to do, and the first subjects."""
    lines = []
    for finding in findings[:_MOST_LINES]:
        examples = [link.name for link in finding.links[:_LISTED]]
        if len(finding.links) > _LISTED or finding.more:
            examples.append("…")
        lines.append([finding.code, finding.count, finding.percentage, finding.advice, "\n".join(examples)])
    _table(messages, title, ["=", ">subjects", ">of all", "<what to do", "=examples"], lines)
    if len(findings) > _MOST_LINES:
        messages.result(f"and {len(findings) - _MOST_LINES} more: see the cohort page")


def _table(messages: Messages, title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table; a column's first letter gives its alignment: < left, > right, = left and never broken."""
    if not lines or messages.quiet:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column[1:], justify=justify, no_wrap=column.startswith(("=", ">")), overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    messages.results.print(table)


def _show_indices(context: CohortContext, messages: Messages) -> None:
    lines = [line for quantity in main_quantities(context) if (line := _index_line(context, quantity))]
    _table(messages, "Indices", ["<", ">n", ">median", ">quartiles", "=distribution"], lines)


def _index_line(context: CohortContext, quantity: Quantity) -> list[str] | None:
    values = context.population.numbers(quantity.column)
    known = values[np.isfinite(values)]
    if context.deidentifier.hides(len(known)):
        return None
    first, median, third = np.percentile(known, (25, 50, 75)).tolist()
    axis = value_axis("", known)
    counts = np.histogram(known, np.linspace(axis.low, axis.high, _BINS + 1))[0]
    allowed = [0 if context.deidentifier.hides(count) else count for count in counts.tolist()]
    return [
        quantity.full_label,
        context.counts.told(len(known)),
        format_number(median),
        f"{format_number(first)} to {format_number(third)}",
        sparkline(allowed),
    ]


def _show_curves(context: CohortContext, messages: Messages) -> None:
    lines = []
    for column, curve in mean_curves(context.population, tuple(_CURVES)).items():
        if not context.deidentifier.hides(curve.subjects):
            extent = f"{format_number(curve.mean.min())} to {format_number(curve.mean.max())}"
            lines.append([_CURVES[column], context.counts.told(curve.subjects), extent, sparkline(curve.mean)])
    _table(messages, "Mean over the cycle", ["<", ">subjects", ">range", "=curve"], lines)


def _show_worklist(context: CohortContext, messages: Messages) -> None:
    """Print the first subjects of the worklist, each with its reasons."""
    worklist = make_worklist(context.population)
    first = [row for row in worklist.order.tolist() if worklist.score[row] >= FEWEST_POINTS][:_MOST_LINES]
    if not first or context.deidentifier.share_safe:
        return
    lines = [
        [context.population.case_ids[row], format_number(float(worklist.score[row])), _reasons(worklist, row)]
        for row in first
    ]
    _table(messages, "Worklist: check these first", ["=subject", ">score", "<reasons"], lines)


def _reasons(worklist: Worklist, row: int) -> str:
    return "; ".join(reason.flag or reason.text for reason in worklist.reasons(row))
