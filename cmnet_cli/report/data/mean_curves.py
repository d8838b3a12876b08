"""Mean curves over the cardiac cycle, from the table of frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmnet_cli.report.data.cohort_table import FloatArray, Population, as_numbers

CURVE_SAMPLES = 25
"""Number of samples of a mean curve; cycles of any number of frames are resampled to it."""

# A mean curve hardly changes beyond this many subjects, and the table of frames is the longest of all.
MOST_SUBJECTS = 2000
_SEED = 2


@dataclass(frozen=True, slots=True, eq=False)
class MeanCurve:
    """Mean of a quantity over the cycle, from frame 0.

    Attributes:
        subjects: Number of subjects.
        mean: Mean at each of ``CURVE_SAMPLES`` equal steps of the cycle.
        sd: Standard deviation between subjects, with divisor n - 1.
    """

    subjects: int
    mean: FloatArray
    sd: FloatArray


def phases() -> FloatArray:
    """Return the phase of each sample of a mean curve, in per cent of the cycle."""
    return np.linspace(0.0, 100.0, CURVE_SAMPLES, endpoint=False)


def mean_curves(population: Population, columns: Iterable[str]) -> dict[str, MeanCurve]:
    """Return mean curves of columns of the table frames; a large cohort is sampled at random."""
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
    curves = {name: _mean_curve(rows, chosen, name) for name in known}
    return {name: curve for name, curve in curves.items() if curve is not None}


def _mean_curve(rows: Any, chosen: Any, column: str) -> MeanCurve | None:
    subjects = np.asarray(pc.index_in(rows["case_id"], value_set=chosen).to_numpy())
    order = np.lexsort((rows["frame"].to_numpy(), subjects))
    values, subjects = as_numbers(rows[column])[order], subjects[order]
    starts = np.flatnonzero(np.diff(subjects, prepend=-1))
    curves = [_resample(curve) for curve in np.split(values, starts[1:]) if np.isfinite(curve).all()]
    if not curves:
        return None
    stack = np.stack(curves)
    sd = stack.std(axis=0, ddof=1) if len(stack) > 1 else np.zeros(CURVE_SAMPLES)
    return MeanCurve(len(stack), stack.mean(axis=0), sd)


def _resample(values: FloatArray) -> FloatArray:
    """Resample a closed curve linearly to ``CURVE_SAMPLES`` equal steps."""
    positions = phases() / 100.0 * len(values)
    resampled: FloatArray = np.interp(positions, np.arange(len(values) + 1), np.append(values, values[0]))
    return resampled
