"""An evaluation as people read it: short tables for a terminal, and a page of Markdown with every figure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cmnet_cli.console import Messages
from cmnet_cli.evaluation.summary import ALL, by_group
from cmnet_cli.stages.evaluate import AT_ED, AT_ES, ED_TO_ES, ES_TO_ED, POOLED

Row = dict[str, Any]
Section = tuple[str, Sequence[str], list[list[str]]]

MOST_SUBJECTS = 200
"""A page with more lines is no longer read; the CSV has them all."""

_SHORT_HEAD = ("method", "comparison", "n", "DSC % LV / myo / RV", "HD95 mm")
_HEAD = (
    "method", "comparison", "structure", "n", "DSC %", "median", "JAC %", "HD95 mm", "median", "MSD mm", "failures",
)  # fmt: skip
_AGREEMENT_HEAD = ("index", "n", "bias", "limits of agreement", "RMSE", "r")
_QUANTITY_HEAD = ("quantity", "n", "mean", "median", "range")
_TEST_HEAD = ("reference", "structure", "metric", "methods", "n", "difference", "t-test", "Wilcoxon")
_SUBJECT_COLUMNS = {
    "ED→ES DSC %": "motion_ed_to_es_{}_dsc_pct",
    "ES→ED DSC %": "motion_es_to_ed_{}_dsc_pct",
    "ED→ES HD95 mm": "motion_ed_to_es_{}_hd95_mm",
    "SegNet ED DSC %": "segnet_at_ed_{}_dsc_pct",
    "SegNet ES DSC %": "segnet_at_es_{}_dsc_pct",
}
_SUBJECT_HEAD = ("subject", *_SUBJECT_COLUMNS, "NJD", "closing mm", "AUROC", "failures")


@dataclass(frozen=True, slots=True)
class Summaries:
    """The rows of the summary tables.

    Attributes:
        overlaps: By method, figure and structure.
        agreement: By clinical index.
        quantities: Folding, closing and entropy.
        tests: Between methods.
        subjects: One a subject.
    """

    overlaps: Sequence[Row]
    agreement: Sequence[Row]
    quantities: Sequence[Row]
    tests: Sequence[Row]
    subjects: Sequence[Row]


def show(found: Summaries, messages: Messages) -> None:
    """The summary over all subjects, short enough for a terminal."""
    overlaps = _in_order(_of(ALL, found.overlaps))
    cells = [_short_cells(overlaps[n : n + 3]) for n in range(0, len(overlaps), 3)]
    messages.table("Against the reference masks, means", _SHORT_HEAD, cells)
    agreements = [_agreement_cells(row) for row in _of(ALL, found.agreement)]
    messages.table("Clinical indices, estimate - reference", _AGREEMENT_HEAD, agreements)
    quantities = [_quantity_cells(row) for row in _of(ALL, found.quantities)]
    messages.table("Folding, closing of the cycle, entropy", _QUANTITY_HEAD, quantities)


def markdown(found: Summaries) -> str:
    """The page with every figure, for all and by group, and a line a subject."""
    lines = ["# Evaluation", ""]
    for title, head, body in _sections(found):
        lines += [f"## {title}", "", _line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    if len(found.subjects) > MOST_SUBJECTS:
        lines += [f"The first {MOST_SUBJECTS} of {len(found.subjects)}; all are in evaluation_subjects.csv.", ""]
    return "\n".join(lines)


def _sections(found: Summaries) -> Iterator[Section]:
    """Title, head and body of every table that people read."""
    for group, _ in by_group(found.subjects):
        overlaps = [_overlap_cells(row) for row in _in_order(_of(group, found.overlaps))]
        yield f"Against the reference masks: {group}", _HEAD, overlaps
        yield f"Clinical indices: {group}", _AGREEMENT_HEAD, [_agreement_cells(r) for r in _of(group, found.agreement)]
        quantities = [_quantity_cells(row) for row in _of(group, found.quantities)]
        yield f"Folding, closing of the cycle, entropy: {group}", _QUANTITY_HEAD, quantities
        tests = [_test_cells(row) for row in _of(group, found.tests)]
        yield f"Differences between methods, p after Holm's correction: {group}", _TEST_HEAD, tests
    yield "Subjects", _SUBJECT_HEAD, [_subject_cells(row) for row in found.subjects[:MOST_SUBJECTS]]


def _of(group: str, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["group"] == group]


def _in_order(rows: Sequence[Row]) -> list[Row]:
    comparisons = (ED_TO_ES, ES_TO_ED, AT_ED, AT_ES, POOLED)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(rows, key=lambda row: (methods.index(row["method"]), comparisons.index(row["comparison"])))


def _short_cells(structures: Sequence[Row]) -> list[str]:
    """One line for the three structures of a method and figure."""
    first = structures[0]
    means = ("dsc_mean_pct", "hd95_mean_mm")
    dsc, hd95 = (" / ".join(_shown(row[name], 1) or "-" for row in structures) for name in means)
    return [first["method"], first["comparison"], str(first["n"]), dsc, hd95]


def _overlap_cells(row: Row) -> list[str]:
    return [
        row["method"],
        row["comparison"],
        row["structure"],
        str(row["n"]),
        _with_spread(row["dsc_mean_pct"], row["dsc_sd_pct"]),
        _shown(row["dsc_median_pct"]),
        _shown(row["jac_mean_pct"]),
        _with_spread(row["hd95_mean_mm"], row["hd95_sd_mm"]),
        _shown(row["hd95_median_mm"]),
        _shown(row["msd_mean_mm"]),
        str(row["failures"]),
    ]


def _agreement_cells(row: Row) -> list[str]:
    limits = "" if row["lower"] is None else f"{row['lower']:.2f} to {row['upper']:.2f}"
    return [row["index"], str(row["n"]), _shown(row["bias"]), limits, _shown(row["rmse"]), _shown(row["r"])]


def _quantity_cells(row: Row) -> list[str]:
    reach = "" if row["minimum"] is None else f"{row['minimum']:.2f} to {row['maximum']:.2f}"
    return [row["quantity"], str(row["n"]), _with_spread(row["mean"], row["sd"]), _shown(row["median"]), reach]


def _test_cells(row: Row) -> list[str]:
    methods = f"{row['first']} - {row['second']}"
    p_values = [_shown(row.get(f"{name}_holm"), 4) for name in ("t_test_p", "wilcoxon_p")]
    return [
        row["target"], row["structure"], row["metric"], methods, str(row["n"]), _shown(row["mean_difference"]),
        *p_values,
    ]  # fmt: skip


def _subject_cells(row: Row) -> list[str]:
    triples = [
        " / ".join(_shown(row[name.format(structure)], 1) or "-" for structure in ("lv", "myo", "rv"))
        for name in _SUBJECT_COLUMNS.values()
    ]
    folds = row["njd_field_ed_to_es"] + row["njd_field_es_to_ed"]
    numbers = [_shown(row["cycle_consistency_error_mm"]), _shown(row["entropy_auroc"]), str(row["failures"])]
    return [row["case_id"], *triples, str(folds), *numbers]


def _with_spread(mean: float | None, sd: float | None) -> str:
    return _shown(mean) + ("" if sd is None else f" ± {sd:.2f}")


def _shown(value: float | None, decimals: int = 2) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
