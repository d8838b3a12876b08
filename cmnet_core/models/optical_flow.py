"""Optical flow: texture is followed from one frame into the other, along the wall too, where shape shows no motion.

Nothing here is learnt and no gradient passes: what is found is a measurement that DeformNet starts from and corrects.
No loss compares images.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.rotation_net import Place


@dataclass(frozen=True, slots=True)
class Scale:
    """How one round looks at the images; lengths are standard deviations of Gaussians, in voxels of half the plane.

    Attributes:
        background: What is brighter or darker over this distance is not texture.
        window: Voxels within this distance move alike.
        smoothing: Of what is found.
    """

    background: float
    window: float
    smoothing: float


ROUNDS = 4 * (Scale(background=6.0, window=3.0, smoothing=2.0),) + 10 * (
    Scale(background=2.5, window=1.5, smoothing=1.5),
)
"""Each begins where the one before it led: first far, then exactly."""

NEIGHBOURS = 0.25
"""Weight of the slices above and below in a window."""

SMALLEST_CONTRAST = 0.1
"""Texture that is fainter, in standard deviations of the image, is not brought to the contrast of the rest."""

STILLNESS = 0.05
"""Gradient of the texture, in contrasts a voxel, above which it is believed rather than that nothing moves."""

DISBELIEF = 0.3
"""By which share of the mismatch that is there, squared, the belief that nothing moves grows: what moves through the
plane is like nothing in the other frame."""

SLICE = 0.2
"""Of a slice; a step through the plane as dear as one voxel in it."""

ELASTICITY = 2.0
"""All that was found is smoothed over this distance after every round: strain, its derivative, stays that of tissue."""

LONGEST = 1.5
"""Voxels by which one round can move at most."""

FADES_FROM = 2.0
FADES_OVER = 0.8
"""From the first share of the epicardial radius on, what is found fades as a Gaussian this wide."""


@torch.no_grad()
def flow_step(
    previous: Float[Tensor, "n 1 y x"], current: Float[Tensor, "n 1 y x"], place: Place, scale: Scale
) -> Float[Tensor, "n 3 yh xh"]:
    """The velocity, on half the plane and in its voxels, by which one stack's frame points into the previous one.

    The displacement that explains, to first order, how the textures of all voxels in a window differ, in the least
    squares sense (Lucas and Kanade, IJCAI 1981), in three dimensions and with a prior on no motion.

    Args:
        previous: Image of the frame that is pointed into, already brought along with what is known.
        current: Image of the frame where the velocity is fixed.
        place: Of the ventricle in it, in voxels of the full plane.
        scale: Of the round.
    """
    before, now = _textures(previous, current, scale)
    z, y, x = _gradient(0.5 * (before + now))
    z, difference = SLICE * z, before - now
    products = [z * z, z * y, z * x, y * y, y * x, x * x, z * difference, y * difference, x * difference]
    windowed = over_slices(smooth(torch.cat([*products, difference.square()], dim=1), scale.window))
    found = -_solve(windowed, prior=STILLNESS**2 + DISBELIEF * windowed[:, 9])
    length = found.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    found = found * (LONGEST * torch.tanh(length / LONGEST) / length) * near_heart(place, found)
    return smooth(found, scale.smoothing) * torch.tensor([SLICE, 1.0, 1.0], device=found.device).view(3, 1, 1)


def elastic(found: Float[Tensor, "n 3 yh xh"]) -> Float[Tensor, "n 3 yh xh"]:
    """What the rounds found so far in one stack, as smooth as tissue moves."""
    return over_slices(smooth(found, ELASTICITY))


def _textures(
    previous: Float[Tensor, "n 1 y x"], current: Float[Tensor, "n 1 y x"], scale: Scale
) -> list[Float[Tensor, "n 1 yh xh"]]:
    """Both images at half the plane, without their background and at one contrast."""
    halves = [functional.avg_pool2d(image.float(), 2) for image in (previous, current)]
    textures = [half - smooth(half, scale.background) for half in halves]
    contrast = smooth(torch.stack(textures).square().mean(0), scale.background)
    return [texture * (contrast + SMALLEST_CONTRAST**2).rsqrt() for texture in textures]


def _gradient(image: Float[Tensor, "n 1 y x"]) -> list[Float[Tensor, "n 1 y x"]]:
    """Central differences along z, y and x; half of one-sided ones at the border."""
    volume = functional.pad(image.movedim(0, 1)[None], (1,) * 6, mode="replicate")[0].movedim(0, 1)
    inner = slice(1, -1)
    return [
        0.5 * (volume[2:, :, inner, inner] - volume[:-2, :, inner, inner]),
        0.5 * (volume[inner, :, 2:, inner] - volume[inner, :, :-2, inner]),
        0.5 * (volume[inner, :, inner, 2:] - volume[inner, :, inner, :-2]),
    ]


def over_slices(maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
    """A weighted mean of every slice of a stack and its neighbours."""
    around = torch.cat([maps[:1], maps, maps[-1:]])
    return (maps + NEIGHBOURS * (around[:-2] + around[2:])) / (1.0 + 2.0 * NEIGHBOURS)


def _solve(sums: Float[Tensor, "n 10 y x"], *, prior: Float[Tensor, "n y x"]) -> Float[Tensor, "n 3 y x"]:
    """Solve a symmetric system of three equations in every voxel; a library's solver takes ten times as long.

    In double precision: along an edge the determinant is a small difference of large products.
    """
    a, b, c, d, e, f, u, v, w = sums[:, :9].double().unbind(1)
    a, d, f = a + prior, d + prior, f + prior
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * p + b * q + c * r
    solved = [
        p * u + q * v + r * w,
        q * u + (a * f - c * c) * v + (b * c - a * e) * w,
        r * u + (b * c - a * e) * v + (a * d - b * b) * w,
    ]
    return (torch.stack(solved, dim=1) / determinant[:, None]).float()


def near_heart(place: Place, like: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 1 y x"]:
    """1 in the heart, fading outside of it."""
    y, x = (
        2.0 * torch.arange(count, device=like.device) + 0.5 - place.centre[:, axis, None]
        for axis, count in enumerate(like.shape[2:])
    )
    share = torch.hypot(y[:, :, None], x[:, None, :]) / place.radius[:, None, None]
    fading = torch.exp(-0.5 * ((share - FADES_FROM).clamp_min(0.0) / FADES_OVER).square())
    return (fading * place.presence[:, None, None])[:, None]


def smooth(maps: Float[Tensor, "n c y x"], deviation: float) -> Float[Tensor, "n c y x"]:
    """A Gaussian average in the plane; beyond the border the border's value goes on."""
    down, across = (_averaging(int(size), deviation).to(maps.device) for size in maps.shape[2:])
    return down @ maps @ across.T


@cache
def _averaging(size: int, deviation: float) -> Float[Tensor, "s s"]:
    """What a Gaussian average takes from where along an axis; a product of matrices is the fastest convolution here."""
    reach = round(3.0 * deviation)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / deviation).square())
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    return torch.zeros(size, size).scatter_add_(1, sources, (kernel / kernel.sum()).expand(size, -1))
