"""AHA bull's-eyes: one value for each of the 16 segments of the left ventricle, seen from its apex."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.plot import colours, svg

SEGMENTS = (
    "basal anterior", "basal anteroseptal", "basal inferoseptal", "basal inferior", "basal inferolateral",
    "basal anterolateral", "mid anterior", "mid anteroseptal", "mid inferoseptal", "mid inferior", "mid inferolateral",
    "mid anterolateral", "apical anterior", "apical septal", "apical inferior", "apical lateral",
)  # fmt: skip
"""Names of the segments 1 to 16 (Cerqueira et al., Circulation 105, 2002)."""

_SIZE, _FOOT = 260, 44
# Radii of the circles between apex, mid and base.
_RINGS = ((1, 6, 92.0, 128.0), (7, 6, 52.0, 92.0), (13, 4, 12.0, 52.0))


@dataclass(frozen=True, slots=True)
class Scale:
    """The values at the ends of the colour scale; those beyond have the colour of the end.

    Attributes:
        dark: Value of the darkest colour.
        light: Value of the lightest colour; it may be the smaller one.
        decimals: With which values are written.
    """

    dark: float
    light: float
    decimals: int = 0

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1 and beyond."""
        return (value - self.dark) / (self.light - self.dark)

    def written(self, value: float) -> str:
        """A value in words."""
        return f"{value:.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class Wedge:
    """Where a segment lies in the picture.

    Attributes:
        number: 1 to 16.
        inner: Radius towards the apex.
        outer: Radius towards the base.
        middle: Direction of its middle, in degrees, 0 to the right and counted against the clock.
        reach: Degrees to either side.
    """

    number: int
    inner: float
    outer: float
    middle: float
    reach: float

    def outline(self) -> str:
        """As a path."""
        start, end = self.middle - self.reach, self.middle + self.reach
        (a, b), (c, d) = _at(self.outer, start), _at(self.outer, end)
        (e, f), (g, h) = _at(self.inner, end), _at(self.inner, start)
        return (
            f"M{a:.1f} {b:.1f}A{self.outer:g} {self.outer:g} 0 0 0 {c:.1f} {d:.1f}"
            f"L{e:.1f} {f:.1f}A{self.inner:g} {self.inner:g} 0 0 1 {g:.1f} {h:.1f}Z"
        )

    def centre(self) -> svg.Point:
        """Where its number is written."""
        return _at((self.inner + self.outer) / 2, self.middle)


def _at(radius: float, degrees: float) -> svg.Point:
    angle = math.radians(degrees)
    return _SIZE / 2 + radius * math.cos(angle), _SIZE / 2 - radius * math.sin(angle)


def wedges() -> list[Wedge]:
    """All segments: the anterior ones on top, the septum on the left."""
    return [
        Wedge(first + place, inner, outer, 90.0 + 360.0 / count * place, 180.0 / count)
        for first, count, inner, outer in _RINGS
        for place in range(count)
    ]


def bullseye(
    title: str, unit: str, values: Mapping[int, float | None], scale: Scale, *, starred: Collection[int] = ()
) -> Markup:
    """Draw a bull's-eye.

    Args:
        title: The quantity.
        unit: Of the values.
        values: By segment, from 1; a segment without a value is left empty.
        scale: Of the colours.
        starred: Segments whose value gets a star.
    """
    stars = dict.fromkeys(starred, "*")
    marks = [
        _segment(wedge, values.get(wedge.number), scale, (unit, stars.get(wedge.number, ""))) for wedge in wedges()
    ]
    marks.append(_key(scale, unit))
    known = [
        f"{SEGMENTS[n - 1]} {scale.written(value)}{stars.get(n, '')}"
        for n, value in sorted(values.items())
        if value is not None
    ]
    text = f"{title} in {unit}, by AHA segment: {', '.join(known)}"
    return svg.picture(_SIZE, _SIZE + _FOOT, marks, text=text)


def _segment(wedge: Wedge, value: float | None, scale: Scale, words: tuple[str, str]) -> Markup:
    unit, star = words
    name = f"{wedge.number} {SEGMENTS[wedge.number - 1]}"
    if value is None:
        empty = Markup('<path class="segment empty" d="{}"><title>{}: not known</title></path>')
        return empty.format(wedge.outline(), name)
    share = scale.share(value)
    filled = Markup('<path class="segment" fill="{}" d="{}"><title>{}: {} {}</title></path>')
    x, y = wedge.centre()
    kind = f"on-{'light' if colours.is_light(share) else 'dark'} middle"
    return svg.join(
        [
            filled.format(colours.colour(share), wedge.outline(), name, scale.written(value), unit),
            svg.words(f"{scale.written(value)}{star}", (x, y + 4.5), kind=kind),
        ]
    )


def _key(scale: Scale, unit: str) -> Markup:
    left, width, top, steps = 50.0, 160.0, _SIZE + 10.0, 32
    step = width / steps
    boxes = Markup('<rect fill="{}" x="{:g}" y="{:g}" width="{:g}" height="9"/>')
    bars = [boxes.format(colours.colour(n / (steps - 1)), left + n * step, top, step + 0.3) for n in range(steps)]
    ends = (
        svg.words(scale.written(scale.dark), (left, top + 24), kind="tick middle"),
        svg.words(scale.written(scale.light), (left + width, top + 24), kind="tick middle"),
        svg.words(unit, (left + width / 2, top + 24), kind="tick middle"),
    )
    return svg.join([*bars, *ends])
