"""The player on a subject's page: every frame of three slices, contours, displacement and uncertainty.

All images and lines are made here; the script on the page only selects which of them are visible.
"""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cmnet_cli.report.data import slice_geometry
from cmnet_cli.report.data.slice_views import SliceView, ViewGeometry
from cmnet_cli.report.plot import colours, svg

# Lines have coordinates in whole tenths of a voxel; arrows start at every third voxel in each direction.
_STEPS_PER_VOXEL = 10
_ARROW_SPACING = 3
# Length of the shortest arrow that is drawn, and of an arrow's head, in voxels.
_SHORTEST_ARROW, _HEAD = 0.6, 0.9

_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True, slots=True)
class ColourRange:
    """The values at the ends of an overlay's colour scale.

    Attributes:
        low: Value of the darkest colour.
        high: Value of the lightest colour.
        unit: Unit of both.
    """

    low: float
    high: float
    unit: str


@dataclass(frozen=True, slots=True)
class PlayerSlice:
    """One slice through the cycle.

    Attributes:
        name: basal, mid or apical.
        grey: PNG of all frames one below the other, in base64.
        displacement: The same of the distance from ED, in colour; empty where it is not stored.
        uncertainty: The same of the posterior's entropy; empty where it is not stored.
        propagated: Outlines of LV, myocardium and RV at each frame, warped from ED by the motion.
        segmented: Outlines by SegNet in each frame.
        arrows: Arrows in the wall from the position at ED to the position at each frame.
    """

    name: str
    grey: str
    displacement: str
    uncertainty: str
    propagated: tuple[tuple[str, str, str], ...]
    segmented: tuple[tuple[str, str, str], ...]
    arrows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Player:
    """The data of the player.

    Attributes:
        frames: Number of frames in the cycle.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        frame_ms: Time between two frames in ms; None where it is not known.
        width: Width of an image in voxels.
        height: Height of an image in voxels.
        steps_per_voxel: Resolution of the coordinates of lines.
        slices: The slices, from base to apex.
        displacement: Its colour scale; None where it is not stored.
        uncertainty: Its colour scale; None where it is not stored.
    """

    frames: int
    ed: int
    es: int
    frame_ms: float | None
    width: int
    height: int
    steps_per_voxel: int
    slices: tuple[PlayerSlice, ...]
    displacement: ColourRange | None
    uncertainty: ColourRange | None

    def to_json(self) -> dict[str, Any]:
        """Return the data as the script on the page reads them."""
        return asdict(self)


def draw_player(
    views: Sequence[SliceView], geometry: ViewGeometry, *, ed: int, es: int, frame_ms: float | None
) -> Player:
    """Draw every frame of the slices.

    Args:
        views: The slices; at least one.
        geometry: Slices, orientation and crop.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        frame_ms: Time between two frames in ms; None where it is not known.
    """
    displacement, uncertainty = _colour_ranges(views)
    frames, height, width = views[0].grey.shape
    slices = tuple(_player_slice(view, displacement, uncertainty, geometry.voxel_mm) for view in views)
    return Player(frames, ed, es, frame_ms, width, height, _STEPS_PER_VOXEL, slices, displacement, uncertainty)


def _colour_ranges(views: Sequence[SliceView]) -> tuple[ColourRange | None, ColourRange | None]:
    """Return the colour ranges of both overlays: the same in all slices and frames, so that colours are comparable."""
    lengths = [np.linalg.norm(view.to_ed_mm, axis=1)[view.wall] for view in views if view.to_ed_mm is not None]
    entropies = [view.entropy[view.heart] for view in views if view.entropy is not None]
    displacement = ColourRange(0.0, _rounded_up(np.concatenate(lengths)), "mm") if lengths else None
    return displacement, _entropy_range(np.concatenate(entropies)) if entropies else None


def _rounded_up(lengths: Float[np.ndarray, " n"]) -> float:
    return max(float(np.ceil(np.percentile(lengths, _PERCENTILES[1]))) if lengths.size else 0.0, 1.0)


def _entropy_range(values: Float[np.ndarray, " n"]) -> ColourRange | None:
    if not values.size:
        return None
    low, high = (round(float(end), 1) for end in np.percentile(values, _PERCENTILES))
    return ColourRange(low, max(high, low + 0.1), "nats")


def _player_slice(
    view: SliceView, displacement: ColourRange | None, uncertainty: ColourRange | None, voxel_mm: float
) -> PlayerSlice:
    to_ed, entropy = view.to_ed_mm, view.entropy
    return PlayerSlice(
        name=view.name,
        grey=_base64(svg.encode_png(_film_strip(view.grey))),
        displacement=_overlay(np.linalg.norm(to_ed, axis=1), view.wall, displacement) if to_ed is not None else "",
        uncertainty=_overlay(entropy, view.heart, uncertainty) if entropy is not None else "",
        propagated=tuple(_outlines(membership) for membership in view.propagated),
        segmented=tuple(_outlines(membership) for membership in view.segmented),
        arrows=tuple(_arrows(u[:2] / voxel_mm, wall) for u, wall in zip(to_ed, view.wall, strict=True))
        if to_ed is not None
        else (),
    )


def _film_strip(frames: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "th w"]:
    return frames.reshape(-1, frames.shape[2])


def _overlay(values: Float[np.ndarray, "t h w"], mask: Bool[np.ndarray, "t h w"], scale: ColourRange | None) -> str:
    """Encode values in the colours of the scale; voxels outside the mask are transparent."""
    if scale is None:
        return ""
    fraction = np.clip((values - scale.low) / (scale.high - scale.low), 0.0, 1.0)
    steps = np.where(mask, 1 + np.rint(254 * fraction), 0).astype(np.uint8)
    return _base64(svg.encode_png(_film_strip(steps), colours.palette()))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _outlines(membership: Float[np.ndarray, "c h w"]) -> tuple[str, str, str]:
    found = {outline.structure: outline for outline in slice_geometry.contours(membership)}
    lv, myo, rv = (_closed_path(found[label].lines) for label in slice_geometry.HEART)
    return lv, myo, rv


def _closed_path(lines: Sequence[Float[np.ndarray, "points 2"]]) -> str:
    """Return closed lines as an SVG path with relative whole-number steps; long lines keep every other point."""
    parts = []
    for line in lines:
        # Voxel centres are at whole numbers, the image's corner half a voxel before the first of them.
        every = 2 if len(line) > 2 * _STEPS_PER_VOXEL else 1
        points = np.rint((line[::every] + 0.5) * _STEPS_PER_VOXEL).astype(int)
        steps = np.diff(points, axis=0)
        parts.append(f"M{points[0, 0]} {points[0, 1]}l" + " ".join(f"{x} {y}" for x, y in steps) + "z")
    return "".join(parts)


def _arrows(to_ed: Float[np.ndarray, "2 h w"], wall: Bool[np.ndarray, "h w"]) -> str:
    """Return arrows for some voxels of the wall, from the position of their tissue at ED to its position now."""
    rows, columns = np.nonzero(wall[::_ARROW_SPACING, ::_ARROW_SPACING])
    rows, columns = rows * _ARROW_SPACING, columns * _ARROW_SPACING
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
    whole = np.rint(_STEPS_PER_VOXEL * points).astype(int).tolist()
    return "".join(f"M{x0} {y0}L{x1} {y1}M{x2} {y2}L{x1} {y1} {x3} {y3}" for x0, y0, x1, y1, x2, y2, x3, y3 in whole)
