"""RotationNet: the rotation of each slice about the long axis, which segmentations hardly constrain."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.layers import StackConv, Stacks, leaky_relu

DIRECTIONS = 72
"""Number of directions of the polar grid, 5° apart."""

RINGS = tuple(0.25 + 0.125 * ring for ring in range(13))
"""Radii of the polar grid as fractions of the epicardial radius."""

MAX_SHIFT = 8
"""Largest rotation that is considered, in directions of the polar grid: 40°, more than the twist of any ventricle."""

ROTATION_DECAY_START = 1.2
"""Fraction of the epicardial radius from which the rotation decays as a Gaussian of the distance."""

ROTATION_DECAY_SD = 0.6
"""Standard deviation of that Gaussian, as a fraction of the epicardial radius."""

CENTRE_PRIOR_VOXELS = 20.0
"""Weight, in voxels, of the whole ventricle's centre in the estimate of a slice's centre."""

MIN_RADIUS = 3.0
"""Lower bound of the epicardial radius, in voxels."""

POLAR_FEATURES = 16
"""Number of feature channels on the polar grid."""

INITIAL_SHARPNESS = 10.0
"""Initial factor of the mean correlation before the softmax over rotations."""


@dataclass(frozen=True, slots=True, eq=False)
class LVLocation:
    """Location of the left ventricle in each slice, in voxels.

    Attributes:
        centre: Centre (y, x) of the ventricle.
        radius: Epicardial radius, of the circle with the area of cavity and wall.
        presence: Close to 1 in slices with a ventricle, 0 in slices without.
    """

    centre: Float[Tensor, "n 2"]
    radius: Float[Tensor, " n"]
    presence: Float[Tensor, " n"]

    def subset(self, first: int, end: int) -> "LVLocation":
        """Return the location in the slices from ``first`` to ``end - 1``."""
        return LVLocation(self.centre[first:end], self.radius[first:end], self.presence[first:end])


def locate_lv(frame: Float[Tensor, "n c y x"], stacks: Stacks) -> LVLocation:
    """Locate the left ventricle by SegNet's probabilities.

    Args:
        frame: The image in the first channel, followed by the probabilities of the structures.
        stacks: The stacks to which the slices belong.
    """
    lv = (frame[:, Label.LV] + frame[:, Label.MYO]).float()
    rows, columns = (torch.arange(size, device=lv.device).float() for size in lv.shape[1:])
    area = lv.sum((1, 2))
    moment = torch.stack([(lv.sum(2) * rows).sum(1), (lv.sum(1) * columns).sum(1)], dim=1)
    whole = torch.cat([_mean_centre(moment[a:b], area[a:b], lv) for a, b in stacks.spans()])
    return LVLocation(
        centre=(moment + CENTRE_PRIOR_VOXELS * whole) / (area + CENTRE_PRIOR_VOXELS)[:, None],
        radius=(area / math.pi).sqrt().clamp_min(MIN_RADIUS),
        presence=area / (area + CENTRE_PRIOR_VOXELS),
    )


def _mean_centre(moment: Float[Tensor, "z 2"], area: Float[Tensor, " z"], lv: Tensor) -> Float[Tensor, "z 2"]:
    """Return the centre of a stack's ventricle for each slice, or the image centre where there is no ventricle."""
    middle = torch.tensor(lv.shape[1:], device=lv.device) / 2.0
    centre = (moment.sum(0) + middle) / (area.sum() + 1.0)
    return centre.expand(len(area), 2)


def resample_polar(frame: Float[Tensor, "n c y x"], lv: LVLocation) -> Float[Tensor, "n c r a"]:
    """Resample each slice on a polar grid about the long axis, scaled by the epicardial radius.

    Directions are counted from axis x towards axis y.
    """
    radians = torch.arange(DIRECTIONS, device=frame.device) * (2.0 * math.pi / DIRECTIONS)
    distance = torch.tensor(RINGS, device=frame.device)[:, None] * lv.radius[:, None, None]
    y = distance * radians.sin() + lv.centre[:, 0, None, None]
    x = distance * radians.cos() + lv.centre[:, 1, None, None]
    height, width = frame.shape[2:]
    grid = torch.stack([2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0], dim=-1)
    return functional.grid_sample(frame.float(), grid, padding_mode="border", align_corners=True)


def rotation_velocity(
    angle: Float[Tensor, " n"], lv: LVLocation, size: tuple[int, int], *, scale: int
) -> Float[Tensor, "n 3 y x"]:
    """Compute the velocity that rotates each slice about the ventricle's centre and decays outside of it.

    Args:
        angle: Rotation of each slice in radians, from axis x towards axis y.
        lv: Location of the left ventricle, in voxels of the image.
        size: In-plane size of the velocity's grid, in voxels.
        scale: Size of the velocity's voxels in voxels of the image.
    """
    y, x = (
        (torch.arange(count, device=angle.device) + 0.5) * scale - 0.5 - lv.centre[:, axis, None]
        for axis, count in enumerate(size)
    )
    y, x = y[:, :, None], x[:, None, :]
    distance = (y.square() + x.square()).sqrt() / lv.radius[:, None, None]
    decay = torch.exp(-0.5 * ((distance - ROTATION_DECAY_START).clamp_min(0.0) / ROTATION_DECAY_SD).square())
    rate = (angle * lv.presence / scale)[:, None, None] * decay
    return torch.stack([torch.zeros_like(rate), rate * x, -rate * y], dim=1)


def mean_rotation(displacement: Float[Tensor, "3 n y x"], weight: Float[Tensor, "n y x"]) -> Float[Tensor, " n"]:
    """Compute the angle by which a displacement rotates each slice, in radians from axis x towards axis y.

    It is the angle of the similarity transform with the least weighted squared error (Umeyama, IEEE TPAMI 13(4), 1991).

    Args:
        displacement: Displacement in voxels.
        weight: Weight of each voxel, for instance the probability of the left ventricle.
    """
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1.0)
    rows, columns = (torch.arange(count, device=weight.device).float() for count in weight.shape[1:])
    y, x = (_centred(position.expand_as(weight), weight) for position in (rows[:, None], columns[None]))
    to_y, to_x = (position + _centred(displacement[axis], weight) for axis, position in ((1, y), (2, x)))
    return torch.atan2((weight * (x * to_y - y * to_x)).sum((1, 2)), (weight * (x * to_x + y * to_y)).sum((1, 2)))


def _centred(values: Float[Tensor, "n y x"], weight: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
    """Subtract the weighted mean of each slice."""
    return values - (weight * values).sum((1, 2), keepdim=True)


class RotationNet(nn.Module):
    """Estimates the rotation of each slice about the long axis between the fixed and the moving frame.

    Both frames are resampled on polar grids that scale with the ventricle, on which a rotation is a circular shift. The
    same network computes the features of both, without any dependence on the direction; their circular correlation over
    all shifts is processed together with that of the neighbouring slices. The network is trained on the known rotation
    of simulated cines and, with all other parts, on the segmentations; no loss term compares the two images.

    Args:
        channels_in: Channels of one frame: the image, followed by SegNet's probabilities of the structures.
    """

    def __init__(self, *, channels_in: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, POLAR_FEATURES, 3)
        self.second = nn.Conv2d(POLAR_FEATURES, POLAR_FEATURES, 3)
        self.rings = StackConv(len(RINGS) - 4, POLAR_FEATURES)
        self.shifts = StackConv(POLAR_FEATURES, 1)
        self.sharpness = nn.Parameter(torch.tensor(INITIAL_SHARPNESS))

    def forward(
        self, moving: Float[Tensor, "n c y x"], fixed: Float[Tensor, "n c y x"], lv: LVLocation, stacks: Stacks
    ) -> Float[Tensor, " n"]:
        """Return the angle in radians, from axis x towards axis y, by which ``fixed`` is rotated into ``moving``.

        Args:
            moving: The frame into which the rotation points.
            fixed: The frame on which it is defined.
            lv: Location of the left ventricle in ``fixed``.
            stacks: The stacks to which the slices belong.
        """
        return self.angle(self.features(fixed, lv), self.features(moving, locate_lv(moving, stacks)), stacks)

    def angle(
        self, fixed: Float[Tensor, "n k r a"], moving: Float[Tensor, "n k r a"], stacks: Stacks
    ) -> Float[Tensor, " n"]:
        """Return the angle in radians between two frames, given the features of both."""
        correlation = circular_correlation(fixed, moving, max_shift=MAX_SHIFT)
        logits = self.shifts(leaky_relu(self.rings(correlation[:, :, None], stacks)), stacks)[:, 0, 0]
        probability = (logits + self.sharpness * correlation.mean(1)).softmax(dim=1)
        angles = torch.arange(-MAX_SHIFT, MAX_SHIFT + 1, device=probability.device) * (2.0 * math.pi / DIRECTIONS)
        expected: Tensor = (probability * angles).sum(1)
        return expected

    def features(self, frame: Float[Tensor, "n c y x"], lv: LVLocation) -> Float[Tensor, "n k r a"]:
        """Return the features of a frame on the polar grid about its left ventricle."""
        polar = resample_polar(frame, lv)
        features: Tensor = self.second(_pad_circular(leaky_relu(self.first(_pad_circular(polar)))))
        return features


def _pad_circular(polar: Float[Tensor, "n c r a"]) -> Float[Tensor, "n c r ao"]:
    """Pad one direction circularly at both ends."""
    return functional.pad(polar, (1, 1, 0, 0), mode="circular")


def circular_correlation(
    fixed: Float[Tensor, "n k r a"], moving: Float[Tensor, "n k r a"], *, max_shift: int
) -> Float[Tensor, "n r s"]:
    """Correlate every ring with the same ring of the other frame, shifted by −max_shift … max_shift directions.

    The mean over all directions is removed from both.
    """
    fixed, moving = (rings - rings.mean(3, keepdim=True) for rings in (fixed, moving))
    energy = fixed.square().sum((1, 3)) * moving.square().sum((1, 3))
    products = [(fixed * moving.roll(-shift, 3)).sum((1, 3)) for shift in range(-max_shift, max_shift + 1)]
    return torch.stack(products, dim=2) / (energy + 1e-6).sqrt()[:, :, None]
