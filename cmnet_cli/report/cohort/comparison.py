"""The figures of an evaluation: overlap with reference masks by method, and agreement of the indices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from cmnet_cli.report.data.cohort_table import read_columns
from cmnet_cli.report.formatting import Quantity, named
from cmnet_cli.report.plot import figures
from cmnet_cli.runs.paths import RunFolder

_STRUCTURES = {"lv": "LV", "myo": "myocardium", "rv": "RV"}

# What is compared, as the table names it and as people read it.
_MOVED: Mapping[str, str] = {"ed-to-es": "ED carried to ES", "es-to-ed": "ES carried to ED"}
_METHODS: Mapping[str, str] = {"cardiomorphnet": "by motion", "no-motion": "left in place"}
_SEEN: Mapping[str, str] = {"at-ed": "at ED", "at-es": "at ES"}
_MEASURES: Mapping[str, str] = {"dsc_pct": "Dice (%)", "hd95_mm": "HD95 (mm)"}
_INDICES = (
    "lvef_pct", "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvm_g", "rvef_pct", "rvedv_ml", "rvesv_ml", "rvsv_ml",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Illustration:
    """A figure and the line below it."""

    drawing: Markup
    caption: str


def illustrate(folder: RunFolder) -> list[Illustration]:
    """All figures of an evaluation; none where nothing was evaluated."""
    return [*_overlaps(read_columns(folder, "evaluation")), *_agreements(read_columns(folder, "agreement"))]


def _overlaps(rows: Any) -> Iterator[Illustration]:
    for comparison, words in _MOVED.items():
        moved = rows.filter(pc.equal(rows["comparison"], comparison))
        yield from _measured(moved, "method", _METHODS, f"{words}, against the reference mask there")
    segmented = rows.filter(pc.equal(rows["method"], "segnet"))
    yield from _measured(segmented, "comparison", _SEEN, "Segmentation, against the reference masks")


def _measured(rows: Any, column: str, names: Mapping[str, str], caption: str) -> Iterator[Illustration]:
    for measure, label in _MEASURES.items():
        groups = _spreads(rows, column, names, measure)
        if groups:
            yield Illustration(figures.spreads(label, groups), caption)


def _spreads(rows: Any, column: str, names: Mapping[str, str], measure: str) -> list[figures.Spread]:
    """One spread for each structure and each of the column's values that have a name."""
    found = []
    for structure, spoken in _STRUCTURES.items():
        for value, name in names.items():
            listed = rows.filter(pc.and_(pc.equal(rows["structure"], structure), pc.equal(rows[column], value)))
            known = tuple(pc.cast(listed[measure].drop_null(), pa.float64()).to_pylist())
            if known:
                kind = "point" if value == "no-motion" else structure
                found.append(figures.Spread(f"{spoken} {name}", kind, known))
    return found


def _agreements(rows: Any) -> Iterator[Illustration]:
    for quantity in named("indices", _INDICES):
        pairs = _pairs(rows, quantity)
        if len(pairs) > 1:
            drawing = figures.agreement(quantity.label, *zip(*pairs, strict=True))
            yield Illustration(drawing, f"{quantity.title}: estimate minus reference; bias and limits of agreement")


def _pairs(rows: Any, quantity: Quantity) -> list[tuple[float, float]]:
    listed = rows.filter(pc.equal(rows["index"], quantity.column)).select(["estimate", "reference"]).drop_null()
    return list(zip(listed["estimate"].to_pylist(), listed["reference"].to_pylist(), strict=True))
