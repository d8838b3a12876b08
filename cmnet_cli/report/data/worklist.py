"""The worklist: subjects in the order of the chance that one of their numbers is wrong, with the reasons.

The score of a subject is a sum of points, so that a further reason never lowers it:

* 10 points for each flag of the severity "do not use" and 2 for each of the severity "check", apart from flags that
  nearly all subjects share;
* 4 log2(r / 1.2) for the main index with the largest ratio r > 1.2 of the width of its 95 % interval to the median
  width in the cohort;
* for each of these comparisons the distance from the cohort's median, in robust standard deviations (1.4826 times the
  median absolute deviation) beyond 2, at most 5: volumes at ES by segmentation and by motion, the stroke volumes of
  both ventricles, their end-diastolic volumes, LV mass and volume, ejection fraction and circumferential strain.

What is compared with the cohort needs the values of ten subjects.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmnet_cli.report.data.cohort_table import (
    FEWEST_IN_COHORT,
    UNASSIGNED,
    FloatArray,
    IntArray,
    Population,
    as_numbers,
    read_columns,
)
from cmnet_cli.report.formatting import flag_condition, format_number, select_quantities, severity_of
from cmnet_cli.tables.columns.column import LOWER, UPPER
from cmnet_core.qc.flags import Severity

FLAG_POINTS = {Severity.DO_NOT_USE: 10.0, Severity.CHECK: 2.0, Severity.INFORMATION: 0.0}
"""Points of a flag by its severity."""

WIDTH_POINTS, USUAL_WIDTH = 4.0, 1.2
"""Points of an interval that is twice as wide as is usual, and the usual width in medians of the cohort. In 20 patients
of ACDC the largest ratio of a patient has a median of 1.18."""

USUAL_SD, MOST_POINTS = 2.0, 5.0
"""Robust standard deviations from the median of the cohort from which on a comparison has points, and their limit."""

FEWEST_POINTS = 0.05
"""A reason or score of fewer points, printed as 0.0, is not listed."""

_MAIN = ("lvedv_ml", "lvesv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvef_pct")
_VENTRICLES = {"lv": "LV", "rv": "RV"}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a subject is in the worklist.

    Attributes:
        text: The reason as a sentence without its full stop.
        points: What it adds to the score.
        flag: The flag that it is; empty for a comparison with the cohort.
    """

    text: str
    points: float
    flag: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A comparison of every subject with the cohort.

    Attributes:
        points: Points of each subject; 0 where the value is usual or not known.
        describe: Returns the reason of the subject with a row number.
    """

    points: FloatArray
    describe: Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Worklist:
    """All subjects with indices, by their score.

    Attributes:
        population: The subjects.
        comparisons: The comparisons with the cohort.
    """

    population: Population
    comparisons: tuple[Comparison, ...]

    @cached_property
    def score(self) -> FloatArray:
        """The sum of the points of each subject."""
        total = np.zeros(self.population.size)
        flagged = self.population.flagged
        for flag, rows in zip(flagged.flags, flagged.subjects, strict=True):
            if flag not in self.population.shared:
                total[rows] += FLAG_POINTS[severity_of(flag)]
        for comparison in self.comparisons:
            total += comparison.points
        return total

    @cached_property
    def order(self) -> IntArray:
        """The row numbers, the highest score first; ties stay in the order of the cohort."""
        return np.argsort(-np.round(self.score, 1), kind="stable")

    def reasons(self, row: int) -> list[Reason]:
        """Return the reasons of a subject that have points, those with most points first."""
        found = [
            Reason(flag_condition(flag), FLAG_POINTS[severity_of(flag)], flag)
            for flag in self.population.flags_of(row)
            if flag not in self.population.shared and FLAG_POINTS[severity_of(flag)]
        ]
        found += [
            Reason(one.describe(row), float(one.points[row]))
            for one in self.comparisons
            if one.points[row] >= FEWEST_POINTS
        ]
        return sorted(found, key=lambda reason: -reason.points)


def make_worklist(population: Population) -> Worklist:
    """Compare every subject with the cohort."""
    if population.size < FEWEST_IN_COHORT:
        return Worklist(population, ())
    comparisons = (*_interval_widths(population), *_disagreements(population), *_pairs(population))
    return Worklist(population, comparisons)


def _interval_widths(population: Population) -> Iterator[Comparison]:
    ends = [f"{name}{end}" for name in _MAIN for end in (LOWER, UPPER)]
    table = read_columns(population.folder, "indices", ends)
    ratios = []
    for name in _MAIN:
        ratio = np.full(population.size, np.nan)
        if f"{name}{LOWER}" in table.column_names and len(table) == population.size:
            width = as_numbers(table[f"{name}{UPPER}"]) - as_numbers(table[f"{name}{LOWER}"])
            known = width[np.isfinite(width)]
            if len(known) >= FEWEST_IN_COHORT and np.median(known) > 0:
                ratio = width / np.median(known)
        ratios.append(np.nan_to_num(ratio, nan=1.0))
    stack = np.stack(ratios)
    widest, largest = stack.argmax(axis=0), stack.max(axis=0)
    meanings = [quantity.meaning for quantity in select_quantities("indices", _MAIN)]

    def describe(row: int) -> str:
        times = format_number(float(largest[row]))
        return f"{meanings[widest[row]]}: the 95 % interval is {times} times as wide as the median of the cohort"

    yield Comparison(WIDTH_POINTS * np.log2(np.maximum(largest / USUAL_WIDTH, 1.0)), describe)


def _disagreements(population: Population) -> Iterator[Comparison]:
    """Compare volumes at ES as segmented with those of the ED contours, propagated by the motion."""
    for name, (segmented, propagated) in _volumes_at_es(population).items():
        edv = population.numbers(f"{name}edv_ml")
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = 100.0 * (propagated - segmented) / edv
        text = f"{_VENTRICLES[name]} volume at ES by the motion and as segmented differ by {{}} % of the EDV"
        yield _compared(difference, text)


def _volumes_at_es(population: Population) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the two volumes at ES of each ventricle; NaN where they are not known."""
    columns = [f"{name}{kind}_ml" for name in _VENTRICLES for kind in ("", "_propagated")]
    values = {column: np.full(population.size, np.nan) for column in columns}
    path = population.folder.table("frames")
    needed = ["case_id", "frame", *columns]
    if path.exists() and set(needed) <= set(pq.read_schema(path).names):
        es = np.append(population.numbers("es_frame"), np.nan)
        # By row groups: a large cohort has millions of frames.
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=needed):
                rows = population.rows_of(batch["case_id"])
                at_es = np.flatnonzero((rows != UNASSIGNED) & (batch["frame"].to_numpy() == es[rows]))
                chosen = batch.take(pa.array(at_es))
                for column in columns:
                    values[column][rows[at_es]] = as_numbers(pa.chunked_array([chosen[column]]))
    return {name: (values[f"{name}_ml"], values[f"{name}_propagated_ml"]) for name in _VENTRICLES}


def _pairs(population: Population) -> Iterator[Comparison]:
    """Compare pairs of values that are related in most subjects."""
    number = population.numbers
    yield _compared(number("sv_difference_pct"), "The stroke volume of the RV differs by {} % from that of the LV")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (
            (number("rvedv_ml") / number("lvedv_ml"), "RV over LV end-diastolic volume is {}"),
            (number("lvm_g") / number("lvedv_ml"), "LV mass over end-diastolic volume is {} g/mL"),
            (number("lvef_pct") / -number("gcs_line_midwall_peak_pct"), "LVEF over circumferential shortening is {}"),
        )
    for ratio, text in ratios:
        yield _compared(ratio, text, ratio=True)


def _compared(values: FloatArray, text: str, *, ratio: bool = False) -> Comparison:
    """Compare a value of each subject with the cohort; a ratio by its logarithm.

    Args:
        values: One per subject; NaN where it is not known.
        text: The reason, with a place for the value.
        ratio: Whether the value is a ratio, of which only positive values are compared.
    """
    known = np.isfinite(values) & ((values > 0) if ratio else True)
    points = np.zeros(len(values))
    median = math.nan
    if known.sum() >= FEWEST_IN_COHORT:
        median = float(np.median(values[known]))
        compared = np.log(values[known]) if ratio else values[known]
        distance = np.abs(compared - np.median(compared))
        sd = 1.4826 * float(np.median(distance))
        if sd > 0:
            points[known] = np.clip(distance / sd - USUAL_SD, 0.0, MOST_POINTS)
    decimals = 2 if ratio else 0

    def describe(row: int) -> str:
        value, usual = (format_number(float(one), decimals=decimals) for one in (values[row], median))
        return f"{text.format(value)}; the median of the cohort is {usual}"

    return Comparison(points, describe)
