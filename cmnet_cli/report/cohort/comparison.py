"""Figures of an evaluation: overlap with reference masks by method, and agreement of the indices."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cmnet_cli.report.data.cohort_table import read_columns
from cmnet_cli.report.formatting import Quantity, select_quantities
from cmnet_cli.report.plot.figures import ValueGroup, bland_altman, strip_plot
from cmnet_cli.report.plot.svg import CaptionedFigure
from cmnet_cli.runs.paths import RunFolder

_STRUCTURES = {"lv": "LV", "myo": "myocardium", "rv": "RV"}

# Values of the tables, and their text on the page.
_PROPAGATED: Mapping[str, str] = {
    "ed-to-es": "ED mask propagated to ES", "es-to-ed": "ES mask propagated to ED",
}  # fmt: skip
_METHODS: Mapping[str, str] = {"cardiomorphnet": "by motion", "no-motion": "without motion"}
_SEGMENTED: Mapping[str, str] = {"at-ed": "at ED", "at-es": "at ES"}
_METRICS: Mapping[str, str] = {"dsc_pct": "Dice (%)", "hd95_mm": "HD95 (mm)"}
_INDICES = (
    "lvef_pct", "lvedv_ml", "lvesv_ml", "lvsv_ml", "lvm_g", "rvef_pct", "rvedv_ml", "rvesv_ml", "rvsv_ml",
)  # fmt: skip


def evaluation_figures(folder: RunFolder) -> list[CaptionedFigure]:
    """Return all figures of an evaluation; none where nothing was evaluated."""
    return [*_overlaps(read_columns(folder, "evaluation")), *_agreements(read_columns(folder, "agreement"))]


def _overlaps(rows: Any) -> Iterator[CaptionedFigure]:
    for comparison, text in _PROPAGATED.items():
        propagated = rows.filter(pc.equal(rows["comparison"], comparison))
        yield from _overlap(propagated, "method", _METHODS, f"{text}, against the reference mask")
    segmented = rows.filter(pc.equal(rows["method"], "segnet"))
    yield from _overlap(segmented, "comparison", _SEGMENTED, "Segmentation, against the reference masks")


def _overlap(rows: Any, column: str, names: Mapping[str, str], caption: str) -> Iterator[CaptionedFigure]:
    for metric, label in _METRICS.items():
        groups = _value_groups(rows, column, names, metric)
        if groups:
            yield CaptionedFigure(strip_plot(label, groups), caption)


def _value_groups(rows: Any, column: str, names: Mapping[str, str], metric: str) -> list[ValueGroup]:
    """Return one group of values for each structure and each of the column's values that have a name."""
    groups = []
    for structure, structure_name in _STRUCTURES.items():
        for value, name in names.items():
            selected = rows.filter(pc.and_(pc.equal(rows["structure"], structure), pc.equal(rows[column], value)))
            known = tuple(pc.cast(selected[metric].drop_null(), pa.float64()).to_pylist())
            if known:
                kind = "point" if value == "no-motion" else structure
                groups.append(ValueGroup(f"{structure_name} {name}", kind, known))
    return groups


def _agreements(rows: Any) -> Iterator[CaptionedFigure]:
    for quantity in select_quantities("indices", _INDICES):
        pairs = _pairs(rows, quantity)
        if len(pairs) > 1:
            drawing = bland_altman(quantity.label, *zip(*pairs, strict=True))
            yield CaptionedFigure(drawing, f"{quantity.title}: estimate minus reference; bias and limits of agreement")


def _pairs(rows: Any, quantity: Quantity) -> list[tuple[float, float]]:
    selected = rows.filter(pc.equal(rows["index"], quantity.column)).select(["estimate", "reference"]).drop_null()
    return list(zip(selected["estimate"].to_pylist(), selected["reference"].to_pylist(), strict=True))
