"""The sequential colour scale of every measured value: cividis, from dark blue to yellow.

Its lightness rises evenly, so that it reads the same in grey and with any colour-vision deficiency (Nuñez, Anderton
and Renslow, PLoS ONE 13(7), 2018: cividis).
"""

from functools import cache

import numpy as np
from jaxtyping import UInt8

# Every eighth of the scale.
_ANCHORS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#fee838")

# From this fraction of the scale on, dark text is more readable than light text.
_LIGHT_FROM = 0.56


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the scale in 256 steps."""
    anchors = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in _ANCHORS])
    at = np.linspace(0, len(_ANCHORS) - 1, 256)
    channels = [np.interp(at, np.arange(len(_ANCHORS)), channel) for channel in anchors.T]
    return np.asarray(np.rint(np.stack(channels, axis=1)), dtype=np.uint8)


def colour(fraction: float) -> str:
    """Return the colour at a fraction of the scale, from 0 to 1."""
    red, green, blue = palette()[round(255 * min(max(fraction, 0.0), 1.0))]
    return f"#{red:02x}{green:02x}{blue:02x}"


def is_light(fraction: float) -> bool:
    """Return whether text on the colour at a fraction of the scale should be dark."""
    return fraction >= _LIGHT_FROM


def gradient() -> str:
    """Return the scale from left to right, as a background in a style sheet."""
    return f"linear-gradient(to right, {', '.join(_ANCHORS)})"
