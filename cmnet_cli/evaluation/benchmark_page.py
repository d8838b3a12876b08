"""The presentation of a benchmark: tables for the terminal, Markdown and LaTeX."""

from collections.abc import Iterator, Sequence
from typing import Any

from cmnet_cli.console import Messages
from cmnet_cli.evaluation.benchmark_summary import Benchmark, overlaps_of
from cmnet_cli.evaluation.page import escape_markdown, markdown_line
from cmnet_cli.evaluation.summary import ALL
from cmnet_cli.stages.evaluate import ED_TO_ES, ES_TO_ED, POOLED

Row = dict[str, Any]
Section = tuple[str, Sequence[str], list[list[str]]]

_STRUCTURES = ("lv", "myo", "rv")
_OVERLAP_HEAD = (
    "method", "n", "LV DSC %", "myo DSC %", "RV DSC %", "LV HD95 mm", "myo HD95 mm", "RV HD95 mm", "failures",
)  # fmt: skip
_METHOD_HEAD = (
    "method", "n", "failed", "folds", "in the heart", "SDlogJ", "endpoint mm", "myo mm", "Err error", "Ecc error",
    "CPU s", "MB",
)  # fmt: skip
_TEST_HEAD = ("reference", "structure", "metric", "methods", "n", "difference", "t-test", "Wilcoxon")
REGULARITY = "Regularity, error against known motion, and cost of a frame pair"
TESTS = "Differences between methods, p after Holm's correction"
_POOLED = {"native": "pooled over both directions", "acdc": "mean of both directions"}


def sections(found: Benchmark) -> Iterator[Section]:
    """Yield title, head and body of every table."""
    titles = {
        POOLED: _POOLED[found.protocol],
        ED_TO_ES: "ED mask propagated to ES",
        ES_TO_ED: "ES mask propagated to ED",
    }
    for comparison, title in titles.items():
        body = [cells for row in found.methods if (cells := _overlap_cells(found, row["method"], comparison))]
        yield f"Comparison with the reference masks: {title}", _OVERLAP_HEAD, body
    yield (
        REGULARITY,
        _METHOD_HEAD,
        [_method_cells(row) for row in found.methods],
    )
    tests = [_test_cells(row) for row in found.tests if row["group"] == ALL]
    yield TESTS, _TEST_HEAD, tests


def print_benchmark(found: Benchmark, messages: Messages) -> None:
    """Print the pooled overlaps, and regularity and cost, in tables that fit into a terminal."""
    listed = list(sections(found))
    for title, head, body in (listed[0], listed[3]):
        messages.table(title, head, body)


def markdown(found: Benchmark) -> str:
    """Return all tables in Markdown."""
    lines = ["# Benchmark", "", f"Protocol: {found.protocol}.", ""]
    missing = [f"* {row['method']}: {escape_markdown(row['message'])}" for row in found.methods if row["message"]]
    lines += ["## Methods with missing results", "", *missing, ""] if missing else []
    for title, head, body in sections(found):
        rule = ["---"] * len(head)
        lines += [f"## {escape_markdown(title)}", "", *map(markdown_line, (head, rule, *body)), ""]
    return "\n".join(lines)


def latex(found: Benchmark) -> str:
    """Return the main table in LaTeX: pooled Dice and HD95, folding and cost of each method."""
    lines = [
        r"% DSC in %, HD95 in mm: mean $\pm$ SD; " + _POOLED[found.protocol].replace("%", r"\%"),
        r"\begin{tabular}{lrrrrrrrr}",
        r"\hline",
        r"Method & \multicolumn{3}{c}{DSC (\%)} & \multicolumn{3}{c}{HD95 (mm)} & Folds & CPU (s) \\",
        r" & LV & Myo & RV & LV & Myo & RV & & \\",
        r"\hline",
    ]
    for row in found.methods:
        structures = overlaps_of(found, row["method"], POOLED)
        if structures:
            cells = [_pair(structures[name], metric, r" $\pm$ ") for metric in ("dsc", "hd95") for name in _STRUCTURES]
            cells += [_number(row["njd_field_mean"], 1), _number(row["cpu_mean_s"], 2)]
            lines.append(f"{escape_latex(row['method'])} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def escape_latex(text: str) -> str:
    r"""Return a text that LaTeX prints as it is.

    >>> escape_latex("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    return "".join(f"\\{character}" if character in "&%$#_{}" else character for character in text)


def _overlap_cells(found: Benchmark, method: str, comparison: str) -> list[str]:
    """Return the line of a method; empty if it has no result."""
    structures = overlaps_of(found, method, comparison)
    if not structures:
        return []
    pairs = [_pair(structures[name], metric, " ± ") for metric in ("dsc", "hd95") for name in _STRUCTURES]
    failures = sum(row["failures"] for row in structures.values())
    return [method, str(structures["lv"]["n"]), *pairs, str(failures)]


def _pair(row: Row, metric: str, sign: str) -> str:
    unit = {"dsc": "pct", "hd95": "mm"}[metric]
    mean, sd = row[f"{metric}_mean_{unit}"], row[f"{metric}_sd_{unit}"]
    return _number(mean, 2) + ("" if sd is None else f"{sign}{sd:.2f}")


def _method_cells(row: Row) -> list[str]:
    decimals = {
        "njd_field_mean": 1, "njd_heart_mean": 1, "sd_log_j_mean": 3, "endpoint_mean_mm": 2, "endpoint_myo_mean_mm": 2,
        "err_error_mean_pct": 1, "ecc_error_mean_pct": 1, "cpu_mean_s": 2, "peak_mean_mb": 0,
    }  # fmt: skip
    numbers = [_number(row[name], places) for name, places in decimals.items()]
    return [row["method"], str(row["n"]), str(row["failed"]), *numbers]


def _test_cells(row: Row) -> list[str]:
    p_values = [_number(row.get(f"{name}_holm"), 4) for name in ("t_test_p", "wilcoxon_p")]
    methods, difference = f"{row['first']} - {row['second']}", _number(row["mean_difference"], 2)
    return [row["target"], row["structure"], row["metric"], methods, str(row["n"]), difference, *p_values]


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
