"""The few marks that the report's plots are made of. Colours and fonts come from the page's style sheet.

Everything here returns :class:`markupsafe.Markup` and escapes the text that it is given.
"""

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup

Point = tuple[float, float]

# Values closer than this are drawn as one.
_EQUAL = 1e-6

# What a PNG file's numbers are: shades, or steps of a palette.
_GREY, _INDEXED = 0, 3


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a plot.

    Attributes:
        label: Quantity and unit.
        low: Value at the left or lower end.
        high: Value at the right or upper end.
        ticks: Values that are written beside the axis.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plotting area of fixed size; maps values to positions.

    Attributes:
        across: The horizontal axis.
        up: The vertical axis.
        width: Of the whole picture.
        height: Of the whole picture.
        left: Room for the vertical axis' numbers.
    """

    across: Axis
    up: Axis
    width: int = 440
    height: int = 260
    left: int = 48
    right: int = 14
    top: int = 26
    bottom: int = 44

    def x(self, value: float) -> float:
        """The position of a value on the horizontal axis."""
        share = (value - self.across.low) / (self.across.high - self.across.low)
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """The position of a value on the vertical axis."""
        share = (value - self.up.low) / (self.up.high - self.up.low)
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)


def axis(label: str, values: Sequence[float], *, from_zero: bool = False, whole: bool = False, ticks: int = 5) -> Axis:
    """An axis that holds all values and ends at round numbers.

    Args:
        label: Quantity and unit.
        values: What is going to be drawn; at least one.
        from_zero: Whether 0 is on the axis, whatever the values.
        whole: Whether only whole numbers make sense, as for counts.
        ticks: About how many numbers are written beside it.

    Example:
        >>> axis("LV volume (mL)", [61.0, 148.0], from_zero=True).ticks
        (0.0, 50.0, 100.0, 150.0)
    """
    held = [*values, 0.0] if from_zero else values
    low, high = min(held), max(held)
    if high - low < _EQUAL * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if from_zero else (low - 1.0, low + 1.0)
    step = max(_round_step((high - low) / ticks), 1.0 if whole else 0.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, tuple(round(n * step, 9) for n in range(first, last + 1)))


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if size * factor >= step - 1e-12)


def number(value: float) -> str:
    r"""A number as it stands beside an axis.

    Example:
        >>> number(-2.5) == "\N{MINUS SIGN}2.5", number(40.0)
        (True, '40')
    """
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def picture(width: float, height: float, marks: Iterable[Markup], *, text: str) -> Markup:
    """A whole picture.

    Args:
        width: In its own units; the page decides how large it is shown.
        height: In its own units.
        marks: What is drawn, from back to front.
        text: What a reader who cannot see it is told.
    """
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">{}</svg>').format(
        text, width, height, join(marks)
    )


def join(marks: Iterable[Markup]) -> Markup:
    """Marks one after the other."""
    return Markup("").join(marks)


def frame(plot: Plot) -> Markup:
    """Grid lines, numbers and names of both axes."""
    left, right = plot.left, plot.width - plot.right
    base = plot.height - plot.bottom
    marks = [line((left, plot.y(tick)), (right, plot.y(tick)), kind="grid") for tick in plot.up.ticks]
    marks += [words(number(tick), (left - 8, plot.y(tick) + 4), kind="tick end") for tick in plot.up.ticks]
    marks += [words(number(tick), (plot.x(tick), base + 17), kind="tick middle") for tick in plot.across.ticks]
    marks += [
        line((left, base), (right, base), kind="axis"),
        words(plot.across.label, ((left + right) / 2, plot.height - 6), kind="name middle"),
        words(plot.up.label, (0, 13), kind="name"),
    ]
    return join(marks)


def line(start: Point, end: Point, *, kind: str) -> Markup:
    """A straight line; ``kind`` is its class in the style sheet."""
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(kind, *start, *end)


def words(text: str, at: Point, *, kind: str) -> Markup:
    """A text; ``kind`` is its class in the style sheet."""
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(kind, *at, text)


def path(lines: Iterable[Sequence[Point]], *, kind: str, closed: bool = False, text: str = "") -> Markup:
    """Lines through points; ``kind`` is their class in the style sheet, ``text`` is shown under the pointer."""
    end = "Z" if closed else ""
    drawn = "".join("M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in points) + end for points in lines)
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<path class="{}" d="{}">{}</path>').format(kind, drawn, title)


def dot(at: Point, *, kind: str, radius: float = 3.0, text: str = "") -> Markup:
    """A point; ``text`` is shown when the pointer rests on it."""
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<circle class="{}" cx="{:g}" cy="{:g}" r="{:g}">{}</circle>').format(kind, *at, radius, title)


def bar(corner: Point, width: float, height: float, *, kind: str, text: str = "") -> Markup:
    """A filled rectangle from its upper left corner."""
    title = Markup("<title>{}</title>").format(text) if text else Markup("")
    return Markup('<rect class="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}">{}</rect>').format(
        kind, *corner, width, height, title
    )


def image(grey: UInt8[np.ndarray, "height width"]) -> Markup:
    """A grey picture, one voxel a unit."""
    height, width = grey.shape
    data = base64.b64encode(png(grey)).decode("ascii")
    return Markup('<image width="{}" height="{}" href="data:image/png;base64,{}"/>').format(width, height, data)


def png(grey: UInt8[np.ndarray, "height width"]) -> bytes:
    """An 8-bit grey PNG file (ISO/IEC 15948): signature, header, one compressed block of rows, end.

    Args:
        grey: 0 is black, 255 is white.
    """
    # Each row is preceded by its filter: 2 stores the difference to the row above, which compresses best here.
    above = np.vstack([np.zeros_like(grey[:1]), grey[:-1]])
    return _png(np.hstack([np.full((len(grey), 1), 2, np.uint8), grey - above]), _GREY)


def indexed_png(steps: UInt8[np.ndarray, "height width"], palette: UInt8[np.ndarray, "256 3"]) -> bytes:
    """A PNG file in the colours of a palette.

    Args:
        steps: Of the palette; 0 is transparent.
        palette: Red, green and blue of each step.
    """
    rows = np.hstack([np.zeros((len(steps), 1), np.uint8), steps])
    return _png(rows, _INDEXED, (b"PLTE", palette.tobytes()), (b"tRNS", b"\0"))


def _png(rows: UInt8[np.ndarray, "height filter_and_width"], kind: int, *colours: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", rows.shape[1] - 1, len(rows), 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), *colours, (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
