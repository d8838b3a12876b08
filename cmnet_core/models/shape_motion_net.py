"""ShapeMotionNet: the motion from end-diastole to a frame, estimated from the shape of the heart in both.

The network takes the label maps of end-diastole (ED) and of a frame and returns the posterior of a stationary velocity
field v in three dimensions. exp(v) is defined on the frame and points into ED; exp(−v) is its inverse. No image is an
input: a network that knows shapes alone can be trained on closed-form label maps, whose motion is known exactly, and
applies to every scanner whose images can be segmented.

The estimate has two parts. ThroughPlaneNet estimates the mean through-plane velocity of each slice from the areas of
the left ventricle; ResidualNet then corrects the velocity in cascade iterations (Zhao et al., ICCV 2019), in each of
which the label map of ED is warped by the current velocity.

All inputs are on a grid of 3 mm in-plane and in the canonical orientation: the basal slice is the last one, and the
right ventricle is on the side of low x.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.models.rotation_net import RotationNet
from cmnet_core.registration.displacement import exponential, warp

PIXEL_MM = 3.0
"""In-plane voxel size of the label maps and of the velocity, in mm."""

VELOCITY_SCALE_MM = 5.0
"""Velocity in mm that corresponds to an output of 1."""

STILL_BORDER = 3
"""Number of voxels at the border of the window over which the velocity falls to 0."""

STRUCTURES = 3
"""Number of label probabilities of a frame: left ventricle, myocardium, right ventricle."""

WARP_SQUARINGS = 4
"""Number of squarings of the velocities by which ED is warped within the cascade."""

MIN_AREA_VOXELS = 8.0
"""Area of the left ventricle from which a slice counts as one of its slices, in voxels."""

MAX_LOG_VARIANCE = 8.0
"""Bound of the absolute log variance of the velocity, in voxels²."""


@dataclass(frozen=True, slots=True)
class ShapeMotionSizes:
    """Sizes of ShapeMotionNet.

    Attributes:
        fine: Channels on the grid of 6 mm.
        middle: Channels on the grid of 12 mm.
        coarse: Channels on the grid of 24 mm.
        blocks: Number of residual blocks on the grid of 24 mm.
        stack: Channels of ThroughPlaneNet.
        iterations: Number of cascade iterations.
        rank: Number of columns of the posterior's low-rank factor V.
        harmonics: Number of harmonics of the cardiac cycle to which the velocities of a cycle are projected.
        integration_steps: Number of squarings by which the velocity is integrated.
        kind: Name of the architecture on model cards.
    """

    fine: int = 32
    middle: int = 64
    coarse: int = 96
    blocks: int = 3
    stack: int = 64
    iterations: int = 2
    rank: int = 2
    harmonics: int = 4
    integration_steps: int = 6
    kind: Literal["shape"] = "shape"

    @property
    def output_level(self) -> int:
        """Level of the velocity's grid: half the in-plane resolution of SegNet's window."""
        return 1

    @property
    def ed_referenced(self) -> bool:
        """Whether the velocity of every frame points into ED."""
        return True


class ThroughPlaneNet(nn.Module):
    """Estimates the mean through-plane velocity of each slice from the areas of the left ventricle.

    When the base descends towards the apex, each slice shows, at end-systole, wall that was in a more basal slice at
    ED, so that the areas of cavity and myocardium over the slices determine the descent. Areas depend little on the
    style of contouring.

    Args:
        width: Channels of the hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(5, width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=4, dilation=2)
        self.third = nn.Conv1d(width, width, 5, padding=8, dilation=4)
        self.head = nn.Conv1d(width, 1, 1)

    def forward(self, areas: Float[Tensor, "b 4 z"], slice_mm: Float[Tensor, " b"]) -> Float[Tensor, "b z"]:
        """Return the velocity of each slice in mm, positive towards the base.

        Args:
            areas: Areas of cavity and myocardium at ED and at the frame, in 10 cm²; the basal slice is the last.
            slice_mm: Distance between slices in mm.
        """
        spacing = (slice_mm / 10.0).view(-1, 1, 1).expand(-1, 1, areas.shape[2])
        hidden = functional.gelu(self.first(torch.cat([areas, spacing], dim=1)))
        hidden = hidden + functional.gelu(self.second(hidden))
        hidden = hidden + functional.gelu(self.third(hidden))
        velocity: Tensor = self.head(hidden)
        return VELOCITY_SCALE_MM * velocity[:, 0]


def lv_areas(shapes: Float[Tensor, "2 3 z y x"]) -> Float[Tensor, "4 z"]:
    """Compute the areas of cavity and myocardium at ED and at the frame in each slice, in 10 cm²."""
    return shapes[:, :2].sum((3, 4)).flatten(0, 1) * (PIXEL_MM**2 / 1000.0)


class RootMeanSquareNorm(nn.Module):
    """Divides the channels of each voxel by their root mean square (Zhang and Sennrich, NeurIPS 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, maps: Float[Tensor, "z c y x"]) -> Float[Tensor, "z c y x"]:
        return maps * (maps.square().mean(1, keepdim=True) + 1e-5).rsqrt() * self.gain


class SliceBlock(nn.Module):
    """A residual block: a 3×3 convolution in each slice, then a product with the slice and two neighbours.

    On CPUs this is four times as fast as a convolution in three dimensions.

    Args:
        channels: Channels of the input and of the output.
        distance: Distance of the two neighbouring slices, in slices.
    """

    def __init__(self, channels: int, distance: int) -> None:
        super().__init__()
        self.dilation = distance
        self.norm = RootMeanSquareNorm(channels)
        self.plane = nn.Conv2d(channels, channels, 3, padding=1)
        self.stack = nn.Conv2d(3 * channels, channels, 1)
        nn.init.zeros_(self.stack.weight)
        assert self.stack.bias is not None, "a convolution has a bias by default"
        nn.init.zeros_(self.stack.bias)

    def forward(self, maps: Float[Tensor, "z c y x"]) -> Float[Tensor, "z c y x"]:
        hidden: Tensor = functional.silu(self.plane(self.norm(maps)))
        padded = functional.pad(hidden, (0, 0, 0, 0, 0, 0, self.dilation, self.dilation))
        beside = torch.cat([padded[: len(maps)], hidden, padded[2 * self.dilation :]], dim=1)
        out: Tensor = maps + self.stack(beside)
        return out


class ResidualNet(nn.Module):
    """Predicts the residual velocity: a U-Net on grids of 6, 12 and 24 mm; all levels have all slices.

    Args:
        sizes: Sizes of the network.
    """

    def __init__(self, sizes: ShapeMotionSizes) -> None:
        super().__init__()
        a, b, c = sizes.fine, sizes.middle, sizes.coarse
        # Folded 2 × 2: both label maps, ED warped, and the velocity. As they are: position and distance between slices.
        self.stem = nn.Conv2d(4 * (3 * STRUCTURES + 3) + 6, a, 3, padding=1)
        self.first = SliceBlock(a, 1)
        self.down = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.second = SliceBlock(b, 1)
        self.deeper = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.third = nn.Sequential(*(SliceBlock(c, 2 ** min(k, 2)) for k in range(sizes.blocks)))
        self.up = nn.Conv2d(c + b, b, 1)
        self.fourth = nn.Sequential(SliceBlock(b, 2), SliceBlock(b, 1))
        self.finer = nn.Conv2d(b + a, a, 1)
        self.fifth = nn.Sequential(SliceBlock(a, 1), SliceBlock(a, 1))
        self.head = nn.Conv2d(a, 12, 3, padding=1)
        # The initial residual is almost zero, so that every warp has a useful gradient.
        nn.init.normal_(self.head.weight, std=1e-3)
        assert self.head.bias is not None, "a convolution has a bias by default"
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Float[Tensor, "z c y x"]) -> tuple[Float[Tensor, "3 z yo xo"], Float[Tensor, "z a y x"]]:
        """Return the residual velocity on the grid of 3 mm, and the features from which it was predicted."""
        fine = self.first(self.stem(inputs))
        middle = self.second(self.down(fine))
        coarse = self.third(self.deeper(middle))
        middle = self.fourth(self.up(torch.cat([_upsample(coarse), middle], dim=1)))
        features = functional.silu(self.fifth(self.finer(torch.cat([_upsample(middle), fine], dim=1))))
        return functional.pixel_shuffle(self.head(features).float(), 2).movedim(1, 0), features


def _upsample(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2.0, mode="nearest")


class PosteriorHead(nn.Module):
    """Predicts the covariance σ² I + V Vᵀ of the velocity of each voxel, in voxels of the velocity's grid.

    Args:
        channels: Channels of the features.
        rank: Number of columns of V.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.conv = nn.Conv2d(channels, 4 * (1 + 3 * rank), 3, padding=1)
        nn.init.normal_(self.conv.weight, std=1e-3)
        assert self.conv.bias is not None, "a convolution has a bias by default"
        nn.init.zeros_(self.conv.bias)
        with torch.no_grad():
            self.conv.bias[:4] = -1.0 / MAX_LOG_VARIANCE

    def forward(
        self, features: Float[Tensor, "z a y x"]
    ) -> tuple[Float[Tensor, "z 1 yo xo"], Float[Tensor, "z 3 r yo xo"]]:
        """Return log σ² and V."""
        maps = functional.pixel_shuffle(self.conv(features).float(), 2)
        log_variance = MAX_LOG_VARIANCE * torch.tanh(maps[:, :1])
        return log_variance, torch.unflatten(maps[:, 1:], 1, (3, self.rank))


class ShapeMotionNet(nn.Module):
    """Estimates the posterior of the velocity from the label maps of ED and of a frame.

    Args:
        sizes: Sizes of the network.
    """

    def __init__(self, sizes: ShapeMotionSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.through_plane = ThroughPlaneNet(sizes.stack)
        self.residual = ResidualNet(sizes)
        self.posterior_head = PosteriorHead(sizes.fine, sizes.rank)
        self.rotation = RotationNet(channels_in=1 + STRUCTURES)
        self.register_buffer("taps", torch.tensor([0.125, 0.75, 0.125]), persistent=False)

    def forward(self, shapes: Float[Tensor, "2 3 z y x"], slice_mm: float) -> MotionPosterior:
        """Estimate the posterior of the velocity, in voxels of the grid of 3 mm.

        Args:
            shapes: Probabilities of left ventricle, myocardium and right ventricle at ED and at the frame.
            slice_mm: Distance between slices in mm.
        """
        start = self.start(shapes, slice_mm)
        *_, (velocity_mm, features) = self.iterate(start, shapes, slice_mm)
        log_variance, factor = self.posterior_head(features)
        return MotionPosterior((velocity_mm / voxel_mm(slice_mm, shapes)).movedim(1, 0), log_variance, factor)

    def start(self, shapes: Float[Tensor, "2 3 z y x"], slice_mm: float) -> Float[Tensor, "3 z y x"]:
        """Return the mean through-plane velocity of each slice in mm, which decays outside of the heart."""
        velocity = self.through_plane(lv_areas(shapes)[None], shapes.new_tensor([slice_mm]))[0]
        through_plane = (velocity[:, None, None] * _decay_around_heart(shapes))[None]
        return torch.cat([through_plane, torch.zeros_like(shapes[0, :2])]) * _still_border(shapes)

    def iterate(
        self, velocity_mm: Float[Tensor, "3 z y x"], shapes: Float[Tensor, "2 3 z y x"], slice_mm: float
    ) -> Iterator[tuple[Float[Tensor, "3 z y x"], Float[Tensor, "z a y2 x2"]]]:
        """Yield the velocity in mm after each cascade iteration, with the features from which it was predicted.

        Each iteration starts from the velocity before it without its gradient.
        """
        for _ in range(self.sizes.iterations):
            velocity_mm = velocity_mm.detach()
            with torch.no_grad():
                field = exponential((velocity_mm / voxel_mm(slice_mm, shapes))[None], steps=WARP_SQUARINGS)
                warped = warp(shapes[:1], field)[0]
            velocity_mm, features = self.correct(velocity_mm, shapes, warped, slice_mm)
            yield velocity_mm, features

    def correct(
        self,
        velocity_mm: Float[Tensor, "3 z y x"],
        shapes: Float[Tensor, "2 3 z y x"],
        warped: Float[Tensor, "3 z y x"],
        slice_mm: float,
    ) -> tuple[Float[Tensor, "3 z y x"], Float[Tensor, "z a y2 x2"]]:
        """Add the residual velocity between ED, warped by the current velocity, and the frame."""
        maps = torch.cat([shapes.flatten(0, 1), warped, velocity_mm / VELOCITY_SCALE_MM])
        folded = functional.pixel_unshuffle(maps.movedim(1, 0), 2)
        residual, features = self.residual(torch.cat([folded, _positions(shapes, slice_mm)], dim=1))
        return velocity_mm + VELOCITY_SCALE_MM * self._smooth(residual) * _still_border(shapes), features

    def _smooth(self, velocity: Float[Tensor, "3 z y x"]) -> Float[Tensor, "3 z y x"]:
        """Smooth in-plane by a short binomial filter: neighbouring voxels are predicted by different channels."""
        taps = self.get_buffer("taps")
        padded = functional.pad(velocity, (1, 1, 1, 1), mode="replicate")
        rows = taps[0] * (padded[..., :-2] + padded[..., 2:]) + taps[1] * padded[..., 1:-1]
        return taps[0] * (rows[..., :-2, :] + rows[..., 2:, :]) + taps[1] * rows[..., 1:-1, :]


def voxel_mm(slice_mm: float, like: Tensor) -> Float[Tensor, "3 1 1 1"]:
    """Return the voxel size of the velocity's grid in mm."""
    return like.new_tensor([slice_mm, PIXEL_MM, PIXEL_MM]).view(3, 1, 1, 1)


def _decay_around_heart(shapes: Float[Tensor, "2 3 z y x"]) -> Float[Tensor, "y x"]:
    """Return 1 where any slice shows the heart, decaying to 0 over about 3 cm around it."""
    heart = (shapes.sum((0, 1, 2)) > 0.5).float()[None, None]
    decay: Tensor = functional.max_pool2d(heart, 7, 1, 3)
    for _ in range(3):
        decay = functional.avg_pool2d(decay, 7, 1, 3)
    return decay[0, 0]


def _still_border(like: Float[Tensor, "2 3 z y x"]) -> Float[Tensor, "y x"]:
    """Return a window of 1 that falls to 0 at the border."""
    sides = []
    for size in like.shape[-2:]:
        position = torch.arange(size, device=like.device, dtype=torch.float32)
        sides.append((torch.minimum(position, size - 1 - position) / STILL_BORDER).clamp_max(1.0))
    return sides[0][:, None] * sides[1]


def _positions(shapes: Float[Tensor, "2 3 z y x"], slice_mm: float) -> Float[Tensor, "z 6 y2 x2"]:
    """Return the position of each voxel of 6 mm in the left ventricle, and the distance between slices.

    The channels are the position along the stack from the most apical and the most basal slice at ED and from the most
    basal one at the frame, the in-plane position from the centre at ED, and the distance between slices, all scaled to
    about 1.
    """
    depth, rows, columns = shapes.shape[2:]
    lv = shapes[:, :2].sum(1)
    slices = torch.arange(depth, dtype=torch.float32, device=shapes.device)
    ends = []
    for areas in lv.sum((2, 3)):
        full = (areas > MIN_AREA_VOXELS).float()
        most_basal = torch.where(full.any(), depth - 1 - full.flip(0).argmax(), depth - 1)
        ends.append((full.argmax(), most_basal))
    planes = [
        ((slices - end) * slice_mm / 40.0).view(-1, 1, 1).expand(depth, rows // 2, columns // 2)
        for end in (ends[0][0], ends[0][1], ends[1][1])
    ]
    weight = lv[0] / lv[0].sum().clamp_min(1.0)
    for axis, size in ((1, rows), (2, columns)):
        index = torch.arange(size, dtype=torch.float32, device=shapes.device)
        centre = (weight.sum((0, 3 - axis)) * index).sum()
        position = (2.0 * index[: size // 2] + 0.5 - centre) * PIXEL_MM / 50.0
        planes.append(position.view((-1, 1) if axis == 1 else (1, -1)).expand(depth, rows // 2, columns // 2))
    planes.append(torch.full_like(planes[0], slice_mm / 10.0))
    return torch.stack(planes, dim=1)
