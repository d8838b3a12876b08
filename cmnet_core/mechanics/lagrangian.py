"""Lagrangian motion: the displacement from ED of the material in a mask, over the cycle.

A stored displacement field is a pull-back: it is fixed at its own frame and points into ED or into the frame before.
Strain with reference ED needs the opposite, the position in each frame of the material that the mask contains at ED.
The fields are therefore inverted, at the material's own positions only: that costs about a hundredth of inverting whole
fields, and no field is resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.registration.displacement import sample_at, to_voxels
from cmnet_core.types import MotionField, Spacing

_TOLERANCE_VOXELS = 1e-4
_MAX_ITERATIONS = 60


@dataclass(frozen=True, slots=True, eq=False)
class MaterialMotion:
    """Displacement from ED of every voxel of a mask.

    Attributes:
        displacement_mm: Displacement along the grid's axes (z, y, x) in mm; row *i* belongs to ``frames[i]``, column
            *k* to the *k*-th voxel of ``mask.nonzero()``. It is 0 at ED.
        frames: Frames of the cine in the order of the input: the whole cycle, or a part of it that contains ED.
        mask: The mask at ED.
        spacing: Voxel spacing of the mask's grid in mm.
        ed: End-diastolic frame.

    Raises:
        GeometryError: Shapes do not fit, or ED is not among the frames.
    """

    displacement_mm: Float[Tensor, "t n 3"]
    frames: tuple[int, ...]
    mask: Bool[Tensor, "z y x"]
    spacing: Spacing
    ed: int

    def __post_init__(self) -> None:
        if self.displacement_mm.shape != (len(self.frames), int(self.mask.sum()), 3) or self.ed not in self.frames:
            raise GeometryError(
                f"Displacements of shape {tuple(self.displacement_mm.shape)} do not fit {len(self.frames)} frames with "
                f"ED {self.ed} and {int(self.mask.sum())} voxels.",
                hint="Give one displacement for each frame and each voxel of the mask, ED included.",
                code=ErrorCode.GEOMETRY,
            )


def follow_material(fields: Sequence[MotionField], mask: Bool[Tensor, "z y x"]) -> MaterialMotion:
    """Compute the displacement from ED of a mask's voxels in every frame.

    Args:
        fields: Displacement fields in the order of the cycle, each fixed at its own frame. The first points into ED;
            each of the others points into ED too, or into the frame at which the one before it is fixed. A last field
            that is fixed at ED again is not used: its drift is the cycle-consistency error.
        mask: The mask at ED, on the grid of the fields.

    Returns:
        The motion in ED and in all frames at which a field is fixed.

    Raises:
        GeometryError: Consecutive fields do not meet, or they are on another grid than the mask.
    """
    ed = fields[0].moving
    size = torch.tensor(fields[0].spacing.zyx, dtype=torch.float64)
    start = mask.nonzero().float().T.contiguous()
    current, frame, positions = start, ed, {ed: start}
    for field in fields:
        _check_field(field, mask, moving=ed if field.moving == ed else frame)
        before = start if field.moving == ed else current
        frame = field.fixed
        if frame != ed:
            current = _invert_at(to_voxels(field), before)
            positions[frame] = current
    frames = tuple(sorted(positions))
    displacement = torch.stack([(positions[frame] - start).T for frame in frames]).double() * size
    return MaterialMotion(displacement, frames, mask, fields[0].spacing, ed)


def _check_field(field: MotionField, mask: Bool[Tensor, "z y x"], *, moving: int) -> None:
    if field.displacement_mm.shape[1:] != mask.shape:
        raise GeometryError(
            f"A mask of shape {tuple(mask.shape)} and a field of shape {tuple(field.displacement_mm.shape[1:])} do not "
            "fit.",
            hint="Bring both onto one grid first.",
            code=ErrorCode.GEOMETRY,
        )
    if field.moving != moving:
        raise GeometryError(
            f"A field from frame {field.moving} to frame {field.fixed} does not continue this motion.",
            hint="Motion is followed from ED: give fields in the order of the cycle, or fields that point into ED.",
            code=ErrorCode.GEOMETRY,
        )


def _invert_at(displacement: Float[Tensor, "1 3 z y x"], points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """Positions ``p`` with ``p + u(p) = point``, by damped fixed-point iteration.

    Full steps diverge where the pull-back stretches more than twofold, as it does at the endocardium of a cavity that
    all but closes between two frames. A point whose residual would grow therefore keeps its position and halves its
    step. Points that have converged are left out: a few of the others need many times as many iterations.
    """
    found = points - _sample(displacement, points)
    residual = found + _sample(displacement, found) - points
    step = torch.ones_like(points[:1])
    for _ in range(_MAX_ITERATIONS):
        [remaining] = (residual.abs().amax(0) >= _TOLERANCE_VOXELS).nonzero(as_tuple=True)
        if not len(remaining):
            break
        trial = found[:, remaining] - step[:, remaining] * residual[:, remaining]
        new_residual = trial + _sample(displacement, trial) - points[:, remaining]
        closer = new_residual.square().sum(0) < residual[:, remaining].square().sum(0)
        found[:, remaining[closer]], residual[:, remaining[closer]] = trial[:, closer], new_residual[:, closer]
        step[:, remaining[~closer]] *= 0.5
    return found


def _sample(displacement: Float[Tensor, "1 3 z y x"], points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    return sample_at(displacement, points[None, :, None, None])[0, :, 0, 0]
