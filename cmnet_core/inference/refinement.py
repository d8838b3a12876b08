"""Refinement at inference: a few steps of the training's own shape loss on one subject's velocities.

The network's motion is where it starts. Each step of the cycle is refined in turn, judged by where the motion composed
so far carries the ED shape: an error that one step leaves is therefore seen, and mended, by the next.
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

COARSER = 2
"""Corrections live on a plane this much coarser than the velocity's, so that every one of them is smooth."""

MARGIN = 8
"""Voxels of the velocity's plane around the heart within which a correction fades to nothing."""

LEAST_HEART = 0.1
"""Probability of not being background from which a voxel counts as heart."""

SQUARINGS = 4
"""At most, while a correction is sought: what more of them change is less than what the next iteration does."""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of a correction, tried in turn until nothing folds."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """Settings of the refinement.

    Attributes:
        iterations: Steps of the optimiser for each step of the cycle; 0 leaves the network's motion as it is.
        learning_rate: Of Adam, in voxels of the velocity's grid.
        overlap: Weight of 1 − Dice beside the shape loss.
        smoothness: Weight of the bending energy of a step.
        folding: Weight of the penalty on motion that nearly folds.
        pyramid_levels: Planes on which shapes are compared, the finest being that of the velocities.
        label_smoothing: As in training.
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
class _Step:
    """One step of the cycle, with what it is judged by, all of it on the grid of the velocities.

    Attributes:
        ed: Class probabilities at ED, ``[1 k z yh xh]``.
        previous: Those of the frame before.
        current: Those of the frame itself.
        before: The motion composed up to the frame before; None for the first step.
    """

    ed: Tensor
    previous: Tensor
    current: Tensor
    before: Tensor | None

    def within(self, box: "_Box") -> "_Step":
        """The same, of a part of the plane."""
        before = None if self.before is None else box.of(self.before)
        return _Step(box.of(self.ed), box.of(self.previous), box.of(self.current), before)


@dataclass(frozen=True, slots=True)
class _Box:
    """A part of the plane of the velocities, in their voxels."""

    y: slice
    x: slice

    def of(self, values: Float[Tensor, "... y x"]) -> Float[Tensor, "... yb xb"]:
        """Cut it out of values."""
        return values[..., self.y, self.x]

    def put_back(self, part: Float[Tensor, "... yb xb"], like: Float[Tensor, "... y x"]) -> Float[Tensor, "... y x"]:
        """A part of the plane, with zeros around it."""
        whole = torch.zeros_like(like)
        whole[..., self.y, self.x] = part
        return whole

    def fading(self) -> Float[Tensor, "yb xb"]:
        """1 in the middle, falling to 0 over the margin."""
        rows, columns = (_edge(side.stop - side.start) for side in (self.y, self.x))
        return rows[:, None] * columns


def _edge(length: int) -> Float[Tensor, " n"]:
    place = torch.arange(length, dtype=torch.float32)
    depth = torch.minimum(place, place.flip(0)) / MARGIN
    return 0.5 - 0.5 * torch.cos(math.pi * depth.clamp_max(1.0))


def _around_heart(frames: Sequence[Float[Tensor, "1 k z y x"]], *, multiple: int) -> _Box:
    """Where any frame shows a heart, and a margin around it, in whole ``multiple`` of voxels; else the whole plane."""
    heart = torch.stack([frame[0, 0] < 1.0 - LEAST_HEART for frame in frames]).flatten(0, 1).any(0)
    sides = []
    for axis in (1, 0):
        size = len(heart.any(axis))
        found = heart.any(axis).nonzero()[:, 0]
        low, high = (int(found[0]) - MARGIN, int(found[-1]) + MARGIN + 1) if len(found) else (0, size)
        low, high = max(low, 0) // multiple * multiple, -(-min(high, size) // multiple) * multiple
        sides.append(slice(low, min(high, size)))
    return _Box(*sides)


def refine(
    velocities: Float[Tensor, "t 3 z yh xh"],
    shapes: Sequence[Float[Tensor, "k z y x"]],
    spacing: Spacing,
    *,
    sizes: MotionSizes,
    settings: Refinement,
) -> Float[Tensor, "t 3 z yh xh"]:
    """Make the motion carry the shape of ED, and of the frame before, more closely onto that of every frame.

    Args:
        velocities: Of the frames of the closed cycle, the one after ED first, in voxels of their own grid.
        shapes: Class probabilities of the frames, ED first, on the window's grid.
        spacing: Of the window.
        sizes: Of the network that gave the velocities.
        settings: How far to go.

    Returns:
        The refined velocities; the given ones without iterations.
    """
    if settings.iterations == 0:
        return velocities
    scale = 2**sizes.output_level
    # Shares of a tissue in the coarser voxels tell edges to a fraction of them: the full plane costs four times as much
    # and mends no more.
    frames = [functional.avg_pool3d(shape[None], (1, scale, scale)) for shape in shapes]
    coarse = Spacing(spacing.z, scale * spacing.y, scale * spacing.x)
    box = _around_heart(frames, multiple=2 ** (settings.pyramid_levels - 1))
    before: Tensor | None = None
    refined = []
    for index, velocity in enumerate(velocities):
        previous, current = frames[0 if sizes.ed_referenced else index], frames[(index + 1) % len(frames)]
        step = _Step(frames[0], previous, current, None if before is None else _coarser(before, factor=scale))
        correction = _correction(velocity[None], step, box, coarse, sizes, settings)
        better, composed = _unfolded(velocity[None], correction, before, sizes)
        before = None if sizes.ed_referenced else composed
        refined.append(better[0])
    return torch.stack(refined)


def _coarser(displacement: Float[Tensor, "1 3 z y x"], *, factor: int) -> Float[Tensor, "1 3 z yh xh"]:
    """A displacement of the full plane on that of the velocities, in their voxels."""
    voxels = torch.tensor([1.0, factor, factor]).view(1, 3, 1, 1, 1)
    return functional.avg_pool3d(displacement, (1, factor, factor)) / voxels


def _correction(
    velocity: Float[Tensor, "1 3 z yh xh"],
    step: _Step,
    box: _Box,
    spacing: Spacing,
    sizes: MotionSizes,
    settings: Refinement,
) -> Float[Tensor, "1 3 z yh xh"]:
    """What to add to the velocity of a step; nothing far from the heart."""
    inner, step = box.of(velocity), step.within(box)
    _, _, depth, height, width = inner.shape
    # A change counts in voxels of the plane along z too: slices are thick, and one of them is a long way.
    scale = box.fading() * torch.tensor([spacing.y / spacing.z, 1.0, 1.0]).view(3, 1, 1, 1)
    change = torch.zeros(depth, 3, height // COARSER, width // COARSER, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=settings.learning_rate, eps=settings.eps)
    with torch.enable_grad():
        for _ in range(settings.iterations):
            displacement = exponential(inner + scale * _smooth(change), steps=min(sizes.integration_steps, SQUARINGS))
            loss = _loss(displacement, step, spacing, settings)
            optimiser.zero_grad()
            (depth * height * width * loss).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return box.put_back(scale * _smooth(change.detach()), velocity)


def _loss(
    displacement: Float[Tensor, "1 3 z y x"], step: _Step, spacing: Spacing, settings: Refinement
) -> Float[Tensor, ""]:
    loss = settings.smoothness * losses.bending_energy(displacement, spacing)
    loss = loss + _mismatch(step.previous, displacement, step.current, settings)
    if step.before is None:
        composed = displacement
    else:
        composed = compose_displacements(displacement, step.before)
        loss = loss + _mismatch(step.ed, composed, step.current, settings)
    return loss + settings.folding * losses.folding_penalty(composed)


def _mismatch(
    shape: Float[Tensor, "1 k z y x"],
    displacement: Float[Tensor, "1 3 z y x"],
    target: Float[Tensor, "1 k z y x"],
    settings: Refinement,
) -> Float[Tensor, ""]:
    warped, wanted = (volume[0].movedim(1, 0) for volume in (warp(shape, displacement), target))
    divergence = losses.kl_segmentation_pyramid(
        warped, wanted, levels=settings.pyramid_levels, label_smoothing=settings.label_smoothing
    )
    return divergence + settings.overlap * losses.dice_loss(warped, wanted)


def _unfolded(velocity: Tensor, correction: Tensor, before: Tensor | None, sizes: MotionSizes) -> tuple[Tensor, Tensor]:
    """With as much of a correction as leaves the step, and the motion composed with it, without a fold.

    Returns:
        The velocity, and the motion into ED on the full plane, where folds are counted.
    """
    for share in (*SHARES, 0.0):
        corrected = velocity + share * correction
        step = upsample_displacement(
            exponential(corrected, steps=sizes.integration_steps), factor=2**sizes.output_level
        )
        composed = step if before is None else compose_displacements(step, before)
        if min(float(volume_change(field).min()) for field in (step, composed)) > 0.0:
            break
    return corrected, composed


def _smooth(change: Float[Tensor, "z 3 yc xc"]) -> Float[Tensor, "1 3 z yh xh"]:
    return upsample(change, factor=COARSER).movedim(0, 1)[None]


def close_cycle(velocities: Float[Tensor, "t 3 z yh xh"], *, sizes: MotionSizes, rounds: int) -> Tensor:
    """Spread over the cycle what the motion, composed once round it, lacks to come back to where it began.

    A heart in its steady rhythm comes back; what is left after a cycle is drift. Each step takes an equal share of it,
    where the tissue then is; what that leaves, to first order nothing, is spread again in the next round. A round that
    would fold anything spreads less.

    Args:
        velocities: Of the steps of the closed cycle, the one out of ED first, in voxels of their own grid.
        sizes: Of the network that gave them.
        rounds: How often the drift is measured and spread; 0 leaves the velocities as they are.
    """
    composed = list(_composed(velocities, sizes)) if rounds else []
    for _ in range(rounds):
        drift = composed[-1] / len(velocities)
        last = len(velocities) - 1
        spread = torch.cat([drift if index == last else warp(drift, field) for index, field in enumerate(composed)])
        closer = _with_most(velocities, -spread, sizes)
        if closer is None:
            break
        velocities, composed = closer
    return velocities


def _with_most(velocities: Tensor, change: Tensor, sizes: MotionSizes) -> tuple[Tensor, list[Tensor]] | None:
    """Velocities with as much of a change as folds nothing, and what they compose to; None where any of it folds."""
    for share in SHARES:
        changed = velocities + share * change
        composed = _composed_without_fold(changed, sizes)
        if composed is not None:
            return changed, composed
    return None


def _composed_without_fold(velocities: Tensor, sizes: MotionSizes) -> list[Tensor] | None:
    """The motion from every frame into ED; None as soon as one of them folds."""
    composed = []
    for field in _composed(velocities, sizes):
        if float(volume_change(upsample_displacement(field, factor=2**sizes.output_level)).min()) <= 0.0:
            return None
        composed.append(field)
    return composed


def _composed(velocities: Float[Tensor, "t 3 z yh xh"], sizes: MotionSizes) -> Iterator[Float[Tensor, "1 3 z yh xh"]]:
    """The motion from every frame into ED, on the velocities' own grid."""
    composed: Tensor | None = None
    for velocity in velocities:
        step = exponential(velocity[None], steps=sizes.integration_steps)
        composed = step if composed is None else compose_displacements(step, composed)
        yield composed
