"""Summaries of a benchmark: one row per method beside the summaries of the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cmnet_cli.evaluation.summary import ALL, compare_methods, known, summarise_overlaps
from cmnet_cli.stages.benchmark.error_maps import ErrorMap
from cmnet_cli.stages.benchmark.motion import TRUTH
from cmnet_cli.stages.benchmark.volume_curves import VolumeCurve

Row = dict[str, Any]

_MEANS = {
    "njd_field_mean": ("njd_field_ed_to_es", "njd_field_es_to_ed"),
    "njd_heart_mean": ("njd_heart_ed_to_es", "njd_heart_es_to_ed"),
    "sd_log_j_mean": ("sd_log_j_ed_to_es", "sd_log_j_es_to_ed"),
    "endpoint_mean_mm": ("endpoint_ed_to_es_mm", "endpoint_es_to_ed_mm"),
    "endpoint_myo_mean_mm": ("endpoint_myo_mm",),
    "err_error_mean_pct": ("err_error_pct",),
    "ecc_error_mean_pct": ("ecc_error_pct",),
    "cpu_mean_s": ("cpu_s",),
    "peak_mean_mb": ("peak_mb",),
}
"""Column of a method, and the columns of a case and method of which it is the mean."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The rows of the tables of a benchmark.

    Attributes:
        overlaps: Overlap of every case, method, comparison and structure.
        motions: Regularity, error and cost of every case and method.
        methods: One row per method, in the order in which they were requested.
        summary: Means of the overlaps, over all cases and by group.
        tests: Paired tests between methods.
        protocol: Protocol of the comparison with the masks.
        maps: Error maps of one case.
        curves: LV volume of the same case over the cycle by each method.
    """

    overlaps: Sequence[Row]
    motions: Sequence[Row]
    methods: Sequence[Row]
    summary: Sequence[Row]
    tests: Sequence[Row]
    protocol: str
    maps: Sequence[ErrorMap] = ()
    curves: Sequence[VolumeCurve] = ()


def summarise_benchmark(
    overlaps: Sequence[Row], motions: Sequence[Row], *, cases: int, messages: Mapping[str, str], protocol: str
) -> Benchmark:
    """Summarise the rows of all cases.

    Args:
        overlaps: One row per case, method, comparison and structure.
        motions: One row per case and method.
        cases: Number of cases of the benchmark.
        messages: For each method, in order, why it has failed; empty if it has not.
        protocol: Protocol of the comparison with the masks.
    """
    # The true motion is the ceiling, not a method to be tested against.
    tested = [row for row in overlaps if row["method"] != TRUTH]
    return Benchmark(
        overlaps=overlaps,
        motions=motions,
        methods=[_method_row(method, motions, cases=cases, message=text) for method, text in messages.items()],
        summary=list(summarise_overlaps(overlaps)),
        tests=list(compare_methods(tested)),
        protocol=protocol,
    )


def _method_row(method: str, motions: Sequence[Row], *, cases: int, message: str) -> Row:
    rows = [row for row in motions if row["method"] == method]
    means = {}
    for name, columns in _MEANS.items():
        values = [value for column in columns for value in known(rows, column)]
        means[name] = fmean(values) if values else None
    return {"method": method, "n": len(rows), "failed": cases - len(rows), "message": message or None, **means}


def overlaps_of(found: Benchmark, method: str, comparison: str) -> Mapping[str, Row]:
    """Return the summary over all cases of a method and comparison, by structure."""
    return {
        row["structure"]: row
        for row in found.summary
        if (row["group"], row["method"], row["comparison"]) == (ALL, method, comparison)
    }
