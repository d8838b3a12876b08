"""Refinement at inference: optimises the velocities of one subject by the training's segmentation losses.

The steps of the cycle are refined one after the other from the network's velocities on. Where the motion into ED is
composed of several steps, the loss of each step includes the composed motion, so that a step also corrects the errors
of the steps before it. Refinement is off by default.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models import losses
from cmnet_core.models.build import MotionSizes
from cmnet_core.models.layers import upsample, upsample_displacement
from cmnet_core.registration.displacement import compose_displacements, exponential, volume_change, warp
from cmnet_core.types import Spacing

CORRECTION_SCALE = 2
"""Voxel size of the corrections in voxels of the velocity's grid; the coarse grid keeps them smooth."""

MARGIN = 8
"""Width of the margin around the heart over which a correction falls to 0, in voxels of the velocity's grid."""

MIN_HEART_PROBABILITY = 0.1
"""Probability of the structures together from which a voxel belongs to the heart."""

MAX_SQUARINGS = 4
"""Largest number of squarings during the optimisation; the effect of further ones is smaller than that of the next
iteration."""

STEP_FRACTIONS = (1.0, 0.75, 0.5, 0.25)
"""Fractions of a correction that are tried in this order until the motion has no folds."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Settings of the refinement.

    Attributes:
        iterations: Number of steps of Adam for each step of the cycle; 0 leaves the velocities as they are.
        learning_rate: Learning rate of Adam, in voxels of the velocity's grid.
        eps: Constant that Adam adds to the root of the second moment.
        overlap: Weight of 1 − Dice beside the divergence of the segmentations.
        smoothness: Weight of the bending energy of a step.
        folding: Weight of the penalty of folding and of strong compression.
        pyramid_levels: Number of resolution levels on which segmentations are compared; the finest is that of the
            velocities.
        label_smoothing: Label smoothing of the segmentations, as in training.
    """

    iterations: int
    learning_rate: float = 0.8
    eps: float = 1.0
    overlap: float = 0.3
    smoothness: float = 0.02
    folding: float = 10.0
    pyramid_levels: int = 3
    label_smoothing: float = 0.04


@dataclass(frozen=True, slots=True, eq=False)
class _StepData:
    """What the loss of one step of the cycle depends on, on the grid of the velocities.

    Attributes:
        ed: Class probabilities at ED, ``[1 k z yh xh]``.
        moving: Class probabilities of the frame into which the step points.
        fixed: Class probabilities of the frame itself.
        before: Composed motion of the steps before; None where there is none.
    """

    ed: Tensor
    moving: Tensor
    fixed: Tensor
    before: Tensor | None

    def crop(self, box: "_CropBox") -> "_StepData":
        """Return the same within a box."""
        before = None if self.before is None else box.crop(self.before)
        return _StepData(box.crop(self.ed), box.crop(self.moving), box.crop(self.fixed), before)


@dataclass(frozen=True, slots=True)
class _CropBox:
    """An in-plane region of the velocities' grid."""

    y: slice
    x: slice

    def crop(self, values: Float[Tensor, "... y x"]) -> Float[Tensor, "... yb xb"]:
        """Cut the region out of values."""
        return values[..., self.y, self.x]

    def pad(self, values: Float[Tensor, "... yb xb"], like: Float[Tensor, "... y x"]) -> Float[Tensor, "... y x"]:
        """Return the values of the region with zeros around it."""
        whole = torch.zeros_like(like)
        whole[..., self.y, self.x] = values
        return whole

    def window(self) -> Float[Tensor, "yb xb"]:
        """Return a window of 1 that falls to 0 over the margin."""
        rows, columns = (_cosine_window(side.stop - side.start) for side in (self.y, self.x))
        return rows[:, None] * columns


def _cosine_window(length: int) -> Float[Tensor, " n"]:
    position = torch.arange(length, dtype=torch.float32)
    from_border = torch.minimum(position, position.flip(0)) / MARGIN
    return 0.5 - 0.5 * torch.cos(math.pi * from_border.clamp_max(1.0))


def _box_around_heart(frames: Sequence[Float[Tensor, "1 k z y x"]], *, multiple: int) -> _CropBox:
    """Return the region of the heart in all frames, with a margin and sides of multiples of some voxels."""
    heart = torch.stack([frame[0, 0] < 1.0 - MIN_HEART_PROBABILITY for frame in frames]).flatten(0, 1).any(0)
    sides = []
    for axis in (1, 0):
        size = len(heart.any(axis))
        found = heart.any(axis).nonzero()[:, 0]
        low, high = (int(found[0]) - MARGIN, int(found[-1]) + MARGIN + 1) if len(found) else (0, size)
        low, high = max(low, 0) // multiple * multiple, -(-min(high, size) // multiple) * multiple
        sides.append(slice(low, min(high, size)))
    return _CropBox(*sides)


def refine(
    velocities: Float[Tensor, "t 3 z yh xh"],
    probabilities: Sequence[Float[Tensor, "k z y x"]],
    spacing: Spacing,
    *,
    sizes: MotionSizes,
    settings: Refinement,
) -> Float[Tensor, "t 3 z yh xh"]:
    """Refine velocities so that they warp the segmentation of ED more closely onto that of every frame.

    Args:
        velocities: Velocities from the frame after ED on, in voxels of their own grid.
        probabilities: Class probabilities of the frames from ED on, on the window's grid.
        spacing: Voxel spacing of the window in mm.
        sizes: Sizes of the network that estimated the velocities.
        settings: Settings of the refinement.

    Returns:
        The refined velocities; without iterations the given ones.
    """
    if settings.iterations == 0:
        return velocities
    scale = 2**sizes.output_level
    # Averaged probabilities locate edges with sub-voxel accuracy: the full resolution costs four times as much and does
    # not improve the result.
    frames = [functional.avg_pool3d(frame[None], (1, scale, scale)) for frame in probabilities]
    coarse = Spacing(spacing.z, scale * spacing.y, scale * spacing.x)
    box = _box_around_heart(frames, multiple=2 ** (settings.pyramid_levels - 1))
    before: Tensor | None = None
    refined = []
    for index, velocity in enumerate(velocities):
        moving, fixed = frames[0 if sizes.ed_referenced else index], frames[(index + 1) % len(frames)]
        data = _StepData(frames[0], moving, fixed, None if before is None else _downsample(before, factor=scale))
        correction = _correction(velocity[None], data, box, coarse, sizes, settings)
        corrected, composed = _without_folds(velocity[None], correction, before, sizes)
        before = None if sizes.ed_referenced else composed
        refined.append(corrected[0])
    return torch.stack(refined)


def _downsample(displacement: Float[Tensor, "1 3 z y x"], *, factor: int) -> Float[Tensor, "1 3 z yh xh"]:
    """Downsample a displacement in-plane and scale its in-plane components to the larger voxels."""
    voxels = torch.tensor([1.0, factor, factor]).view(1, 3, 1, 1, 1)
    return functional.avg_pool3d(displacement, (1, factor, factor)) / voxels


def _correction(
    velocity: Float[Tensor, "1 3 z yh xh"],
    data: _StepData,
    box: _CropBox,
    spacing: Spacing,
    sizes: MotionSizes,
    settings: Refinement,
) -> Float[Tensor, "1 3 z yh xh"]:
    """Optimise the correction of a step's velocity; it is 0 far from the heart."""
    inner, data = box.crop(velocity), data.crop(box)
    _, _, depth, height, width = inner.shape
    # Corrections have the unit of an in-plane voxel along z too, because slices are much thicker than voxels are wide.
    scale = box.window() * torch.tensor([spacing.y / spacing.z, 1.0, 1.0]).view(3, 1, 1, 1)
    change = torch.zeros(depth, 3, height // CORRECTION_SCALE, width // CORRECTION_SCALE, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=settings.learning_rate, eps=settings.eps)
    squarings = min(sizes.integration_steps, MAX_SQUARINGS)
    with torch.enable_grad():
        for _ in range(settings.iterations):
            displacement = exponential(inner + scale * _upsample_change(change), steps=squarings)
            loss = _loss(displacement, data, spacing, settings)
            optimiser.zero_grad()
            (depth * height * width * loss).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return box.pad(scale * _upsample_change(change.detach()), velocity)


def _upsample_change(change: Float[Tensor, "z 3 yc xc"]) -> Float[Tensor, "1 3 z yh xh"]:
    return upsample(change, factor=CORRECTION_SCALE).movedim(0, 1)[None]


def _loss(
    displacement: Float[Tensor, "1 3 z y x"], data: _StepData, spacing: Spacing, settings: Refinement
) -> Float[Tensor, ""]:
    loss = settings.smoothness * losses.bending_energy(displacement, spacing)
    loss = loss + _mismatch(data.moving, displacement, data.fixed, settings)
    if data.before is None:
        composed = displacement
    else:
        composed = compose_displacements(displacement, data.before)
        loss = loss + _mismatch(data.ed, composed, data.fixed, settings)
    return loss + settings.folding * losses.folding_penalty(composed)


def _mismatch(
    probabilities: Float[Tensor, "1 k z y x"],
    displacement: Float[Tensor, "1 3 z y x"],
    target: Float[Tensor, "1 k z y x"],
    settings: Refinement,
) -> Float[Tensor, ""]:
    warped, target_slices = (volume[0].movedim(1, 0) for volume in (warp(probabilities, displacement), target))
    divergence = losses.kl_segmentation_pyramid(
        warped, target_slices, levels=settings.pyramid_levels, label_smoothing=settings.label_smoothing
    )
    return divergence + settings.overlap * losses.dice_loss(warped, target_slices)


def _without_folds(
    velocity: Tensor, correction: Tensor, before: Tensor | None, sizes: MotionSizes
) -> tuple[Tensor, Tensor]:
    """Add the largest fraction of a correction with which neither the step nor the composed motion folds.

    Returns:
        The velocity, and the composed motion on the window's grid.
    """
    for fraction in (*STEP_FRACTIONS, 0.0):
        corrected = velocity + fraction * correction
        displacement = exponential(corrected, steps=sizes.integration_steps)
        step = upsample_displacement(displacement, factor=2**sizes.output_level)
        composed = step if before is None else compose_displacements(step, before)
        if min(float(volume_change(field).min()) for field in (step, composed)) > 0.0:
            break
    return corrected, composed


def close_cycle(velocities: Float[Tensor, "t 3 z yh xh"], *, sizes: MotionSizes, iterations: int) -> Tensor:
    """Reduce the cycle-consistency error of motion that is composed from frame to frame.

    In a steady rhythm, tissue returns to its position after one cycle; a displacement that is left is drift. Each step
    is corrected by an equal fraction of it, at the position of the tissue at that step. The residual, which is zero to
    first order, is distributed in the next iteration. A correction that would fold is reduced.

    Args:
        velocities: Velocities from the frame after ED on, each pointing into the previous frame, in voxels of their own
            grid.
        sizes: Sizes of the network that estimated the velocities.
        iterations: Number of corrections; 0 leaves the velocities as they are.
    """
    composed = list(_composed(velocities, sizes)) if iterations else []
    for _ in range(iterations):
        drift = composed[-1] / len(velocities)
        last = len(velocities) - 1
        spread = torch.cat([drift if index == last else warp(drift, field) for index, field in enumerate(composed)])
        closer = _largest_change(velocities, -spread, sizes)
        if closer is None:
            break
        velocities, composed = closer
    return velocities


def _largest_change(velocities: Tensor, change: Tensor, sizes: MotionSizes) -> tuple[Tensor, list[Tensor]] | None:
    """Add the largest fraction of a change without folds; return the velocities and their composition, or None."""
    for fraction in STEP_FRACTIONS:
        changed = velocities + fraction * change
        composed = _composed_without_folds(changed, sizes)
        if composed is not None:
            return changed, composed
    return None


def _composed_without_folds(velocities: Tensor, sizes: MotionSizes) -> list[Tensor] | None:
    """Return the motion from every frame into ED, or None where one of them folds."""
    composed = []
    for field in _composed(velocities, sizes):
        if float(volume_change(upsample_displacement(field, factor=2**sizes.output_level)).min()) <= 0.0:
            return None
        composed.append(field)
    return composed


def _composed(velocities: Float[Tensor, "t 3 z yh xh"], sizes: MotionSizes) -> Iterator[Float[Tensor, "1 3 z yh xh"]]:
    """Yield the motion from every frame into ED, on the velocities' own grid."""
    composed: Tensor | None = None
    for velocity in velocities:
        step = exponential(velocity[None], steps=sizes.integration_steps)
        composed = step if composed is None else compose_displacements(step, composed)
        yield composed
