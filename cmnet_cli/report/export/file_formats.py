"""File formats in which parts of the report can be exported."""

from enum import StrEnum


class FigureFormat(StrEnum):
    """How figures are saved."""

    SVG = "svg"
    PNG = "png"


class AnimationFormat(StrEnum):
    """How the animation of the cine is saved."""

    GIF = "gif"
    MP4 = "mp4"
