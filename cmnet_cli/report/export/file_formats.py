"""File formats in which parts of the report can be exported."""

from enum import StrEnum


class FigureFormat(StrEnum):
    """File format of figures."""

    SVG = "svg"
    PNG = "png"


class AnimationFormat(StrEnum):
    """File format of the animated cine."""

    GIF = "gif"
    MP4 = "mp4"
