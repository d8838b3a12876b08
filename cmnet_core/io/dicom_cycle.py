"""Align the phases of all slices to a common cycle.

Each slice was acquired in a breath-hold of its own, at a heart rate of its own, so phases are matched by their fraction
of the cycle and not by time. A slice with the common number of phases is used as it is; missing phases are interpolated
in time, and phases beyond the end of the cycle are dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.io.dicom_image import ImageHeader
from cmnet_core.io.dicom_stack import Acquisition, timed

_FRAME_MS = (5.0, 500.0)
_END_OF_CYCLE = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class CineSlice:
    """A slice and the position of its phases on the common cycle.

    Attributes:
        images: The phases in use.
        cycle_fractions: Fraction of the cycle, from 0 to 1, at which each phase was acquired, or None if phase *n* is
            frame *n*.
        position_mm: Position along the stack in mm, as in :class:`Acquisition`.
    """

    images: tuple[ImageHeader, ...]
    cycle_fractions: NDArray[np.float64] | None
    position_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class CommonCycle:
    """The common cycle of all slices.

    Attributes:
        frames: Number of frames.
        frame_ms: Median over the slices of the time between two phases in ms, or None if no header states it.
        slices: The slices from base to apex.
        flags: Quality flags.
    """

    frames: int
    frame_ms: float | None
    slices: tuple[CineSlice, ...]
    flags: frozenset[QCFlag]


def align_phases(acquisitions: Sequence[Acquisition]) -> CommonCycle:
    """Find the cycle of most slices, and align the others to it.

    Raises:
        ImageError: A slice has another number of phases, and no trigger times identify them.
    """
    counts = [len(acquisition.images) for acquisition in acquisitions]
    frames = max(counts, key=lambda n: (counts.count(n), n))
    complete = [acquisition for acquisition in acquisitions if len(acquisition.images) == frames]
    frame_ms = _frame_ms(complete, frames)
    slices, flags = [], set()
    for acquisition in acquisitions:
        aligned, flag = _align_slice(acquisition, complete, frames=frames, frame_ms=frame_ms)
        slices.append(aligned)
        flags |= flag
    if _triggers_differ(complete, frame_ms):
        flags.add(QCFlag.TRIGGER_TIMES_DIFFER)
    return CommonCycle(frames, frame_ms, tuple(slices), frozenset(flags))


def interpolate_phases(pixels: Float[Tensor, "n y x"], place: CineSlice, *, frames: int) -> Float[Tensor, "t y x"]:
    """Interpolate the phases of a slice to the frames of the common cycle."""
    if place.cycle_fractions is None:
        return pixels
    cycle_fractions = place.cycle_fractions
    around = np.concatenate([[cycle_fractions[-1] - 1.0], cycle_fractions, [cycle_fractions[0] + 1.0]])
    wanted = np.arange(frames) / frames
    after = np.clip(np.searchsorted(around, wanted, side="right"), 1, len(cycle_fractions) + 1)
    gaps = np.maximum(around[after] - around[after - 1], 1e-9)
    weight = torch.from_numpy((wanted - around[after - 1]) / gaps).float().clamp(0.0, 1.0)
    later = pixels[(after - 1) % len(cycle_fractions)]
    earlier = pixels[(after - 2) % len(cycle_fractions)]
    return torch.lerp(earlier, later, weight[:, None, None])


def _align_slice(
    acquisition: Acquisition, complete: Sequence[Acquisition], *, frames: int, frame_ms: float | None
) -> tuple[CineSlice, set[QCFlag]]:
    place = CineSlice(acquisition.images, None, acquisition.position_mm)
    if len(acquisition.images) == frames:
        return place, set()
    triggers, step = _triggers(acquisition), _step_ms(acquisition)
    if triggers is None or step is None or frame_ms is None:
        raise ImageError(
            f"A slice has {len(acquisition.images)} phases, the others have {frames}, and there are no trigger times.",
            hint="Export the series again with all its phases, or leave that slice out.",
            code=ErrorCode.DICOM,
        )
    cycle_fractions = _cycle_fractions(triggers, step, complete, frame_ms=frame_ms)
    inside = cycle_fractions - cycle_fractions[0] < _END_OF_CYCLE
    images = tuple(image for image, kept in zip(acquisition.images, inside, strict=True) if kept)
    flags = set() if inside.all() else {QCFlag.PHASES_DROPPED}
    if len(images) == frames:
        return replace(place, images=images), flags
    return replace(place, images=images, cycle_fractions=cycle_fractions[inside]), flags | {QCFlag.PHASES_INTERPOLATED}


def _cycle_fractions(
    triggers: NDArray[np.float64], step: float, complete: Sequence[Acquisition], *, frame_ms: float
) -> NDArray[np.float64]:
    """Fraction of the cycle at which each phase of a slice with another number of phases was acquired.

    If the slice's own time step fills the common cycle only with the common number of phases, the slice lacks phases or
    extends into the next cycle; otherwise it was acquired with another number of phases.
    """
    frames = len(complete[0].images)
    counts = (frames, len(triggers))
    count = min(counts, key=lambda n: abs(n * step - frames * frame_ms))
    starts = [trigger / frame_ms for other in complete if (trigger := other.images[0].trigger_ms) is not None]
    cycle_fractions = (triggers / step - float(np.median(starts or [0.0]))) / count
    return np.asarray(cycle_fractions - np.floor(cycle_fractions[0] + 1e-3))


def _triggers(acquisition: Acquisition) -> NDArray[np.float64] | None:
    if not timed(acquisition.images):
        return None
    return np.array([image.trigger_ms for image in acquisition.images], dtype=np.float64)


def _step_ms(acquisition: Acquisition) -> float | None:
    triggers = _triggers(acquisition)
    step = None if triggers is None or len(triggers) < 2 else float(np.median(np.diff(triggers)))
    return step if step is not None and _FRAME_MS[0] <= step <= _FRAME_MS[1] else None


def _frame_ms(complete: Sequence[Acquisition], frames: int) -> float | None:
    """Time between two phases in ms; from the heart rate if there are no trigger times."""
    steps = [step for acquisition in complete if (step := _step_ms(acquisition)) is not None]
    if not steps:
        steps = [image.cycle_ms / frames for acquisition in complete for image in acquisition.images if image.cycle_ms]
    step = float(np.median(steps)) if steps else 0.0
    return step if _FRAME_MS[0] <= step <= _FRAME_MS[1] else None


def _triggers_differ(complete: Sequence[Acquisition], frame_ms: float | None) -> bool:
    """Whether trigger times of the same phase differ by more than half a time step."""
    triggers = np.array([times for acquisition in complete if (times := _triggers(acquisition)) is not None])
    return bool(len(triggers) and frame_ms and np.ptp(triggers, axis=0).max() > frame_ms / 2)
