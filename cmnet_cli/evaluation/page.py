"""The presentation of an evaluation: short tables for the terminal, and a page of Markdown with every metric."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cmnet_cli.console import Messages
from cmnet_cli.evaluation.summary import ALL, by_group
from cmnet_cli.stages.evaluate import AT_ED, AT_ES, ED_TO_ES, ES_TO_ED, POOLED

Row = dict[str, Any]
Section = tuple[str, Sequence[str], list[list[str]]]

MAX_SUBJECTS = 200
"""Maximum number of subjects that the page lists; the CSV file lists all of them."""

_TERMINAL_HEAD = ("method", "comparison", "n", "DSC % LV / myo / RV", "HD95 mm")
_HEAD = (
    "method", "comparison", "structure", "n", "DSC %", "median", "JAC %", "HD95 mm", "median", "MSD mm", "failures",
)  # fmt: skip
AGREEMENT_HEAD = (
    "n",
    "bias (95 %)",
    "limits of agreement",
    "RMSE",
    "r",
    "ICC(2,1) (95 %)",
    "CCC",
    "slope (p)",
    "within-subject CV",
)
_AGREEMENT_HEAD = ("index", *AGREEMENT_HEAD)
_QUANTITY_HEAD = ("quantity", "n", "mean", "median", "range")
_TEST_HEAD = ("reference", "structure", "metric", "methods", "n", "difference", "t-test", "Wilcoxon")
_SUBJECT_COLUMNS = {
    "ED→ES DSC %": "motion_ed_to_es_{}_dsc_pct",
    "ES→ED DSC %": "motion_es_to_ed_{}_dsc_pct",
    "ED→ES HD95 mm": "motion_ed_to_es_{}_hd95_mm",
    "SegNet ED DSC %": "segnet_at_ed_{}_dsc_pct",
    "SegNet ES DSC %": "segnet_at_es_{}_dsc_pct",
}
_SUBJECT_HEAD = ("subject", *_SUBJECT_COLUMNS, "NJD", "cycle-consistency error mm", "AUROC", "failures")


@dataclass(frozen=True, slots=True)
class Summaries:
    """The rows of the summary tables.

    Attributes:
        overlaps: Overlaps and distances, by method, comparison and structure.
        agreement: Agreement of each clinical index.
        quantities: Folding, cycle-consistency error and entropy.
        tests: Paired tests between methods.
        subjects: All metrics of a subject in one row.
    """

    overlaps: Sequence[Row]
    agreement: Sequence[Row]
    quantities: Sequence[Row]
    tests: Sequence[Row]
    subjects: Sequence[Row]


def print_summaries(found: Summaries, messages: Messages) -> None:
    """Print the summary over all subjects in tables that fit into a terminal."""
    overlaps = _in_order(_of(ALL, found.overlaps))
    cells = [_terminal_cells(overlaps[n : n + 3]) for n in range(0, len(overlaps), 3)]
    messages.table("Comparison with the reference masks, means", _TERMINAL_HEAD, cells)
    agreements = [agreement_cells(row) for row in _of(ALL, found.agreement)]
    messages.table("Clinical indices, estimate - reference", _AGREEMENT_HEAD, agreements)
    quantities = [_quantity_cells(row) for row in _of(ALL, found.quantities)]
    messages.table("Folding, cycle consistency, entropy", _QUANTITY_HEAD, quantities)


def markdown(found: Summaries) -> str:
    """Return the page with every metric, over all subjects and by group, and one line per subject."""
    lines = ["# Evaluation", ""]
    for title, head, body in _sections(found):
        lines += [
            f"## {escape_markdown(title)}",
            "",
            markdown_line(head),
            markdown_line(["---"] * len(head)),
            *map(markdown_line, body),
            "",
        ]
    if len(found.subjects) > MAX_SUBJECTS:
        lines += [f"The first {MAX_SUBJECTS} of {len(found.subjects)}; all are in evaluation_subjects.csv.", ""]
    return "\n".join(lines)


def _sections(found: Summaries) -> Iterator[Section]:
    """Yield title, head and body of every table of the page."""
    for group, _ in by_group(found.subjects):
        overlaps = [_overlap_cells(row) for row in _in_order(_of(group, found.overlaps))]
        yield f"Comparison with the reference masks: {group}", _HEAD, overlaps
        yield f"Clinical indices: {group}", _AGREEMENT_HEAD, [agreement_cells(r) for r in _of(group, found.agreement)]
        quantities = [_quantity_cells(row) for row in _of(group, found.quantities)]
        yield f"Folding, cycle consistency, entropy: {group}", _QUANTITY_HEAD, quantities
        tests = [_test_cells(row) for row in _of(group, found.tests)]
        yield f"Differences between methods, p after Holm's correction: {group}", _TEST_HEAD, tests
    yield "Subjects", _SUBJECT_HEAD, [_subject_cells(row) for row in found.subjects[:MAX_SUBJECTS]]


def _of(group: str, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["group"] == group]


def _in_order(rows: Sequence[Row]) -> list[Row]:
    comparisons = (ED_TO_ES, ES_TO_ED, AT_ED, AT_ES, POOLED)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(rows, key=lambda row: (methods.index(row["method"]), comparisons.index(row["comparison"])))


def _terminal_cells(structures: Sequence[Row]) -> list[str]:
    """Return one line for the three structures of a method and comparison."""
    first = structures[0]
    means = ("dsc_mean_pct", "hd95_mean_mm")
    dsc, hd95 = (" / ".join(_number(row[name], 1) or "-" for row in structures) for name in means)
    return [first["method"], first["comparison"], str(first["n"]), dsc, hd95]


def _overlap_cells(row: Row) -> list[str]:
    return [
        row["method"],
        row["comparison"],
        row["structure"],
        str(row["n"]),
        _with_spread(row["dsc_mean_pct"], row["dsc_sd_pct"]),
        _number(row["dsc_median_pct"]),
        _number(row["jac_mean_pct"]),
        _with_spread(row["hd95_mean_mm"], row["hd95_sd_mm"]),
        _number(row["hd95_median_mm"]),
        _number(row["msd_mean_mm"]),
        str(row["failures"]),
    ]


def agreement_cells(row: Row) -> list[str]:
    """Return a row of agreement as text: the index, then the cells of :data:`AGREEMENT_HEAD`."""
    slope = "" if row["slope"] is None else f"{row['slope']:.2f} ({row['slope_p']:.3f})"
    return [
        row["index"],
        str(row["n"]),
        _with_interval(row, "bias"),
        "" if row["lower"] is None else f"{row['lower']:.2f} to {row['upper']:.2f}",
        _number(row["rmse"]),
        _number(row["r"]),
        _with_interval(row, "icc"),
        _number(row["ccc"]),
        slope,
        "" if row["within_cv_pct"] is None else f"{row['within_cv_pct']:.1f} % (n = {row['repeat_subjects']})",
    ]


def _with_interval(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return _number(row[name]) + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def _quantity_cells(row: Row) -> list[str]:
    value_range = "" if row["minimum"] is None else f"{row['minimum']:.2f} to {row['maximum']:.2f}"
    return [row["quantity"], str(row["n"]), _with_spread(row["mean"], row["sd"]), _number(row["median"]), value_range]


def _test_cells(row: Row) -> list[str]:
    methods = f"{row['first']} - {row['second']}"
    p_values = [_number(row.get(f"{name}_holm"), 4) for name in ("t_test_p", "wilcoxon_p")]
    return [
        row["target"], row["structure"], row["metric"], methods, str(row["n"]), _number(row["mean_difference"]),
        *p_values,
    ]  # fmt: skip


def _subject_cells(row: Row) -> list[str]:
    triples = [
        " / ".join(_number(row[name.format(structure)], 1) or "-" for structure in ("lv", "myo", "rv"))
        for name in _SUBJECT_COLUMNS.values()
    ]
    folds = row["njd_field_ed_to_es"] + row["njd_field_es_to_ed"]
    numbers = [_number(row["cycle_consistency_error_mm"]), _number(row["entropy_auroc"]), str(row["failures"])]
    return [row["case_id"], *triples, str(folds), *numbers]


def _with_spread(mean: float | None, sd: float | None) -> str:
    return _number(mean) + ("" if sd is None else f" ± {sd:.2f}")


def _number(value: float | None, decimals: int = 2) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def markdown_line(cells: Sequence[str]) -> str:
    """Return one line of a table in Markdown."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def escape_markdown(text: str) -> str:
    r"""Return a text that viewers of Markdown show as it is, without HTML, links, images and control characters.

    >>> escape_markdown("<b>a|b</b>")
    '&lt;b&gt;a\\|b&lt;/b&gt;'
    """
    text = "".join(character if character.isprintable() else "?" for character in text)
    return re.sub(r"([\\`|]|\](?=[(\[]))", r"\\\1", html.escape(text, quote=False))
