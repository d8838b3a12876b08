"""The motion of a whole cycle by ShapeMotionNet, in the window of the segmentation network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, mean_rotation, rotation_velocity
from cmnet_core.models.shape_motion_net import PIXEL_MM, WARP_SQUARINGS, ShapeMotionNet
from cmnet_core.registration.displacement import exponential
from cmnet_core.types import Spacing

CROP = 48
"""In-plane size of the region around the heart that the network processes, in voxels of 3 mm."""

CROP_MARGIN = 2
"""Least distance of the heart from the border of that region, in voxels. A larger heart is given the whole window."""

FRAMES_PER_HARMONIC = 2
"""Least number of frames for each harmonic of the cycle, whose two amplitudes they determine; shorter cycles have fewer
harmonics."""

MIN_HARMONICS = 2
"""Number of harmonics below which a cycle is not projected: so few frames do not determine a curve."""


@dataclass(frozen=True, slots=True)
class CanonicalOrientation:
    """How a window is brought to the network's orientation: the basal slice last, the right ventricle at low x.

    Attributes:
        turns: Number of quarter turns in-plane, as of :func:`torch.rot90`.
        reverse_slices: Whether the order of the slices is reversed.
        top: First row of the region around the heart, in the canonical orientation and in voxels of 3 mm.
        left: First column of it.
        size: Rows and columns of it.
    """

    turns: int
    reverse_slices: bool
    top: int
    left: int
    size: int

    def crop(self, values: Float[Tensor, "*n z y x"]) -> Float[Tensor, "*n z yc xc"]:
        """Bring values to the canonical orientation and cut out the region around the heart."""
        canonical = torch.rot90(values, self.turns, (-2, -1))
        canonical = canonical.flip(-3) if self.reverse_slices else canonical
        rows, columns = slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)
        return canonical[..., rows, columns].contiguous()

    def restore(self, values: Float[Tensor, "*n z yc xc"], like: Float[Tensor, "y x"]) -> Float[Tensor, "*n z y x"]:
        """Bring scalars back to the window, with zeros around the region."""
        whole = values.new_zeros(*values.shape[:-2], *like.shape)
        whole[..., self.top : self.top + self.size, self.left : self.left + self.size] = values
        whole = whole.flip(-3) if self.reverse_slices else whole
        return torch.rot90(whole, -self.turns, (-2, -1))

    def restore_vectors(
        self, vectors: Float[Tensor, "*n 3 z yc xc"], like: Float[Tensor, "y x"]
    ) -> Float[Tensor, "*n 3 z y x"]:
        """Bring vectors (z, y, x) back to the window, with zeros around the region."""
        z, y, x = self.restore(vectors, like).unbind(-4)
        if self.reverse_slices:
            z = -z
        for _ in range(self.turns):
            # A quarter turn back takes the direction (0, 1) to (1, 0), and (1, 0) to (0, −1), on (y, x).
            y, x = x, -y
        return torch.stack([z, y, x], dim=-4)


def canonical_orientation(ed: Float[Tensor, "3 z y x"], frames: Float[Tensor, "z y x"]) -> CanonicalOrientation:
    """Determine the canonical orientation by the positions of both ventricles.

    Args:
        ed: Probabilities of left ventricle, myocardium and right ventricle at ED on the grid of 3 mm.
        frames: The largest probability of heart of any frame, on the same grid.
    """
    lv, rv = ed[:2].sum(0), ed[2]
    dy, dx = (_centre(rv, axis) - _centre(lv, axis) for axis in (1, 2))
    # In quarter turns that bring the direction of the right ventricle to low x.
    turns = (2 if dx > 0 else 0) if abs(dx) >= abs(dy) else (3 if dy > 0 else 1)
    areas = (ed[0] + ed[2]).sum((1, 2))
    slices = torch.arange(len(areas), dtype=areas.dtype)
    shown = areas > 0
    middle = slices[shown].mean() if bool(shown.any()) else slices.mean()
    profile = torch.rot90(frames.amax(0), turns)
    rows, columns = (_extent(profile, axis) for axis in (1, 0))
    size = min(profile.shape)
    if max(last - first for first, last in (rows, columns)) + 1 + 2 * CROP_MARGIN <= CROP < size:
        size = CROP
    first_row, first_column = (
        min(max((first + last + 1 - size) // 2, 0), count - size)
        for (first, last), count in zip((rows, columns), profile.shape, strict=True)
    )
    return CanonicalOrientation(
        turns=turns,
        reverse_slices=float((areas * (slices - middle)).sum()) < 0,
        top=first_row,
        left=first_column,
        size=size,
    )


def _centre(probability: Float[Tensor, "z y x"], axis: int) -> float:
    profile = probability.sum(tuple({0, 1, 2} - {axis}))
    position = torch.arange(len(profile), dtype=profile.dtype)
    return float((profile * position).sum() / profile.sum().clamp_min(1e-6))


def _extent(profile: Float[Tensor, "y x"], axis: int) -> tuple[int, int]:
    """Return the first and the last row (axis 1) or column (axis 0) that shows the heart."""
    shown = (profile.amax(axis) > 0.5).nonzero()[:, 0]
    return (int(shown[0]), int(shown[-1])) if len(shown) else (0, profile.shape[1 - axis] - 1)


def estimate_posteriors(
    network: ShapeMotionNet,
    voxels: Sequence[Float[Tensor, "z y x"]],
    probabilities: Sequence[Float[Tensor, "k z y x"]],
    spacing: Spacing,
) -> list[MotionPosterior]:
    """Estimate the posterior of the velocity of every frame of a cycle, from the one after ED on; the last is ED.

    The velocities are on half the in-plane resolution of the window and in voxels of that grid. The mean velocities of
    a whole cycle are projected to a few harmonics of the cycle that are 0 at ED, since the heart moves smoothly; that
    of ED remains the network's estimate, by which the consistency of the cycle is judged.

    Args:
        network: A trained ShapeMotionNet.
        voxels: Normalised images of the frames from ED on, in the window of SegNet.
        probabilities: SegNet's class probabilities of the frames from ED on, in its window.
        spacing: Voxel spacing of the window in mm; half the in-plane resolution must be the network's 3 mm.
    """
    assert math.isclose(2.0 * spacing.y, PIXEL_MM, rel_tol=1e-3), "the window has the spacing of the network"
    coarse = torch.stack(
        [functional.avg_pool2d(frame[Label.LV :].movedim(0, 1), 2).movedim(0, 1) for frame in probabilities]
    )
    orientation = canonical_orientation(coarse[0], coarse.sum(1).amax(0))
    shapes = orientation.crop(coarse).to(next(network.parameters()).device)
    order = [*range(1, len(shapes)), 0]
    posteriors = [network(torch.stack([shapes[0], shapes[t]]), spacing.z) for t in order]
    like = coarse[0, 0, 0]
    means = orientation.restore_vectors(
        torch.stack([posterior.mean.movedim(0, 1).cpu() for posterior in posteriors]), like
    )
    stacks = Stacks((len(voxels[0]),))
    ed = _image_and_structures(voxels[0], probabilities[0])
    ed_features = network.rotation.features(ed, locate_lv(ed, stacks))
    for mean, t in zip(means, order[:-1], strict=False):
        mean += rotation_correction(network, ed_features, _image_and_structures(voxels[t], probabilities[t]), mean)
    means[:-1] = project_to_harmonics(means[:-1], count=network.sizes.harmonics)
    return [
        MotionPosterior(
            mean=mean.movedim(0, 1),
            log_variance=orientation.restore(posterior.log_variance.movedim(0, 1).cpu(), like).movedim(0, 1),
            factor=orientation.restore_vectors(posterior.factor.movedim(0, -3).movedim(0, 1).cpu(), like)
            .movedim(1, 0)
            .movedim(-3, 0),
        )
        for mean, posterior in zip(means, posteriors, strict=True)
    ]


def _image_and_structures(image: Float[Tensor, "z y x"], frame: Float[Tensor, "k z y x"]) -> Float[Tensor, "z c y x"]:
    return torch.cat([image[None], frame[Label.LV :]]).movedim(0, 1)


def rotation_correction(
    network: ShapeMotionNet,
    ed: Float[Tensor, "z k r a"],
    frame: Float[Tensor, "z c y x"],
    velocity: Float[Tensor, "3 z yh xh"],
) -> Float[Tensor, "3 z yh xh"]:
    """Return the velocity that rotates each slice as RotationNet sees it in the images, beyond the rotation so far.

    Args:
        network: A trained ShapeMotionNet.
        ed: Features of ED by RotationNet.
        frame: Image and probabilities of the structures of the frame.
        velocity: Velocity of the frame that was estimated from the shapes, at half the in-plane resolution.
    """
    stacks = Stacks((len(frame),))
    lv = locate_lv(frame, stacks)
    angle = network.rotation.angle(network.rotation.features(frame, lv), ed, stacks)
    displacement = exponential(velocity[None], steps=WARP_SQUARINGS)[0]
    wall = functional.avg_pool2d(frame[:, Label.LV] + frame[:, Label.MYO], 2)
    size = (int(velocity.shape[2]), int(velocity.shape[3]))
    return rotation_velocity(angle - mean_rotation(displacement, wall), lv, size, scale=2).movedim(0, 1)


def project_to_harmonics(velocities: Float[Tensor, "t 3 z y x"], *, count: int) -> Float[Tensor, "t 3 z y x"]:
    """Project the velocities of a closed cycle to the nearest sum of harmonics that is 0 at ED.

    The k-th harmonic contributes cos(2πkt/T) − 1 and sin(2πkt/T).

    Args:
        velocities: Velocities of all frames but ED, from the one after ED on.
        count: Number of harmonics; short cycles have fewer, and those of less than two are not changed.
    """
    frames = len(velocities) + 1
    count = min(count, len(velocities) // FRAMES_PER_HARMONIC)
    if count < MIN_HARMONICS:
        return velocities
    angle = 2.0 * math.pi * torch.arange(1, frames, dtype=torch.float64) / frames
    basis = torch.stack(
        [curve for k in range(1, count + 1) for curve in ((k * angle).cos() - 1.0, (k * angle).sin())], dim=1
    )
    projection = (basis @ torch.linalg.pinv(basis)).to(velocities.dtype)
    projected: Tensor = torch.tensordot(projection, velocities, dims=1)
    return projected
