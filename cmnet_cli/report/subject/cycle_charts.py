"""The curves of a subject's page: volumes, strain and twist over the cardiac cycle."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from markupsafe import Markup

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.plot import figures
from cmnet_cli.report.plot.bullseye import SEGMENTS
from cmnet_cli.report.plot.svg import KeyEntry
from cmnet_cli.tables.columns.column import LOWER, UPPER

_CIRCUMFERENTIAL = (
    ("gcs_line_endo_pct", "endocardium", "rv"),
    ("gcs_line_midwall_pct", "mid-wall", "lv"),
    ("gcs_line_epi_pct", "epicardium", "myo"),
)
_RADIAL = (("grs_line_wall_pct", "endocardium to epicardium", "lv"),)
# Peak of field 24157, mean ± 2 SD.
_NORMAL = figures.ReferenceBand(
    -22.3 - 2 * 3.4, -22.3 + 2 * 3.4, "peak in 38,319 participants of UK Biobank, mean ± 2 SD"
)
# Ends of the axis of segments, which is the same for every subject.
_SEGMENT_LIMITS = (-40.0, 10.0)
_ROTATIONS = (
    ("twist_deg", "twist: apical minus basal rotation", "all"),
    ("basal_rotation_deg", "basal rotation", "lv"),
    ("apical_rotation_deg", "apical rotation", "rv"),
)
_LEVELS = (("Basal", range(1, 7)), ("Mid", range(7, 13)), ("Apical", range(13, 17)))
# An apical segment has the style of the wall above it; the septal and the lateral one that of the inferior half.
_STYLES = (*range(6), *range(6), 0, 2, 3, 4)

_VOLUMES = (
    ("lv_propagated_ml", "left ventricle, propagated from ED", "lv motion"),
    ("rv_propagated_ml", "right ventricle, propagated from ED", "rv motion"),
    ("lv_ml", "left ventricle, segmented", "lv"),
    ("rv_ml", "right ventricle, segmented", "rv"),
)


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with title, note and legend.

    Attributes:
        name: Name of the file to which it is exported.
        title: Title above the figure.
        note: Note below the title.
        drawing: The figure.
        key: The legend.
    """

    name: str
    title: str
    note: str
    drawing: Markup
    key: tuple[KeyEntry, ...]


def cycle_axis(frames: Sequence[Row], row: Row) -> figures.CycleAxis:
    """Return the time axis of a subject's curves."""
    timed = frames[-1]["time_ms"] is not None
    return figures.CycleAxis(
        times=tuple(float(frame["time_ms"] if timed else frame["frame"]) for frame in frames),
        label="time (ms)" if timed else "frame",
        marked=(("ED", int(row["ed_frame"])), ("ES", int(row["es_frame"]))),
    )


def volume_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """Draw the volumes of both ventricles, with their intervals at ED and ES; None where they are not known."""
    curves = complete_curves(frames, _VOLUMES)
    if not curves:
        return None
    bands = []
    for ventricle, phase in product(("lv", "rv"), ("ed", "es")):
        low, high = (row.get(f"{ventricle}{phase}v_ml{end}") for end in (LOWER, UPPER))
        if low is not None and high is not None:
            bands.append(figures.Band(ventricle, int(row[f"{phase}_frame"]), low, high))
    note = "Solid: segmented in each frame. Dotted: the ED segmentation, propagated by the estimated motion."
    note += " Bands: 95 % intervals of the volumes at ED and at ES." if bands else " There are no intervals."
    drawing = figures.cycle_figure(cycle_axis(frames, row), curves, label="volume (mL)", bands=bands)
    segmented_first = sorted(curves, key=lambda curve: "motion" in curve.kind)
    return Chart("volumes", "Volumes over the cycle", note, drawing, _key(segmented_first))


def complete_curves(frames: Sequence[Row], columns: Sequence[tuple[str, str, str]]) -> list[figures.Curve]:
    """Return the curves of those columns (with names and styles) that have a value at every frame."""
    known = [
        (name, kind, tuple(float(frame[column]) for frame in frames if frame.get(column) is not None))
        for column, name, kind in columns
    ]
    return [figures.Curve(name, kind, values) for name, kind, values in known if values and len(values) == len(frames)]


def circumferential_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """Draw the strain of the three contours, with the interval of the mid-wall at ES; None where it is not known."""
    note = "Engineering strain: change of length of the contours since end-diastole."
    chart = _strain_chart("circumferential-strain", "Circumferential strain", note, _CIRCUMFERENTIAL, frames, row)
    if chart is None:
        return None
    text = "Grey: peak strain in 38,319 participants of UK Biobank, mean ± 2 SD, of endo- and epicardium by other "
    return replace(chart, note=f"{chart.note} {text}software; for orientation only.")


def radial_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """Draw the radial strain, with its interval at ES; None where it is not known."""
    note = "Engineering strain across the wall since end-diastole."
    return _strain_chart("radial-strain", "Radial strain", note, _RADIAL, frames, row)


def _strain_chart(
    name: str,
    title: str,
    note: str,
    columns: Sequence[tuple[str, str, str]],
    frames: Sequence[Row],
    row: Row,
) -> Chart | None:
    curves = complete_curves(frames, columns)
    if not curves:
        return None
    # Intervals of several contours would hide each other.
    bands = [
        figures.Band(kind, int(row["es_frame"]), low, high)
        for column, _, kind in columns
        if kind == "lv"
        and (low := row.get(column.replace("_pct", f"_es_pct{LOWER}"))) is not None
        and (high := row.get(column.replace("_pct", f"_es_pct{UPPER}"))) is not None
    ]
    note += " Bar: 95 % interval at ES; with an arrow, it continues." if bands else " There are no intervals."
    reference = _NORMAL if columns is _CIRCUMFERENTIAL else None
    drawing = figures.cycle_figure(
        cycle_axis(frames, row), curves, label="strain (%)", bands=bands, reference=reference
    )
    return Chart(name, title, note, drawing, _key(curves))


def twist_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """Draw rotation and twist; None where they are not known."""
    curves = complete_curves(frames, _ROTATIONS)
    if not curves:
        return None
    note = "Counter-clockwise seen from the apex. Segmentation does not show the rotation of the wall: it is estimated "
    note += "from texture and from training data."
    drawing = figures.cycle_figure(cycle_axis(frames, row), curves, label="angle (degrees)")
    return Chart("twist", "Rotation and twist", note, drawing, _key(curves))


def segment_charts(frames: Sequence[Row], segments: Sequence[Row], row: Row) -> list[Chart]:
    """Draw the circumferential strain of the AHA segments, one chart per level; none where no segment is known."""
    known = {
        int(one["segment"]): one["ecc_line_wall_curve_pct"] for one in segments if one.get("ecc_line_wall_curve_pct")
    }
    if not known or not frames:
        return []
    whole = complete_curves(frames, [("gcs_line_midwall_pct", "whole mid-wall", "all thin")])
    charts = []
    for level, numbers in _LEVELS:
        curves = [
            figures.Curve(f"{n} {SEGMENTS[n - 1].partition(' ')[2]}", f"thin s{_STYLES[n - 1]}", tuple(known[n]))
            for n in numbers
            if n in known
        ]
        drawing = figures.cycle_figure(
            cycle_axis(frames, row), [*whole, *curves], label="Ecc (%)", limits=_SEGMENT_LIMITS
        )
        charts.append(Chart(f"strain-{level.lower()}", f"{level} segments", "", drawing, _key([*curves, *whole])))
    return charts


def _key(curves: Sequence[figures.Curve]) -> tuple[KeyEntry, ...]:
    return tuple(KeyEntry(curve.kind, curve.name) for curve in curves)
