"""Where the material of an ED mask goes over the cycle: ED-anchored (Lagrangian) motion, for chosen voxels alone.

A stored motion is a chain of pull-backs, each fixed at its own frame and pointing into the one before. Strain asks the
opposite: where did what was here at ED go? Material is followed through the steps one by one, each step inverted at the
material's own places. That costs a hundredth of inverting whole fields, and no field is resampled.
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
_MOST_ITERATIONS = 60


@dataclass(frozen=True, slots=True, eq=False)
class MaterialMotion:
    """Displacement from ED of every voxel of a mask.

    Attributes:
        displacement_mm: Row *i* belongs to ``frames[i]``, column *k* to the *k*-th voxel of ``mask.nonzero()``; along
            the grid's axes (z, y, x). 0 at ED.
        frames: The cine's frames in the order of the input; the whole cycle, or a part of it that has ED.
        mask: At ED.
        spacing: Of the mask's grid.
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

    @property
    def position_mm(self) -> Float[Tensor, "n 3"]:
        """Where the material is at ED, from the centre of voxel (0, 0, 0)."""
        return self.mask.nonzero().double() * torch.tensor(self.spacing.zyx, dtype=torch.float64)


def follow_material(steps: Sequence[MotionField], mask: Bool[Tensor, "z y x"]) -> MaterialMotion:
    """Follow a mask's material along the steps of a cycle.

    Args:
        steps: Pull-backs, the first pointing into ED, and each of the others into ED too, or into the frame where the
            one before it is fixed. A last one that is fixed at ED again is not needed and not used: its drift is the
            closing error's business.
        mask: At ED, on the grid of the steps.

    Returns:
        The motion in all frames that the steps reach.

    Raises:
        GeometryError: The steps do not meet, or lie on another grid than the mask.
    """
    ed = steps[0].moving
    size = torch.tensor(steps[0].spacing.zyx, dtype=torch.float64)
    start = mask.nonzero().float().T.contiguous()
    here, frame, places = start, ed, {ed: start}
    for step in steps:
        before = start if step.moving == ed else here
        _require(step, mask, moving=ed if step.moving == ed else frame)
        frame = step.fixed
        if frame != ed:
            here = _undo(to_voxels(step), before)
            places[frame] = here
    frames = tuple(sorted(places))
    moved = torch.stack([(places[frame] - start).T for frame in frames]).double() * size
    return MaterialMotion(moved, frames, mask, steps[0].spacing, ed)


def _undo(displacement: Float[Tensor, "1 3 z y x"], points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """Where a pull-back leads to these points from: ``p`` with ``p + u(p)`` = point, by fixed-point iteration.

    Full steps diverge where the pull-back stretches more than twofold, as it does at the endocardium of a cavity that
    all but closes in one step. A point whose step would miss by more than before therefore stays and halves its step.
    Points that have arrived are left alone: a few take many times as long as the rest.
    """
    found = points - _read(displacement, points)
    miss = found + _read(displacement, found) - points
    stride = torch.ones_like(points[:1])
    for _ in range(_MOST_ITERATIONS):
        [left] = (miss.abs().amax(0) >= _TOLERANCE_VOXELS).nonzero(as_tuple=True)
        if not len(left):
            break
        tried = found[:, left] - stride[:, left] * miss[:, left]
        missed = tried + _read(displacement, tried) - points[:, left]
        nearer = missed.square().sum(0) < miss[:, left].square().sum(0)
        found[:, left[nearer]], miss[:, left[nearer]] = tried[:, nearer], missed[:, nearer]
        stride[:, left[~nearer]] *= 0.5
    return found


def _read(displacement: Float[Tensor, "1 3 z y x"], points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    return sample_at(displacement, points[None, :, None, None])[0, :, 0, 0]


def material_of_fields(fields: Sequence[MotionField], mask: Bool[Tensor, "z y x"]) -> MaterialMotion:
    """A mask's material as fields that are fixed at ED tell it.

    Args:
        fields: One a frame, in any order; ED's own need not be there.
        mask: At ED, on the grid of the fields.

    Raises:
        GeometryError: A field is fixed elsewhere or lies on another grid.
    """
    ed = fields[0].fixed
    moved = {ed: torch.zeros(int(mask.sum()), 3, dtype=torch.float64)}
    for field in fields:
        _require(field, mask, fixed=ed)
        if field.moving != ed:
            moved[field.moving] = field.displacement_mm[:, mask].T.double()
    frames = tuple(sorted(moved))
    return MaterialMotion(torch.stack([moved[frame] for frame in frames]), frames, mask, fields[0].spacing, ed)


def _require(
    field: MotionField, mask: Bool[Tensor, "z y x"], *, fixed: int | None = None, moving: int | None = None
) -> None:
    if field.displacement_mm.shape[1:] != mask.shape:
        raise GeometryError(
            f"A mask of shape {tuple(mask.shape)} and a field of shape {tuple(field.displacement_mm.shape[1:])} do not "
            "fit.",
            hint="Bring both onto one grid first.",
            code=ErrorCode.GEOMETRY,
        )
    if (fixed is not None and field.fixed != fixed) or (moving is not None and field.moving != moving):
        raise GeometryError(
            f"A field from frame {field.moving} to frame {field.fixed} does not continue this motion.",
            hint="Material is followed from ED: give steps in the order of the cycle, or fields fixed at ED.",
            code=ErrorCode.GEOMETRY,
        )
