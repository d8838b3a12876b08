"""Summaries of an evaluation over subjects: means and medians, agreement, and paired tests between methods."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import fmean, median, stdev
from typing import Any

from cmnet_cli.derivatives.tracking import DEFAULT_METHOD, SEGNET
from cmnet_cli.stages.evaluate import AT_ED, AT_ES, ED_TO_ES, ES_TO_ED, NO_MOTION, POOLED, Evaluation
from cmnet_cli.tables.columns.evaluation import EVALUATED
from cmnet_core.stats.agreement import agreement, compare_paired, holm, within_subject

Row = dict[str, Any]

ALL = "all"
METRICS = ("dsc_pct", "hd95_mm")
EMPTY = "empty-prediction"

_TARGETS = {ED_TO_ES: "es", AT_ES: "es", ES_TO_ED: "ed", AT_ED: "ed", POOLED: "pooled"}
"""The reference of each comparison. Only methods that are compared with the same reference are tested."""

_PER_SUBJECT = ("entropy_auroc", "entropy_heart_nats", "entropy_background_nats", "cycle_consistency_error_mm")
_FOLDING = tuple(f"njd_{where}_{direction}" for direction in ("ed_to_es", "es_to_ed") for where in ("field", "heart"))


def by_group(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield all rows, then the rows of each group of the manifest."""
    yield ALL, list(rows)
    for group in sorted({row["group"] for row in rows if row["group"]}):
        yield group, [row for row in rows if row["group"] == group]


def summarise_overlaps(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield mean, standard deviation and median of each method, comparison and structure, over all and by group.

    An empty prediction has a Dice coefficient of 0 and no distance, and counts as a failure.
    """
    for group, members in by_group(rows):
        cells: dict[tuple[str, str, str], list[Row]] = {}
        for row in members:
            cells.setdefault((row["method"], row["comparison"], row["structure"]), []).append(row)
        for (method, comparison, structure), listed in cells.items():
            dsc, jac, hd95, msd = (known(listed, name) for name in ("dsc_pct", "jac_pct", "hd95_mm", "msd_mm"))
            yield {
                "group": group,
                "method": method,
                "comparison": comparison,
                "structure": structure,
                "n": len(dsc),
                "failures": sum(row["failure"] == EMPTY for row in listed),
                "dsc_mean_pct": _mean(dsc),
                "dsc_sd_pct": _sd(dsc),
                "dsc_median_pct": _median(dsc),
                "jac_mean_pct": _mean(jac),
                "jac_median_pct": _median(jac),
                "hd95_mean_mm": _mean(hd95),
                "hd95_sd_mm": _sd(hd95),
                "hd95_median_mm": _median(hd95),
                "msd_mean_mm": _mean(msd),
                "msd_median_mm": _median(msd),
            }


def summarise_agreement(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield bias, limits of agreement and RMSE of each clinical index, over all subjects and by group."""
    for group, members in by_group(rows):
        for index in dict.fromkeys(row["index"] for row in members):
            listed = [row for row in members if row["index"] == index]
            found = agreement([row["estimate"] for row in listed], [row["reference"] for row in listed])
            within = within_subject([row["estimate"] for row in listed], [row["subject_id"] for row in listed])
            yield {"group": group, "index": index, **asdict(found), **asdict(within)}


def subject_row(found: Evaluation) -> Row:
    """Return all metrics of a subject in one row."""
    row = dict(found.motion)
    overlaps = {(_role(item["method"]), item["comparison"], item["structure"]): item for item in found.overlaps}
    for prefix, (method, comparison) in EVALUATED.items():
        for structure in ("lv", "myo", "rv"):
            item = overlaps[method, comparison, structure]
            row |= {f"{prefix}_{structure}_{metric}": item[metric] for metric in METRICS}
    single = {(method, comparison) for method, comparison in EVALUATED.values() if comparison != POOLED}
    row["failures"] = sum(
        item["failure"] == EMPTY for item in found.overlaps if (_role(item["method"]), item["comparison"]) in single
    )
    for item in found.folding:
        direction = item["comparison"].replace("-", "_")
        row |= {f"njd_{where}_{direction}": item.get(f"njd_{where}") for where in ("field", "heart")}
    return row


def _role(method: str) -> str:
    """Return the method under which :data:`EVALUATED` lists the motion, whichever method has estimated it."""
    return method if method in (SEGNET, NO_MOTION) else DEFAULT_METHOD


def summarise_subjects(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield mean, standard deviation, median and range of each metric of a subject, over all and by group."""
    for group, members in by_group(rows):
        for quantity in (*_FOLDING, *_PER_SUBJECT):
            values = known(members, quantity)
            yield {
                "group": group,
                "quantity": quantity,
                "n": len(values),
                "mean": _mean(values),
                "sd": _sd(values),
                "median": _median(values),
                "minimum": min(values, default=None),
                "maximum": max(values, default=None),
            }


def compare_methods(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield paired tests between all methods with the same reference, Holm-corrected within each group."""
    for group, members in by_group(rows):
        tests = [{"group": group, **test} for test in _paired_tests(members)]
        for name in ("t_test_p", "wilcoxon_p"):
            listed = [test for test in tests if test[name] is not None]
            for test, adjusted in zip(listed, holm([test[name] for test in listed]), strict=True):
                test[f"{name}_holm"] = adjusted
        yield from tests


def _paired_tests(rows: Sequence[Row]) -> Iterator[Row]:
    values: dict[tuple[str, str, str], dict[str, dict[str, float | None]]] = {}
    for row in rows:
        for metric in METRICS:
            key = (_TARGETS[row["comparison"]], row["structure"], metric)
            values.setdefault(key, {}).setdefault(row["method"], {})[row["case_id"]] = row[metric]
    for (target, structure, metric), methods in values.items():
        for first, second in combinations(methods, 2):
            cases = [case_id for case_id in methods[first] if case_id in methods[second]]
            found = compare_paired(*([methods[method][case_id] for case_id in cases] for method in (first, second)))
            keys = {"target": target, "structure": structure, "metric": metric, "first": first, "second": second}
            yield {**keys, **asdict(found)}


def known(rows: Iterable[Row], name: str) -> list[float]:
    """Return the values of a column that are not missing."""
    return [row[name] for row in rows if row.get(name) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None
