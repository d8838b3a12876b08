"""The curves of a subject's page: volumes, strain and twist over the cardiac cycle."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from markupsafe import Markup

from cmnet_cli.columns.column import LOWER, UPPER
from cmnet_cli.report import figures
from cmnet_cli.report.gather import Row

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
    if bands:
        note += " Bands: the 95 % intervals of the volumes at ED and at ES."
    drawing = figures.cycle(over_the_cycle(frames, row), curves, up="volume (mL)", bands=bands)
    key = (Entry("lv", "left ventricle"), Entry("rv", "right ventricle"))
    return Chart("volumes", "Volumes over the cycle", note, drawing, key)


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
