"""The page of a benchmark: plots of every method, and all tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cmnet_cli.evaluation.benchmark_page import TESTS, sections
from cmnet_cli.evaluation.benchmark_summary import Benchmark
from cmnet_cli.evaluation.summary import known
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.report.data.load_results import read_provenance
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.figures import Curve, CycleAxis, ValueGroup, box_plot, cycle_figure
from cmnet_cli.report.plot.svg import CaptionedFigure
from cmnet_cli.report.templating import open_templates
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.benchmark.error_maps import ErrorMap
from cmnet_cli.stages.benchmark.volume_curves import VolumeCurve
from cmnet_cli.stages.evaluate import POOLED

Row = dict[str, Any]

_STRUCTURES = {"lv": "left ventricle", "myo": "myocardium", "rv": "right ventricle"}
_OVERLAPS = {"dsc_pct": "Dice (%)", "hd95_mm": "HD95 (mm)"}
_MOTIONS = {
    "endpoint_myo_mm": ("endpoint error (mm)", "Distance from the true motion in the myocardium at ED"),
    "ecc_error_pct": ("error (percentage points)", "Circumferential strain at ES, against the true one"),
    "sd_log_j_ed_to_es": ("SDlogJ", "Irregularity of the field from ED to ES"),
    "cpu_s": ("CPU time (s)", "CPU time of one frame pair"),
}


def render_benchmark(folder: RunFolder, found: Benchmark) -> str:
    """Return the page: plots of overlap, error, regularity and cost of each method, and all tables.

    Args:
        folder: The run.
        found: The rows of the tables.
    """
    methods = [row["method"] for row in found.methods if row["n"]]
    white = max((float(np.percentile(one.values.numpy(), 99)) for one in found.maps), default=0.0)
    text: str = (
        open_templates()
        .get_template("benchmark.html")
        .render(
            cases=len({row["case_id"] for row in found.motions}),
            methods=len(methods),
            protocol=found.protocol,
            missing=[row for row in found.methods if row["message"]],
            overlaps=list(_overlap_figures(found, methods)),
            motions=list(_motion_figures(found, methods)),
            maps=list(_map_figures(found.maps, white)),
            curves=list(_curve_figures(found.curves)),
            white=f"{white:.2g} {found.maps[0].unit}".rstrip() if found.maps else "",
            long_table=TESTS,
            tables=list(sections(found)),
            provenance=read_provenance(folder, open_deidentifier(folder.share_key, share_safe=False)),
        )
    )
    return text


def _overlap_figures(found: Benchmark, methods: Sequence[str]) -> Iterator[CaptionedFigure]:
    for structure, name in _STRUCTURES.items():
        rows = [row for row in found.overlaps if (row["comparison"], row["structure"]) == (POOLED, structure)]
        for metric, label in _OVERLAPS.items():
            groups = _groups(rows, metric, methods, structure)
            if groups:
                yield CaptionedFigure(box_plot(label, groups), f"{name.capitalize()}: {label}, both directions")


def _motion_figures(found: Benchmark, methods: Sequence[str]) -> Iterator[CaptionedFigure]:
    for column, (label, caption) in _MOTIONS.items():
        groups = _groups(found.motions, column, methods, "point")
        if groups:
            yield CaptionedFigure(box_plot(label, groups), caption)


def _map_figures(maps: Sequence[ErrorMap], white: float) -> Iterator[CaptionedFigure]:
    """Yield the error maps, all with one grey scale from 0 to the error that is white."""
    for one in maps:
        height, width = one.values.shape
        grey = np.rint(255.0 * (one.values.numpy() / max(white, 1e-6)).clip(0.0, 1.0)).astype(np.uint8)
        drawing = svg.picture(width, height, [svg.image(grey)], text=f"Error map of {one.method}")
        yield CaptionedFigure(drawing, f"{one.method}: mean {float(one.values.mean()):.2g} {one.unit}".rstrip())


def _curve_figures(curves: Sequence[VolumeCurve]) -> Iterator[CaptionedFigure]:
    """Yield the LV volume by each method over that of the reference masks, all with one vertical axis."""
    values = [value for one in curves for value in (*one.lv_ml, *one.reference_ml.values())]
    for one in curves:
        last = len(one.frames) - 1
        times = tuple(100.0 * number / last for number in range(last + 1))
        drawn = [Curve(one.method, "lv", one.lv_ml)]
        if set(one.frames) <= set(one.reference_ml):
            drawn.append(Curve("reference masks", "all thin", tuple(one.reference_ml[frame] for frame in one.frames)))
        axis = CycleAxis(times, "time (% of the cycle)", (("ES", one.frames.index(one.es)),))
        drawing = cycle_figure(axis, drawn, label="LV volume (mL)", limits=(0.0, max(values)))
        error = one.lv_ml[axis.marked[0][1]] - one.reference_ml[one.es]
        yield CaptionedFigure(drawing, f"{one.method}: {error:+.0f} mL at ES")


def _groups(rows: Sequence[Row], column: str, methods: Sequence[str], kind: str) -> list[ValueGroup]:
    """Return the values of each method that has any."""
    values = {method: known((row for row in rows if row["method"] == method), column) for method in methods}
    return [ValueGroup(method, kind, tuple(listed)) for method, listed in values.items() if listed]
