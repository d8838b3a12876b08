"""The rotation of each slice about the long axis, which shape hardly shows."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.layers import StackConv, Stacks, leaky

ANGLES = 72
"""Directions in which a slice is seen from the long axis."""

RINGS = tuple(0.25 + 0.125 * ring for ring in range(13))
"""Distances from the long axis at which it is seen, as shares of the epicardial radius."""

LARGEST_SHIFT = 8
"""Directions by which a slice may have turned: 40°, more than any heart twists."""

FADES_FROM = 1.2
FADES_OVER = 0.6
"""From the first share of the epicardial radius on, a rotation fades as a Gaussian this wide."""

FEW_VOXELS = 20.0
"""A slice with less ventricle than this is seen from where the whole ventricle lies."""

SMALLEST_RADIUS = 3.0
FEATURES = 16
AT_FIRST = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class LVLocation:
    """Where the left ventricle lies in each slice, in voxels.

    Attributes:
        centre: y and x.
        radius: Of the circle with the area of cavity and wall.
        presence: Almost 1 where there is a ventricle, 0 where there is none.
    """

    centre: Float[Tensor, "n 2"]
    radius: Float[Tensor, " n"]
    presence: Float[Tensor, " n"]

    def of(self, first: int, end: int) -> "LVLocation":
        """Of the slices from ``first`` to the one before ``end``."""
        return LVLocation(self.centre[first:end], self.radius[first:end], self.presence[first:end])


def locate_lv(frame: Float[Tensor, "n c y x"], stacks: Stacks) -> LVLocation:
    """Find the left ventricle in a frame whose channels hold SegNet's probabilities behind the image."""
    heart = (frame[:, Label.LV] + frame[:, Label.MYO]).float()
    rows, columns = (torch.arange(size, device=heart.device).float() for size in heart.shape[1:])
    area = heart.sum((1, 2))
    moment = torch.stack([(heart.sum(2) * rows).sum(1), (heart.sum(1) * columns).sum(1)], dim=1)
    whole = torch.cat([_mean_centre(moment[a:b], area[a:b], heart) for a, b in stacks.spans()])
    return LVLocation(
        centre=(moment + FEW_VOXELS * whole) / (area + FEW_VOXELS)[:, None],
        radius=(area / math.pi).sqrt().clamp_min(SMALLEST_RADIUS),
        presence=area / (area + FEW_VOXELS),
    )


def _mean_centre(moment: Float[Tensor, "z 2"], area: Float[Tensor, " z"], plane: Tensor) -> Float[Tensor, "z 2"]:
    """The centre of the whole ventricle, for each slice; the plane's middle where there is none."""
    middle = torch.tensor(plane.shape[1:], device=plane.device) / 2.0
    centre = (moment.sum(0) + middle) / (area.sum() + 1.0)
    return centre.expand(len(area), 2)


def polar(frame: Float[Tensor, "n c y x"], place: LVLocation) -> Float[Tensor, "n c r a"]:
    """A frame as it is seen from the long axis: by distance, as a share of the radius, and direction.

    Directions are counted from axis x towards axis y.
    """
    radians = torch.arange(ANGLES, device=frame.device) * (2.0 * math.pi / ANGLES)
    distance = torch.tensor(RINGS, device=frame.device)[:, None] * place.radius[:, None, None]
    y = distance * radians.sin() + place.centre[:, 0, None, None]
    x = distance * radians.cos() + place.centre[:, 1, None, None]
    height, width = frame.shape[2:]
    grid = torch.stack([2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0], dim=-1)
    return functional.grid_sample(frame.float(), grid, padding_mode="border", align_corners=True)


def rotation_velocity(
    angle: Float[Tensor, " n"], place: LVLocation, size: tuple[int, int], *, scale: int
) -> Float[Tensor, "n 3 y x"]:
    """The velocity that rotates each slice about its centre, and fades outside of the heart.

    Args:
        angle: In radians, from axis x towards axis y.
        place: Of the heart, in voxels of the full plane.
        size: Of the velocity's plane.
        scale: Voxels of the full plane in one of the velocity's.
    """
    y, x = (
        (torch.arange(count, device=angle.device) + 0.5) * scale - 0.5 - place.centre[:, axis, None]
        for axis, count in enumerate(size)
    )
    y, x = y[:, :, None], x[:, None, :]
    share = (y.square() + x.square()).sqrt() / place.radius[:, None, None]
    fading = torch.exp(-0.5 * ((share - FADES_FROM).clamp_min(0.0) / FADES_OVER).square())
    rate = (angle * place.presence / scale)[:, None, None] * fading
    return torch.stack([torch.zeros_like(rate), rate * x, -rate * y], dim=1)


def mean_rotation(displacement: Float[Tensor, "3 n y x"], heart: Float[Tensor, "n y x"]) -> Float[Tensor, " n"]:
    """By which angle a displacement turns each slice, in radians from axis x towards axis y.

    The angle of the rotation and scaling that comes nearest to it in the mean square, with every voxel weighted by its
    share of heart (Umeyama, IEEE TPAMI 13(4), 1991, in the plane).
    """
    share = heart / heart.sum((1, 2), keepdim=True).clamp_min(1.0)
    rows, columns = (torch.arange(count, device=heart.device).float() for count in heart.shape[1:])
    y, x = (_centred(place.expand_as(heart), share) for place in (rows[:, None], columns[None]))
    to_y, to_x = (place + _centred(displacement[axis], share) for axis, place in ((1, y), (2, x)))
    return torch.atan2((share * (x * to_y - y * to_x)).sum((1, 2)), (share * (x * to_x + y * to_y)).sum((1, 2)))


def _centred(values: Float[Tensor, "n y x"], share: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
    return values - (share * values).sum((1, 2), keepdim=True)


class RotationNet(nn.Module):
    """By which angle each slice has turned about the long axis since the frame before.

    Both frames are seen from the long axis, on rings that shrink with the ventricle, so that a rotation is a shift.
    Learnt features are the same for both frames and know no direction; their correlation over all shifts is read with
    that of the slices above and below. Nothing is asked of it but the known motion of made cines and the shape that all
    motion must show: no loss compares images.

    Args:
        channels_in: Of one frame: its image, and SegNet's probabilities behind it.
    """

    def __init__(self, *, channels_in: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, FEATURES, 3)
        self.second = nn.Conv2d(FEATURES, FEATURES, 3)
        self.rings = StackConv(len(RINGS) - 4, FEATURES)
        self.shifts = StackConv(FEATURES, 1)
        self.sharpness = nn.Parameter(torch.tensor(AT_FIRST))

    def forward(
        self, previous: Float[Tensor, "n c y x"], current: Float[Tensor, "n c y x"], here: LVLocation, stacks: Stacks
    ) -> Float[Tensor, " n"]:
        """Radians, from axis x towards axis y, by which ``current`` points into ``previous``; ``here`` is of it."""
        there = locate_lv(previous, stacks)
        alike = circular_correlation(
            self._features(polar(current, here)), self._features(polar(previous, there)), reach=LARGEST_SHIFT
        )
        read = self.shifts(leaky(self.rings(alike[:, :, None], stacks)), stacks)[:, 0, 0]
        share = (read + self.sharpness * alike.mean(1)).softmax(dim=1)
        shift = torch.arange(-LARGEST_SHIFT, LARGEST_SHIFT + 1, device=share.device) * (2.0 * math.pi / ANGLES)
        found: Tensor = (share * shift).sum(1)
        return found

    def _features(self, seen: Float[Tensor, "n c r a"]) -> Float[Tensor, "n k ri a"]:
        features: Tensor = self.second(_round(leaky(self.first(_round(seen)))))
        return features


def _round(seen: Float[Tensor, "n c r a"]) -> Float[Tensor, "n c r ao"]:
    """Go on by one direction at both ends, as a circle does."""
    return functional.pad(seen, (1, 1, 0, 0), mode="circular")


def circular_correlation(
    here: Float[Tensor, "n k r a"], there: Float[Tensor, "n k r a"], *, reach: int
) -> Float[Tensor, "n r s"]:
    """Correlation of every ring with the other's ring turned by −reach … reach directions.

    What is the same in all directions counts for nothing.
    """
    here, there = (seen - seen.mean(3, keepdim=True) for seen in (here, there))
    energy = here.square().sum((1, 3)) * there.square().sum((1, 3))
    alike = [(here * there.roll(-shift, 3)).sum((1, 3)) for shift in range(-reach, reach + 1)]
    return torch.stack(alike, dim=2) / (energy + 1e-6).sqrt()[:, :, None]
