"""How long the stages took, and on which machines."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import as_numbers
from cmnet_cli.report.formatting import shown

_STAGES = ("preprocess", "infer", "indices")


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage.

    Attributes:
        stage: Its name.
        count: How many subjects it was timed on.
        median: Seconds a subject.
        most: The 95th percentile of the seconds.
        hours: All of it, in hours of one worker.
        rate: Subjects that one worker does in an hour.
    """

    stage: str
    count: str
    median: str
    most: str
    hours: str
    rate: str


def stage_times(showing: Showing) -> list[StageTime]:
    """Every stage that was timed on enough subjects to be told of."""
    status = showing.population.status
    timed = []
    for stage in _STAGES:
        column = f"seconds_{stage}"
        seconds = as_numbers(status[column]) if column in status.column_names else np.zeros(0)
        seconds = seconds[np.isfinite(seconds)]
        if len(seconds) and not showing.deidentifier.hides(len(seconds)):
            middle, most = np.percentile(seconds, (50, 95)).tolist()
            timed.append(
                StageTime(
                    stage,
                    showing.counting.told(len(seconds)),
                    shown(middle),
                    shown(most),
                    shown(float(seconds.sum()) / 3600),
                    f"{3600 / max(float(seconds.mean()), 1e-3):,.0f}",
                )
            )
    return timed


def host_times(showing: Showing) -> list[tuple[str, str, str]]:
    """Name, subjects and largest memory of the machines, the busiest first; a share-safe report names none."""
    status = showing.population.status
    if not {"host", "peak_memory_mb"} <= set(status.column_names):
        return []
    known = status.filter(pc.is_valid(pc.cast(status["host"], pa.string())))
    counted: Any = known.group_by("host").aggregate([([], "count_all"), ("peak_memory_mb", "max")])
    rows = sorted(counted.to_pylist(), key=lambda row: -row["count_all"])
    return [
        (
            showing.deidentifier.host(row["host"]) or "",
            showing.counting.told(row["count_all"]),
            shown(row["peak_memory_mb_max"], decimals=0),
        )
        for row in rows
        if not showing.deidentifier.hides(row["count_all"])
    ]
