"""Axes and SVG elements of the report's plots. Colours and fonts come from the page's style sheet.

Every function that draws returns :class:`markupsafe.Markup` and escapes its text; ``kind`` is the element's class in
the style sheet.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

Point = tuple[float, float]

# Values whose relative difference is smaller than this are taken as equal.
_EQUAL = 1e-6


@dataclass(frozen=True, slots=True)
class CaptionedFigure:
    """A figure and its caption."""

    drawing: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of a legend: its class in the style sheet, and its name."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a plot.

    Attributes:
        label: Quantity and unit.
        low: Value at the left or lower end.
        high: Value at the right or upper end.
        ticks: Values that are labelled.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plotting area of fixed size, which maps values to positions.

    Attributes:
        x_axis: The horizontal axis.
        y_axis: The vertical axis.
        width: Width of the whole picture.
        height: Height of the whole picture.
        left: Left margin, for the tick labels of the vertical axis.
        right: Right margin.
        top: Top margin.
        bottom: Bottom margin.
    """

    x_axis: Axis
    y_axis: Axis
    width: int = 440
    height: int = 260
    left: int = 48
    right: int = 14
    top: int = 26
    bottom: int = 44

    def x(self, value: float) -> float:
        """Return the position of a value on the horizontal axis."""
        fraction = (value - self.x_axis.low) / (self.x_axis.high - self.x_axis.low)
        return round(self.left + fraction * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """Return the position of a value on the vertical axis."""
        fraction = (value - self.y_axis.low) / (self.y_axis.high - self.y_axis.low)
        return round(self.height - self.bottom - fraction * (self.height - self.top - self.bottom), 1)


def axis(label: str, values: Sequence[float], *, from_zero: bool = False, whole: bool = False, ticks: int = 5) -> Axis:
    """Return an axis that spans all values and ends at round numbers.

    Args:
        label: Quantity and unit.
        values: The values that are drawn; at least one.
        from_zero: Whether the axis always includes 0.
        whole: Whether ticks are whole numbers, as for counts.
        ticks: Approximate number of ticks.

    Example:
        >>> axis("LV volume (mL)", [61.0, 148.0], from_zero=True).ticks
        (0.0, 50.0, 100.0, 150.0)
    """
    spanned = [*values, 0.0] if from_zero else values
    low, high = min(spanned), max(spanned)
    if high - low < _EQUAL * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if from_zero else (low - 1.0, low + 1.0)
    step = max(_round_step((high - low) / ticks), 1.0 if whole else 0.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, tuple(round(n * step, 9) for n in range(first, last + 1)))


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if size * factor >= step - 1e-12)


def format_tick(value: float) -> str:
    r"""Format a number as a tick label.

    Example:
        >>> format_tick(-2.5) == "\N{MINUS SIGN}2.5", format_tick(40.0)
        (True, '40')
    """
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def picture(width: float, height: float, marks: Iterable[Markup], *, text: str) -> Markup:
    """Return a whole picture.

    Args:
        width: Width in its own units; the page decides the size of the picture.
        height: Height in its own units.
        marks: Elements of the picture, from back to front.
        text: Text alternative of the picture for screen readers.
    """
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">{}</svg>').format(
        text, width, height, join(marks)
    )


def join(marks: Iterable[Markup]) -> Markup:
    """Concatenate elements."""
    return Markup("").join(marks)


def frame(plot: Plot) -> Markup:
    """Draw grid lines, tick labels and names of both axes."""
    left, right = plot.left, plot.width - plot.right
    base = plot.height - plot.bottom
    marks = [line((left, plot.y(tick)), (right, plot.y(tick)), kind="grid") for tick in plot.y_axis.ticks]
    marks += [text(format_tick(tick), (left - 8, plot.y(tick) + 4), kind="tick end") for tick in plot.y_axis.ticks]
    marks += [text(format_tick(tick), (plot.x(tick), base + 17), kind="tick middle") for tick in plot.x_axis.ticks]
    marks += [
        line((left, base), (right, base), kind="axis"),
        text(plot.x_axis.label, ((left + right) / 2, plot.height - 6), kind="name middle"),
        text(plot.y_axis.label, (0, 13), kind="name"),
    ]
    return join(marks)


def line(start: Point, end: Point, *, kind: str) -> Markup:
    """Draw a straight line."""
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(kind, *start, *end)


def text(content: str, at: Point, *, kind: str) -> Markup:
    """Draw a text."""
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(kind, *at, content)


def path(lines: Iterable[Sequence[Point]], *, kind: str, closed: bool = False, text: str = "") -> Markup:
    """Draw lines through points; ``text`` is a tooltip."""
    end = "Z" if closed else ""
    drawn = "".join("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in points) + end for points in lines)
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<path class="{}" d="{}">{}</path>').format(kind, drawn, title)


def dot(at: Point, *, kind: str, radius: float = 3.0, text: str = "") -> Markup:
    """Draw a filled circle; ``text`` is a tooltip."""
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<circle class="{}" cx="{:g}" cy="{:g}" r="{:g}">{}</circle>').format(kind, *at, radius, title)


def bar(corner: Point, width: float, height: float, *, kind: str, text: str = "") -> Markup:
    """Draw a filled rectangle from its upper left corner; ``text`` is a tooltip."""
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<rect class="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}">{}</rect>').format(
        kind, *corner, width, height, title
    )


def image(grey: UInt8[np.ndarray, "height width"]) -> Markup:
    """Embed a grey image of one unit per voxel."""
    height, width = grey.shape
    data = base64.b64encode(encode_png(grey)).decode("ascii")
    return Markup('<image width="{}" height="{}" href="data:image/png;base64,{}"/>').format(width, height, data)


def encode_png(pixels: UInt8[np.ndarray, "height width"], palette: UInt8[np.ndarray, "256 3"] | None = None) -> bytes:
    """Encode an 8-bit image as a PNG file.

    Args:
        pixels: Grey levels from 0 (black) to 255 (white), or indices into the palette.
        palette: Red, green and blue of each index; index 0 is then transparent. None for a grey image.
    """
    image, encoded = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if palette is None:
        image.save(encoded, format="PNG")
    else:
        # Pixels stay as they are: attaching a palette turns grey levels into its indices.
        image.putpalette(palette.tobytes())
        image.save(encoded, format="PNG", transparency=0)
    return encoded.getvalue()
