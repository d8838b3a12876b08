"""The curves of a subject's page: volumes, strain and twist over the cardiac cycle."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from markupsafe import Markup

from cmnet_cli.report.data.load_results import Row
from cmnet_cli.report.plot import figures
from cmnet_cli.report.plot.bullseye import SEGMENTS
from cmnet_cli.tables.columns.column import LOWER, UPPER

_STRAINS = (
    ("grs_pct", "GRS, radial", "rv"),
    ("gcs_pct", "GCS, circumferential", "lv"),
    ("gls_sax_pct", "GLS-SAX, along the stack", "myo dash"),
)
_TURNS = (
    ("twist_deg", "twist, apical less basal", "all"),
    ("basal_rotation_deg", "basal rotation", "lv"),
    ("apical_rotation_deg", "apical rotation", "rv"),
)
_LEVELS = (("Basal", range(1, 7)), ("Mid", range(7, 13)), ("Apical", range(13, 17)))
# An apical segment is drawn as the wall above it; the one septal and the one lateral as the inferior half of theirs.
_STYLES = (*range(6), *range(6), 0, 2, 3, 4)

_VOLUMES = (
    ("lv_propagated_ml", "left ventricle by motion", "lv motion"),
    ("rv_propagated_ml", "right ventricle by motion", "rv motion"),
    ("lv_ml", "left ventricle", "lv"),
    ("rv_ml", "right ventricle", "rv"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a figure's key."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with its words.

    Attributes:
        name: For the file that it may be saved as.
        title: Above it.
        note: Below the title.
        drawing: The figure.
        key: What the lines are.
    """

    name: str
    title: str
    note: str
    drawing: Markup
    key: tuple[Entry, ...]


def over_the_cycle(frames: Sequence[Row], row: Row) -> figures.Cycle:
    """The time axis of a subject's curves."""
    timed = frames[-1]["time_ms"] is not None
    return figures.Cycle(
        times=tuple(float(frame["time_ms"] if timed else frame["frame"]) for frame in frames),
        across="time (ms)" if timed else "frame",
        marked=(("ED", int(row["ed_frame"])), ("ES", int(row["es_frame"]))),
    )


def volume_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """The volumes of both ventricles, with their intervals at ED and ES; None where they are not known."""
    curves = curves_of(frames, _VOLUMES)
    if not curves:
        return None
    bands = _volume_bands(row)
    note = "Solid: segmented frame by frame. Dotted: the contours of end-diastole, carried by the motion."
    note += " Bands: the 95 % intervals of the volumes at ED and at ES." if bands else " No intervals are known."
    drawing = figures.cycle(over_the_cycle(frames, row), curves, up="volume (mL)", bands=bands)
    segmented_first = sorted(curves, key=lambda curve: "motion" in curve.kind)
    return Chart("volumes", "Volumes over the cycle", note, drawing, _key(segmented_first))


def _volume_bands(row: Row) -> list[figures.Band]:
    bands = []
    for kind, phase in product(("lv", "rv"), ("ed", "es")):
        low, high = (row.get(f"{kind}{phase}v_ml{end}") for end in (LOWER, UPPER))
        if low is not None and high is not None:
            bands.append(figures.Band(kind, int(row[f"{phase}_frame"]), low, high))
    return bands


def curves_of(frames: Sequence[Row], columns: Sequence[tuple[str, str, str]]) -> list[figures.Curve]:
    """Curves of those columns (with their names and styles) that are known at every frame."""
    known = [
        (name, kind, tuple(float(frame[column]) for frame in frames if frame.get(column) is not None))
        for column, name, kind in columns
    ]
    return [figures.Curve(name, kind, values) for name, kind, values in known if values and len(values) == len(frames)]


def strain_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """The global strains, with their intervals at ES; None where they are not known."""
    curves = curves_of(frames, _STRAINS)
    if not curves:
        return None
    kinds = {column.removesuffix("_pct"): kind for column, _, kind in _STRAINS}
    bands = [
        figures.Band(kind, int(row["es_frame"]), low, high)
        for name, kind in kinds.items()
        if (low := row.get(f"{name}_es_pct{LOWER}")) is not None
        and (high := row.get(f"{name}_es_pct{UPPER}")) is not None
    ]
    note = "Green–Lagrange strain of the left ventricle's wall since end-diastole."
    note += " Bands: the 95 % intervals at ES." if bands else " No intervals are known."
    drawing = figures.cycle(over_the_cycle(frames, row), curves, up="strain (%)", bands=bands)
    return Chart("strain", "Strain over the cycle", note, drawing, _key(curves))


def turn_chart(frames: Sequence[Row], row: Row) -> Chart | None:
    """Rotation and twist; None where they are not known."""
    curves = curves_of(frames, _TURNS)
    if not curves:
        return None
    note = "Counter-clockwise seen from the apex. No mask shows the wall turning: it rests on texture and on training."
    drawing = figures.cycle(over_the_cycle(frames, row), curves, up="angle (degrees)")
    return Chart("twist", "Rotation and twist", note, drawing, _key(curves))


def segment_charts(frames: Sequence[Row], segments: Sequence[Row], row: Row) -> list[Chart]:
    """Circumferential strain of each AHA segment, a chart a level; none where no segment is known."""
    known = {int(one["segment"]): one["ecc_curve_pct"] for one in segments if one.get("ecc_curve_pct")}
    if not known or not frames:
        return []
    whole = curves_of(frames, [("gcs_pct", "all segments", "all thin")])
    held = [value for curve in known.values() for value in curve]
    charts = []
    for level, numbers in _LEVELS:
        curves = [
            figures.Curve(f"{n} {SEGMENTS[n - 1].partition(' ')[2]}", f"thin s{_STYLES[n - 1]}", tuple(known[n]))
            for n in numbers
            if n in known
        ]
        drawing = figures.cycle(over_the_cycle(frames, row), [*whole, *curves], up="Ecc (%)", held=held)
        charts.append(Chart(f"strain-{level.lower()}", f"{level} segments", "", drawing, _key([*curves, *whole])))
    return charts


def _key(curves: Sequence[figures.Curve]) -> tuple[Entry, ...]:
    return tuple(Entry(curve.kind, curve.name) for curve in curves)
