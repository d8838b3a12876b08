"""Motion between any two frames of a cine, from the velocities that inference returns.

There is one velocity for each frame of the cycle, in the order of the frames from the one after ED on; the last
velocity is that of ED itself. If the network is ED-referenced, as the shipped one is, each velocity points from its
frame directly into ED. Otherwise it points into the previous frame, and the motion into ED is composed of all steps
since ED.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.preprocess import Window, extract, restore_motion
from cmnet_core.models.build import AnyMotionSizes
from cmnet_core.models.layers import upsample_displacement
from cmnet_core.registration.displacement import (
    compose,
    compose_between,
    compose_displacements,
    compose_sequence,
    exponential,
    from_voxels,
    invert,
    surely_unfolded,
    to_voxels,
    volume_change,
)
from cmnet_core.types import MotionField, Spacing

_MAX_SMOOTHINGS = 50


@dataclass(frozen=True, slots=True)
class StoredDisplacements:
    """The integration of displacement fields into ED that a method without velocities has estimated.

    Attributes:
        kind: Name of this representation in sidecars.
    """

    kind: Literal["displacements"] = "displacements"

    @property
    def output_level(self) -> int:
        """Displacements are stored at half the in-plane resolution of the window."""
        return 1

    @property
    def integration_steps(self) -> int:
        """Displacements are not integrated."""
        return 0

    @property
    def ed_referenced(self) -> bool:
        """Every displacement points into ED."""
        return True


Integration: TypeAlias = AnyMotionSizes | StoredDisplacements
"""How stored velocities become displacement fields: ``output_level``, ``integration_steps`` and ``ed_referenced``."""


def fields_to_ed(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: Integration
) -> tuple[MotionField, ...]:
    """Integrate every velocity to the field that is fixed at its frame and points into ED, on the window's grid.

    Args:
        velocities: Velocities from the frame after ED on, in voxels of their own grid.
        spacing: Voxel spacing of the window in mm.
        ed: End-diastolic frame.
        sizes: Sizes of the network that estimated the velocities, or another description of their integration.
    """
    return tuple(iterate_fields_to_ed(velocities, spacing, ed=ed, sizes=sizes))


def iterate_fields_to_ed(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: Integration
) -> Iterator[MotionField]:
    """Yield the fields of :func:`fields_to_ed` one by one, so that a long cycle takes the memory of one field."""
    if not sizes.ed_referenced:
        yield from compose_sequence(_fields_to_previous(velocities, spacing, ed=ed, sizes=sizes))
        return
    for velocity, frame in zip(velocities, _frames_after(ed, len(velocities)), strict=True):
        yield _field(velocity, spacing, sizes, fixed=frame, moving=ed)


def field_between(
    velocities: Float[Tensor, "t 3 z yh xh"],
    spacing: Spacing,
    *,
    ed: int,
    sizes: Integration,
    moving: int,
    fixed: int,
) -> MotionField:
    """Compute the field on the grid of ``fixed`` that points into ``moving``.

    If the network is ED-referenced, the motion from ED into a frame is the inverse, the integral of the negated
    velocity. A motion without folds can have an inverse that folds on the grid, where tissue expands over many voxels;
    there the velocity is smoothed first as by :func:`without_folds`. A displacement that is no integral is inverted
    numerically. If the network is not ED-referenced, the field is composed of the steps of
    the cycle from ``moving`` to ``fixed``; equal frames stand for one whole cycle.

    Args:
        velocities: Velocities from the frame after ED on, in voxels of their own grid.
        spacing: Voxel spacing of the window in mm.
        ed: End-diastolic frame.
        sizes: Sizes of the network that estimated the velocities, or another description of their integration.
        moving: The frame into which the field points.
        fixed: The frame on whose grid the field is defined.

    Raises:
        GeometryError: There is no such frame.
    """
    if not sizes.ed_referenced:
        steps = _fields_to_previous(velocities, spacing, ed=ed, sizes=sizes)
        return compose_between(steps, moving=moving, fixed=fixed)
    of_frame = dict(zip(_frames_after(ed, len(velocities)), velocities, strict=True))
    if not {moving, fixed} <= set(of_frame):
        # Without any step this raises the error of a missing frame.
        return compose_between((), moving=moving, fixed=fixed)
    to_ed = _field(of_frame[fixed], spacing, sizes, fixed=fixed, moving=ed)
    if moving == ed:
        return to_ed
    if not sizes.integration_steps:
        return compose(to_ed, invert(_field(of_frame[moving], spacing, sizes, fixed=moving, moving=ed)))
    inverse = _without_folds(-of_frame[moving], sizes, after=to_voxels(to_ed))
    return compose(to_ed, _field(inverse, spacing, sizes, fixed=ed, moving=moving))


def without_folds(velocities: Float[Tensor, "t 3 z yh xh"], *, sizes: Integration) -> Float[Tensor, "t 3 z yh xh"]:
    """Smooth velocities locally until their displacements have no folds on the window's grid.

    The exponential of a velocity has no folds, but its samples on a grid can have some where the velocity changes
    strongly between two slices. The velocity is smoothed only there.

    Args:
        velocities: Velocities in voxels of their own grid.
        sizes: Sizes of the network that estimated the velocities, or another description of their integration.
    """
    return torch.stack([_without_folds(velocity, sizes) for velocity in velocities])


def _without_folds(
    velocity: Float[Tensor, "3 z yh xh"], sizes: Integration, *, after: Float[Tensor, "1 3 z y x"] | None = None
) -> Float[Tensor, "3 z yh xh"]:
    """Smooth a velocity until its displacement, or the composition with the one before it, has no folds."""
    if after is None and surely_unfolded(velocity, steps=sizes.integration_steps):
        return velocity
    scale = 2**sizes.output_level
    for _ in range(_MAX_SMOOTHINGS):
        displacement = upsample_displacement(exponential(velocity[None], steps=sizes.integration_steps), factor=scale)
        folds = volume_change(displacement if after is None else compose_displacements(after, displacement)) <= 0
        if not bool(folds.any()):
            break
        velocity = _smooth_around(velocity, functional.max_pool3d(folds.float()[None], (1, scale, scale)))
    return velocity


def without_folds_on_subject_grid(
    velocity: Float[Tensor, "3 z yh xh"], window: Window, *, sizes: Integration
) -> Float[Tensor, "3 z yh xh"]:
    """Smooth a velocity locally until it has no folds on the subject's own grid, in neither direction.

    A field without folds on the window's grid can fold where it is resampled.

    Args:
        velocity: Velocity in voxels of its own grid.
        window: Position of the window on the subject's own grid.
        sizes: Sizes of the network that estimated the velocity.
    """
    scale = 2**sizes.output_level
    for _ in range(_MAX_SMOOTHINGS):
        folds = torch.zeros(window.source_shape)
        for signed in (velocity, -velocity):
            field = restore_motion(_field(signed, window.spacing, sizes, fixed=0, moving=1), window)
            folds = folds.maximum((volume_change(to_voxels(field)) <= 0).float())
        if not bool(folds.any()):
            break
        around = functional.max_pool3d(extract(folds[None], window).ceil(), (1, scale, scale))
        velocity = _smooth_around(velocity, around)
    return velocity


def _smooth_around(
    velocity: Float[Tensor, "3 z yh xh"], folds: Float[Tensor, "1 z yh xh"]
) -> Float[Tensor, "3 z yh xh"]:
    """Replace the velocity by its mean over 3 × 3 × 3 voxels where a fold is near."""
    around = functional.max_pool3d(folds, (3, 5, 5), stride=1, padding=(1, 2, 2)) > 0
    smooth = functional.avg_pool3d(velocity[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    return torch.where(around, smooth, velocity)


def _frames_after(ed: int, count: int) -> list[int]:
    """Return the frames of the cycle from the one after ED on; the last is ED."""
    return [(ed + step) % count for step in range(1, count + 1)]


def _fields_to_previous(
    velocities: Float[Tensor, "t 3 z yh xh"], spacing: Spacing, *, ed: int, sizes: Integration
) -> list[MotionField]:
    """Return fields that are each fixed at a frame and point into the previous frame."""
    fixed = _frames_after(ed, len(velocities))
    pairs = zip(velocities, fixed, [ed, *fixed], strict=False)
    return [_field(velocity, spacing, sizes, fixed=now, moving=before) for velocity, now, before in pairs]


def _field(
    velocity: Float[Tensor, "3 z yh xh"], spacing: Spacing, sizes: Integration, *, fixed: int, moving: int
) -> MotionField:
    displacement = exponential(velocity[None], steps=sizes.integration_steps)
    upsampled = upsample_displacement(displacement, factor=2**sizes.output_level)[0]
    return from_voxels(upsampled, spacing, fixed=fixed, moving=moving)
