"""The phases of all slices on one cycle: each slice was recorded in its own breath-hold, at its own heart rate.

Phases are matched by their share of the cycle, never by milliseconds. A slice with the usual number of phases is taken
as it is; missing phases are interpolated in time, and phases beyond the end of the cycle are dropped.
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
from cmnet_core.io.dicom_stack import Recording, timed

_FRAME_MS = (5.0, 500.0)
_END_OF_CYCLE = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A slice and how its phases lie on the common cycle.

    Attributes:
        images: The phases that are used.
        shares: When in the cycle each was taken, from 0 to 1, or None where phase *n* is frame *n*.
        place_mm: As in :class:`Recording`.
    """

    images: tuple[ImageHeader, ...]
    shares: NDArray[np.float64] | None
    place_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """The cycle that all slices are brought onto.

    Attributes:
        frames: Number of frames.
        frame_ms: Median over the slices of the time between two phases, or None where no header tells.
        slices: From base to apex.
        flags: Quality flags.
    """

    frames: int
    frame_ms: float | None
    slices: tuple[Slice, ...]
    flags: frozenset[QCFlag]


def onto_one_cycle(recordings: Sequence[Recording]) -> Cycle:
    """Find the cycle that most slices have, and bring the others onto it.

    Raises:
        ImageError: A slice has another number of phases, and no trigger times tell which.
    """
    counts = [len(recording.images) for recording in recordings]
    frames = max(counts, key=lambda n: (counts.count(n), n))
    complete = [recording for recording in recordings if len(recording.images) == frames]
    frame_ms = _frame_ms(complete, frames)
    slices, flags = [], set()
    for recording in recordings:
        brought, flag = _bring(recording, complete, frames=frames, frame_ms=frame_ms)
        slices.append(brought)
        flags |= flag
    if _out_of_step(complete, frame_ms):
        flags.add(QCFlag.TRIGGER_TIMES_DIFFER)
    return Cycle(frames, frame_ms, tuple(slices), frozenset(flags))


def on_cycle(pixels: Float[Tensor, "n y x"], place: Slice, *, frames: int) -> Float[Tensor, "t y x"]:
    """Interpolate the phases of a slice where they are not the frames of the cycle."""
    if place.shares is None:
        return pixels
    shares = place.shares
    around = np.concatenate([[shares[-1] - 1.0], shares, [shares[0] + 1.0]])
    wanted = np.arange(frames) / frames
    after = np.clip(np.searchsorted(around, wanted, side="right"), 1, len(shares) + 1)
    gaps = np.maximum(around[after] - around[after - 1], 1e-9)
    weight = torch.from_numpy((wanted - around[after - 1]) / gaps).float().clamp(0.0, 1.0)
    later = pixels[(after - 1) % len(shares)]
    earlier = pixels[(after - 2) % len(shares)]
    return torch.lerp(earlier, later, weight[:, None, None])


def _bring(
    recording: Recording, complete: Sequence[Recording], *, frames: int, frame_ms: float | None
) -> tuple[Slice, set[QCFlag]]:
    place = Slice(recording.images, None, recording.place_mm)
    if len(recording.images) == frames:
        return place, set()
    triggers, step = _triggers(recording), _step_ms(recording)
    if triggers is None or step is None or frame_ms is None:
        raise ImageError(
            f"A slice has {len(recording.images)} phases, the others have {frames}, and no trigger times tell which.",
            hint="Export the series again with all its phases, or leave that slice out.",
            code=ErrorCode.DICOM,
        )
    shares = _shares_of_cycle(triggers, step, complete, frame_ms=frame_ms)
    inside = shares - shares[0] < _END_OF_CYCLE
    images = tuple(image for image, kept in zip(recording.images, inside, strict=True) if kept)
    flags = set() if inside.all() else {QCFlag.PHASES_DROPPED}
    if len(images) == frames:
        return replace(place, images=images), flags
    return replace(place, images=images, shares=shares[inside]), flags | {QCFlag.PHASES_INTERPOLATED}


def _shares_of_cycle(
    triggers: NDArray[np.float64], step: float, complete: Sequence[Recording], *, frame_ms: float
) -> NDArray[np.float64]:
    """When in the cycle, from 0 on, each phase of an incomplete or overfull slice was taken.

    A slice whose own steps would fill the usual cycle only with the usual number of phases lacks some of them, or runs
    on into the next beat; else it was recorded with another number of phases.
    """
    frames = len(complete[0].images)
    counts = (frames, len(triggers))
    count = min(counts, key=lambda n: abs(n * step - frames * frame_ms))
    starts = [trigger / frame_ms for r in complete if (trigger := r.images[0].trigger_ms) is not None]
    shares = (triggers / step - float(np.median(starts or [0.0]))) / count
    return np.asarray(shares - np.floor(shares[0] + 1e-3))


def _triggers(recording: Recording) -> NDArray[np.float64] | None:
    if not timed(recording.images):
        return None
    return np.array([image.trigger_ms for image in recording.images], dtype=np.float64)


def _step_ms(recording: Recording) -> float | None:
    triggers = _triggers(recording)
    step = None if triggers is None or len(triggers) < 2 else float(np.median(np.diff(triggers)))
    return step if step is not None and _FRAME_MS[0] <= step <= _FRAME_MS[1] else None


def _frame_ms(complete: Sequence[Recording], frames: int) -> float | None:
    """Time between two phases; from the heart rate where trigger times are missing."""
    steps = [step for recording in complete if (step := _step_ms(recording)) is not None]
    if not steps:
        steps = [image.cycle_ms / frames for r in complete for image in r.images if image.cycle_ms]
    step = float(np.median(steps)) if steps else 0.0
    return step if _FRAME_MS[0] <= step <= _FRAME_MS[1] else None


def _out_of_step(complete: Sequence[Recording], frame_ms: float | None) -> bool:
    """Whether the same phase was taken at times that differ by more than half a step."""
    triggers = np.array([times for recording in complete if (times := _triggers(recording)) is not None])
    return bool(len(triggers) and frame_ms and np.ptp(triggers, axis=0).max() > frame_ms / 2)
