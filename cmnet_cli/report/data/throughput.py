"""Times of the stages, and the machines that ran them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import as_numbers
from cmnet_cli.report.formatting import format_number

_STAGES = ("preprocess", "infer", "indices")


@dataclass(frozen=True, slots=True)
class StageTime:
    """The time of one stage; every value is text.

    Attributes:
        stage: Name of the stage.
        count: Number of subjects with a recorded time.
        median: Median in seconds per subject.
        percentile_95: 95th percentile in seconds per subject.
        hours: Sum in hours of one worker.
        rate: Subjects per hour and worker.
    """

    stage: str
    count: str
    median: str
    percentile_95: str
    hours: str
    rate: str


def stage_times(context: CohortContext) -> list[StageTime]:
    """Return the times of every stage that was recorded for enough subjects."""
    status = context.population.status
    times = []
    for stage in _STAGES:
        column = f"seconds_{stage}"
        seconds = as_numbers(status[column]) if column in status.column_names else np.zeros(0)
        seconds = seconds[np.isfinite(seconds)]
        if len(seconds) and not context.deidentifier.hides(len(seconds)):
            median, percentile_95 = np.percentile(seconds, (50, 95)).tolist()
            times.append(
                StageTime(
                    stage,
                    context.counts.told(len(seconds)),
                    format_number(median),
                    format_number(percentile_95),
                    format_number(float(seconds.sum()) / 3600),
                    f"{3600 / max(float(seconds.mean()), 1e-3):,.0f}",
                )
            )
    return times


def host_times(context: CohortContext) -> list[tuple[str, str, str]]:
    """Return name, subjects and peak memory in MB of the machines, the busiest first; share-safe without names."""
    status = context.population.status
    if not {"host", "peak_memory_mb"} <= set(status.column_names):
        return []
    known = status.filter(pc.is_valid(pc.cast(status["host"], pa.string())))
    counted: Any = known.group_by("host").aggregate([([], "count_all"), ("peak_memory_mb", "max")])
    rows = sorted(counted.to_pylist(), key=lambda row: -row["count_all"])
    return [
        (
            context.deidentifier.host(row["host"]) or "",
            context.counts.told(row["count_all"]),
            format_number(row["peak_memory_mb_max"], decimals=0),
        )
        for row in rows
        if not context.deidentifier.hides(row["count_all"])
    ]
