"""Mean curves over the cardiac cycle, from the table of frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmnet_cli.report.data.cohort_table import Numbers, Population, as_numbers

POINTS = 25
"""Points of a mean curve, over cycles of any number of frames."""

# A mean curve hardly changes beyond this many subjects, and the table of frames is the longest of all.
MOST_SUBJECTS = 2000
_SEED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """A quantity over the cycle, from frame 0.

    Attributes:
        subjects: Of how many it is the mean.
        mean: At each of ``POINTS`` equal steps of the cycle.
        sd: Standard deviation between subjects, divisor n - 1.
    """

    subjects: int
    mean: Numbers
    sd: Numbers


def phases() -> Numbers:
    """Per cent of the cycle at the points of a mean curve."""
    return np.linspace(0.0, 100.0, POINTS, endpoint=False)


def mean_cycles(population: Population, columns: Iterable[str]) -> dict[str, Cycle]:
    """Mean curves of those columns of the table frames that it has, over a random sample of a large cohort."""
    path = population.folder.table("frames")
    if not path.exists() or not population.size:
        return {}
    known = [name for name in columns if name in pq.read_schema(path).names]
    chosen = population.indices["case_id"].combine_chunks()
    if population.size > MOST_SUBJECTS:
        drawn = np.random.default_rng(_SEED).choice(population.size, MOST_SUBJECTS, replace=False)
        chosen = chosen.take(np.sort(drawn))
    rows = pq.read_table(path, columns=["case_id", "frame", *known], filters=pc.field("case_id").isin(chosen))
    if not rows.num_rows:
        return {}
    cycles = {name: _mean_cycle(rows, chosen, name) for name in known}
    return {name: cycle for name, cycle in cycles.items() if cycle is not None}


def _mean_cycle(rows: Any, chosen: Any, column: str) -> Cycle | None:
    who = np.asarray(pc.index_in(rows["case_id"], value_set=chosen).to_numpy())
    order = np.lexsort((rows["frame"].to_numpy(), who))
    values, who = as_numbers(rows[column])[order], who[order]
    starts = np.flatnonzero(np.diff(who, prepend=-1))
    curves = [_resampled(curve) for curve in np.split(values, starts[1:]) if np.isfinite(curve).all()]
    if not curves:
        return None
    stack = np.stack(curves)
    spread = stack.std(axis=0, ddof=1) if len(stack) > 1 else np.zeros(POINTS)
    return Cycle(len(stack), stack.mean(axis=0), spread)


def _resampled(values: Numbers) -> Numbers:
    """A closed curve at ``POINTS`` equal steps."""
    places = phases() / 100.0 * len(values)
    resampled: Numbers = np.interp(places, np.arange(len(values) + 1), np.append(values, values[0]))
    return resampled
