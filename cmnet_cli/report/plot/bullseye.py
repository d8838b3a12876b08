"""AHA bull's-eye plots: one value for each of the 16 segments of the left ventricle, seen from its apex."""

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
# Mark of a value beyond the colour scale.
_BEYOND = "!"
# First segment, number of segments, and inner and outer radius of the rings at base, mid level and apex.
_RINGS = ((1, 6, 92.0, 128.0), (7, 6, 52.0, 92.0), (13, 4, 12.0, 52.0))


@dataclass(frozen=True, slots=True)
class ColourScale:
    """The values at the ends of the colour scale; values beyond have the colour of the end.

    Attributes:
        dark: Value of the darkest colour.
        light: Value of the lightest colour; it may be the smaller one.
        decimals: Number of decimals with which values are written.
    """

    dark: float
    light: float
    decimals: int = 0

    def fraction(self, value: float) -> float:
        """Return the position of a value on the scale: 0 at the dark end, 1 at the light end."""
        return (value - self.dark) / (self.light - self.dark)

    def format(self, value: float) -> str:
        """Format a value."""
        return f"{value:z.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True, slots=True)
class Wedge:
    """The area of a segment in the plot.

    Attributes:
        number: 1 to 16.
        inner: Radius towards the apex.
        outer: Radius towards the base.
        middle: Direction of its middle in degrees, 0 to the right, counter-clockwise.
        half_angle: Half its angular width in degrees.
    """

    number: int
    inner: float
    outer: float
    middle: float
    half_angle: float

    def outline(self) -> str:
        """Return the outline as an SVG path."""
        start, end = self.middle - self.half_angle, self.middle + self.half_angle
        (a, b), (c, d) = _position(self.outer, start), _position(self.outer, end)
        (e, f), (g, h) = _position(self.inner, end), _position(self.inner, start)
        return (
            f"M{a:.1f} {b:.1f}A{self.outer:g} {self.outer:g} 0 0 0 {c:.1f} {d:.1f}"
            f"L{e:.1f} {f:.1f}A{self.inner:g} {self.inner:g} 0 0 1 {g:.1f} {h:.1f}Z"
        )

    def centre(self) -> svg.Point:
        """Return the position of its value."""
        return _position((self.inner + self.outer) / 2, self.middle)


def _position(radius: float, degrees: float) -> svg.Point:
    angle = math.radians(degrees)
    return _SIZE / 2 + radius * math.cos(angle), _SIZE / 2 - radius * math.sin(angle)


def wedges() -> list[Wedge]:
    """Return the areas of all segments: the anterior ones on top, the septum on the left."""
    return [
        Wedge(first + n, inner, outer, 90.0 + 360.0 / count * n, 180.0 / count)
        for first, count, inner, outer in _RINGS
        for n in range(count)
    ]


def bullseye(
    title: str, unit: str, values: Mapping[int, float | None], scale: ColourScale, *, starred: Collection[int] = ()
) -> Markup:
    """Draw a bull's-eye plot.

    Args:
        title: The quantity.
        unit: Unit of the values.
        values: By segment, from 1; a segment without a value is left empty.
        scale: The colour scale.
        starred: Segments whose value is marked with a star.
    """
    stars = dict.fromkeys(starred, "*")
    marks = [_segment(wedge, values.get(wedge.number), scale, unit, stars.get(wedge.number, "")) for wedge in wedges()]
    marks.append(_colour_bar(scale, unit))
    known = [
        f"{SEGMENTS[n - 1]} {scale.format(value)}{stars.get(n, '')}"
        for n, value in sorted(values.items())
        if value is not None
    ]
    text = f"{title} in {unit}, by AHA segment: {', '.join(known)}"
    return svg.picture(_SIZE, _SIZE + _FOOT, marks, text=text)


def _segment(wedge: Wedge, value: float | None, scale: ColourScale, unit: str, star: str) -> Markup:
    name = f"{wedge.number} {SEGMENTS[wedge.number - 1]}"
    if value is None:
        empty = Markup('<path class="segment empty" d="{}"><title>{}: no value</title></path>')
        return empty.format(wedge.outline(), name)
    fraction = scale.fraction(value)
    beyond = "" if 0.0 <= fraction <= 1.0 else " beyond"
    filled = Markup('<path class="segment{}" fill="{}" d="{}"><title>{}: {} {}</title></path>')
    x, y = wedge.centre()
    kind = f"on-{'light' if colours.is_light(fraction) else 'dark'} middle"
    return svg.join(
        [
            filled.format(beyond, colours.colour(fraction), wedge.outline(), name, scale.format(value), unit),
            svg.text(f"{scale.format(value)}{star}{_BEYOND if beyond else ''}", (x, y + 4.5), kind=kind),
        ]
    )


def _colour_bar(scale: ColourScale, unit: str) -> Markup:
    left, width, top, steps = 50.0, 160.0, _SIZE + 10.0, 32
    step = width / steps
    boxes = Markup('<rect fill="{}" x="{:g}" y="{:g}" width="{:g}" height="9"/>')
    bars = [boxes.format(colours.colour(n / (steps - 1)), left + n * step, top, step + 0.3) for n in range(steps)]
    labels = (
        svg.text(scale.format(scale.dark), (left, top + 24), kind="tick middle"),
        svg.text(scale.format(scale.light), (left + width, top + 24), kind="tick middle"),
        svg.text(unit, (left + width / 2, top + 24), kind="tick middle"),
    )
    return svg.join([*bars, *labels])
