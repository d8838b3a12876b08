"""What the player on a subject's page shows: every frame of three slices, contours, displacement and uncertainty.

All of it is made here, in pictures and lines; the script on the page only chooses which of them to show.
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cmnet_cli.report.data.slice_views import Framing, Sight
from cmnet_cli.report.plot import colours, overlay, svg

# Lines are drawn in whole tenths of a voxel, and arrows this many voxels apart.
_FINE = 10
_ARROWS_EVERY = 3
_SHORTEST_ARROW, _HEAD = 0.6, 0.9

_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """What the ends of the colour scale stand for.

    Attributes:
        low: Value of the darkest colour.
        high: Value of the lightest colour.
        unit: Of both.
    """

    low: float
    high: float
    unit: str


@dataclass(frozen=True, slots=True)
class Level:
    """One slice through the cycle.

    Attributes:
        name: basal, mid or apical.
        grey: PNG of all frames below each other, in base64.
        displacement: The same of the distance from ED, in colour; empty where it is not known.
        uncertainty: The same of the posterior's entropy; empty where it is not known.
        carried: Outlines of LV, myocardium and RV at each frame, carried from ED by the motion.
        segmented: Those that SegNet drew in each frame.
        arrows: From where the tissue of the wall was at ED to where it is.
    """

    name: str
    grey: str
    displacement: str
    uncertainty: str
    carried: tuple[tuple[str, str, str], ...]
    segmented: tuple[tuple[str, str, str], ...]
    arrows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Player:
    """The beating heart.

    Attributes:
        frames: In the cycle.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        frame_ms: Time between two frames; None where nobody knows.
        width: Of a picture, in voxels.
        height: The same.
        fine: Parts of a voxel in which lines are drawn.
        levels: The slices, from base to apex.
        displacement: Its colour scale; None where it is not known.
        uncertainty: Its colour scale; None where it is not known.
    """

    frames: int
    ed: int
    es: int
    frame_ms: float | None
    width: int
    height: int
    fine: int
    levels: tuple[Level, ...]
    displacement: Scale | None
    uncertainty: Scale | None

    def to_json(self) -> dict[str, Any]:
        """As the script on the page reads it."""
        return asdict(self)


def draw_player(sights: Sequence[Sight], framing: Framing, *, ed: int, es: int, frame_ms: float | None) -> Player:
    """Draw every frame of the slices.

    Args:
        sights: The slices; at least one.
        framing: How they are looked at.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        frame_ms: Time between two frames.
    """
    displacement, uncertainty = _scales(sights)
    frames, height, width = sights[0].grey.shape
    levels = tuple(_level(sight, displacement, uncertainty, framing.voxel_mm) for sight in sights)
    return Player(frames, ed, es, frame_ms, width, height, _FINE, levels, displacement, uncertainty)


def _scales(sights: Sequence[Sight]) -> tuple[Scale | None, Scale | None]:
    """Ends of the colour scales: the same in all slices and frames, so that colours may be compared."""
    moved = [np.linalg.norm(s.to_ed_mm, axis=1)[s.wall] for s in sights if s.to_ed_mm is not None]
    unsure = [s.entropy[s.heart] for s in sights if s.entropy is not None]
    displacement = Scale(0.0, _rounded_up(np.concatenate(moved)), "mm") if moved else None
    return displacement, _spanned(np.concatenate(unsure)) if unsure else None


def _rounded_up(lengths: Float[np.ndarray, " n"]) -> float:
    return max(float(np.ceil(np.percentile(lengths, _PERCENTILES[1]))) if lengths.size else 0.0, 1.0)


def _spanned(values: Float[np.ndarray, " n"]) -> Scale | None:
    if not values.size:
        return None
    low, high = (round(float(end), 1) for end in np.percentile(values, _PERCENTILES))
    return Scale(low, max(high, low + 0.1), "nats")


def _level(sight: Sight, displacement: Scale | None, uncertainty: Scale | None, voxel_mm: float) -> Level:
    moved, unsure = sight.to_ed_mm, sight.entropy
    return Level(
        name=sight.name,
        grey=_base64(svg.png(_strip(sight.grey))),
        displacement=_painted(np.linalg.norm(moved, axis=1), sight.wall, displacement) if moved is not None else "",
        uncertainty=_painted(unsure, sight.heart, uncertainty) if unsure is not None else "",
        carried=tuple(_outlines(belongs) for belongs in sight.carried),
        segmented=tuple(_outlines(belongs) for belongs in sight.segmented),
        arrows=tuple(_arrows(m[:2] / voxel_mm, w) for m, w in zip(moved, sight.wall, strict=True))
        if moved is not None
        else (),
    )


def _strip(frames: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "th w"]:
    return frames.reshape(-1, frames.shape[2])


def _painted(values: Float[np.ndarray, "t h w"], inside: Bool[np.ndarray, "t h w"], scale: Scale | None) -> str:
    """Values in the colours of the scale; what lies outside is transparent."""
    if scale is None:
        return ""
    share = np.clip((values - scale.low) / (scale.high - scale.low), 0.0, 1.0)
    steps = np.where(inside, 1 + np.rint(254 * share), 0).astype(np.uint8)
    return _base64(svg.indexed_png(_strip(steps), colours.palette()))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _outlines(belongs: Float[np.ndarray, "c h w"]) -> tuple[str, str, str]:
    found = {outline.structure: outline for outline in overlay.contours(belongs)}
    lv, myo, rv = (_closed(found[label].lines) for label in overlay.HEART)
    return lv, myo, rv


def _closed(lines: Sequence[Float[np.ndarray, "points 2"]]) -> str:
    """Closed lines as a path, in whole steps from point to point; every other point is enough for the eye."""
    drawn = []
    for line in lines:
        # Voxel centres lie at whole numbers, the picture's corner half a voxel before the first of them.
        points = np.rint((line[:: 2 if len(line) > 2 * _FINE else 1] + 0.5) * _FINE).astype(int)
        steps = np.diff(points, axis=0)
        drawn.append(f"M{points[0, 0]} {points[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps) + "z")
    return "".join(drawn)


def _arrows(to_ed: Float[np.ndarray, "2 h w"], wall: Bool[np.ndarray, "h w"]) -> str:
    """An arrow for some voxels of the wall: from where their tissue was at ED to where it is."""
    rows, columns = np.nonzero(wall[::_ARROWS_EVERY, ::_ARROWS_EVERY])
    rows, columns = rows * _ARROWS_EVERY, columns * _ARROWS_EVERY
    back = to_ed[:, rows, columns][::-1].T
    heads = np.stack([columns, rows], axis=1) + 0.5
    lengths = np.linalg.norm(back, axis=1, keepdims=True)
    kept = lengths[:, 0] > _SHORTEST_ARROW
    heads, back, lengths = heads[kept], back[kept], lengths[kept]
    along, size = back / lengths, np.minimum(_HEAD, 0.5 * lengths)
    aside = 0.6 * np.stack([-along[:, 1], along[:, 0]], axis=1)
    points = np.concatenate(
        [heads + back, heads, heads + size * (along + aside), heads + size * (along - aside)], axis=1
    )
    drawn = np.rint(_FINE * points).astype(int).tolist()
    return "".join(f"M{x0} {y0}L{x1} {y1}M{x2} {y2}L{x1} {y1} {x3} {y3}" for x0, y0, x1, y1, x2, y2, x3, y3 in drawn)
