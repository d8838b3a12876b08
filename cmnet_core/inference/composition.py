"""Motion between any two frames of a cycle, from the velocities that inference leaves.

There is one velocity for every frame of the closed cycle, beginning with the frame after ED; the last is that of ED
itself. With an anchored network each of them leads from its frame straight into ED. Otherwise it leads into the frame
before, and the way into ED is composed.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.build import MotionSizes
from cmnet_core.models.layers import upsample_displacement
from cmnet_core.registration.displacement import (
    carry,
    compose,
    compose_displacements,
    compose_sequence,
    exponential,
    from_voxels,
    surely_unfolded,
    to_voxels,
    volume_change,
)
from cmnet_core.types import MotionField, Spacing

_MOST_SMOOTHINGS = 50


def fields_to_ed(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: MotionSizes
) -> tuple[MotionField, ...]:
    """For every velocity the field that is fixed at its frame and points into ED, on the window's grid.

    Args:
        velocities: In voxels of their own grid.
        spacing: Of the window.
        ed: End-diastolic frame.
        sizes: Of the network that gave the velocities.
    """
    if not sizes.ed_referenced:
        return tuple(compose_sequence(_steps(velocities, spacing, ed=ed, sizes=sizes)))
    frames = _frames_from(ed, len(velocities))
    return tuple(
        _field(velocity, spacing, sizes, fixed=frame, moving=ed)
        for velocity, frame in zip(velocities, frames, strict=True)
    )


def field_between(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: MotionSizes, moving: int, fixed: int
) -> MotionField:
    """The field on the grid of ``fixed`` that points into ``moving``, on round the cycle from ``moving`` to ``fixed``.

    Equal frames mean once round the cycle. Arguments as in :func:`fields_to_ed`. Away from ED the way leads along the
    inverse, the integral of the negated velocity. A motion that folds nowhere can still have an inverse that folds on
    the grid, where tissue spreads over many voxels; there the velocity is smoothed first as by :func:`without_folds`.

    Raises:
        GeometryError: There is no such frame.
    """
    if not sizes.ed_referenced:
        return carry(_steps(velocities, spacing, ed=ed, sizes=sizes), moving=moving, fixed=fixed)
    of_frame = dict(zip(_frames_from(ed, len(velocities)), velocities, strict=True))
    if not {moving, fixed} <= set(of_frame):
        # It says the same of a chain that lacks the frame.
        return carry((), moving=moving, fixed=fixed)
    to_ed = _field(of_frame[fixed], spacing, sizes, fixed=fixed, moving=ed)
    if moving == ed:
        return to_ed
    way_back = _without_folds(-of_frame[moving], sizes, after=to_voxels(to_ed))
    return compose(to_ed, _field(way_back, spacing, sizes, fixed=ed, moving=moving))


def without_folds(velocities: Float[Tensor, "t 3 z yh xh"], *, sizes: MotionSizes) -> Float[Tensor, "t 3 z yh xh"]:
    """Velocities whose motion folds nowhere on the full plane.

    The exponential of a velocity folds nowhere, but what is left of it on a grid can where the velocity changes steeply
    between two slices. There, and there alone, it is smoothed until that is over.
    """
    return torch.stack([_without_folds(velocity, sizes) for velocity in velocities])


def _without_folds(
    velocity: Float[Tensor, "3 z yh xh"], sizes: MotionSizes, *, after: Float[Tensor, "1 3 z y x"] | None = None
) -> Float[Tensor, "3 z yh xh"]:
    """One velocity without folds, by itself or behind a displacement that is gone along before it."""
    if after is None and surely_unfolded(velocity, steps=sizes.integration_steps):
        return velocity
    scale = 2**sizes.output_level
    for _ in range(_MOST_SMOOTHINGS):
        displacement = upsample_displacement(exponential(velocity[None], steps=sizes.integration_steps), factor=scale)
        folds = volume_change(displacement if after is None else compose_displacements(after, displacement)) <= 0
        if not bool(folds.any()):
            break
        around = functional.max_pool3d(folds.float()[None], (1, scale, scale))
        around = functional.max_pool3d(around, (3, 5, 5), stride=1, padding=(1, 2, 2)) > 0
        smooth = functional.avg_pool3d(velocity[None], 3, stride=1, padding=1, count_include_pad=False)[0]
        velocity = torch.where(around, smooth, velocity)
    return velocity


def _frames_from(ed: int, count: int) -> list[int]:
    """Frames of the cycle from the one after ED on; ED is the last."""
    return [(ed + step) % count for step in range(1, count + 1)]


def _steps(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: MotionSizes
) -> list[MotionField]:
    """Fields that are each fixed at a frame and point into the one before."""
    fixed = _frames_from(ed, len(velocities))
    pairs = zip(velocities, fixed, [ed, *fixed], strict=False)
    return [_field(velocity, spacing, sizes, fixed=now, moving=before) for velocity, now, before in pairs]


def _field(
    velocity: Float[Tensor, "3 z yh xh"], spacing: Spacing, sizes: MotionSizes, *, fixed: int, moving: int
) -> MotionField:
    displacement = exponential(velocity[None], steps=sizes.integration_steps)
    enlarged = upsample_displacement(displacement, factor=2**sizes.output_level)[0]
    return from_voxels(enlarged, spacing, fixed=fixed, moving=moving)
