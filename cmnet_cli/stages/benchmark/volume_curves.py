"""The LV volume over the cycle by one method: the volume of the ED mask, propagated to each frame."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_cli.stages.evaluate import ReferenceMasks, propagate_labels
from cmnet_core.function.volumes import volumes_ml
from cmnet_core.imaging.preprocess import Window
from cmnet_core.registration.displacement import from_voxels

MOST_FRAMES = 8
"""Number of frames of a curve beside ED and ES, so that the slowest methods do not take hours for it."""

LEAST_FRAMES = 4
"""Number of frames below which a cine has no curve."""


@dataclass(frozen=True, slots=True)
class VolumeCurve:
    """The LV volume of one subject by one method.

    Attributes:
        method: Name of the method.
        frames: Frames in their order from ED on, which is the first and the last.
        lv_ml: LV volume at each, in mL.
        reference_ml: LV volume of the reference masks by frame.
        ed: End-diastolic frame.
        es: End-systolic frame.
    """

    method: str
    frames: tuple[int, ...]
    lv_ml: tuple[float, ...]
    reference_ml: Mapping[int, float]
    ed: int
    es: int


def curve_frames(frames: int, *, ed: int, es: int) -> list[int]:
    """Return the frames of a curve beside ED and ES, evenly over the cycle; none for a cine of few frames."""
    if frames < LEAST_FRAMES:
        return []
    others = [frame for frame in range(frames) if frame not in (ed, es)]
    step = max(1.0, len(others) / MOST_FRAMES)
    return [others[int(number * step)] for number in range(min(MOST_FRAMES, len(others)))]


def propagated_volumes(
    at_ed: UInt8[Tensor, "z y x"], into_ed: Mapping[int, Float[Tensor, "3 z y x"]], window: Window, *, ed: int
) -> dict[str, float]:
    """Return the LV volume of the ED mask in mL after its propagation to each frame, by the number of the frame.

    Args:
        at_ed: The reference mask at ED, on the subject's own grid.
        into_ed: By frame, the displacement that is fixed there and points into ED, in voxels of the window.
        window: The window.
        ed: End-diastolic frame.
    """
    maps = {ed: at_ed}
    for frame, displacement in into_ed.items():
        field = from_voxels(displacement, window.spacing, fixed=frame, moving=ed)
        maps[frame] = propagate_labels(at_ed, field, window)
    spacing = window.source_spacing
    return {str(frame): float(volumes_ml(maps[frame][None], spacing).lv_ml[0]) for frame in sorted(maps)}


def volume_curve(method: str, lv_ml: Mapping[int, float], reference: ReferenceMasks) -> VolumeCurve:
    """Return the curve of a method from ED to ED."""
    labels = reference.labels
    volumes = volumes_ml(labels.labels, labels.spacing).lv_ml.tolist()
    order = sorted(lv_ml, key=lambda frame: (frame < reference.ed, frame))
    known = dict(zip(labels.frames, volumes, strict=True))
    frames = (*order, reference.ed)
    return VolumeCurve(method, frames, tuple(lv_ml[frame] for frame in frames), known, reference.ed, reference.es)
