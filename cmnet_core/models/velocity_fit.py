"""The fit: the motion that DeformNet gives is fitted to the texture and the shapes of two frames.

Shape does not show motion along the wall; texture does. What is sought is the velocity v, close to DeformNet's v₀ and
smooth, by which one frame looks like the other::

    E(v) =   near · (c/(c + m))² |texture(previous ∘ exp v) − texture(current)|²
           + s |shapes(previous ∘ exp v) − shapes(current)|²
           + κ m² |v − v₀|²  +  β |Δv|²  +  β_z |∂²v/∂z²|²
           + γ ventricle (|∂v_z/∂y|² + |∂v_z/∂x|²)                summed over all voxels

It is variational flow with warping (Horn and Schunck, Artificial Intelligence 17, 1981; Brox et al., ECCV 2004), with
three differences. The whole velocity is held smooth, by its bending, so that neither a turn nor an even stretch costs
anything. What is still unlike after the first rounds, m, tells how far texture can be trusted: what moves through
the plane is like nothing in the other frame. There DeformNet and shape have their way. And in the left ventricle motion
through the slices has to be even within them: no mask shows whether it is, and what is uneven stretches the wall.

Nothing here is learnt and no gradient passes. No loss compares images.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.filters import smooth_in_plane
from cmnet_core.labels import Label
from cmnet_core.models.layers import Stacks, enlarge, enlarge_displacement
from cmnet_core.models.rotation_net import LVLocation, locate_lv
from cmnet_core.registration.displacement import exponential, identity_grid, sample_at


@dataclass(frozen=True, slots=True)
class FitLevel:
    """How one round looks at the frames; lengths are standard deviations of Gaussians, in voxels of half the plane.

    Attributes:
        background: What is brighter or darker over this distance is not texture.
        window: Over which a round's equations are averaged.
        blur: Of the shapes.
        shear: γ. What moves through the slices is found within a few rounds only while this is cheap.
        robust: Whether texture that finds nothing like it is trusted less. At first nothing is like anything.
        downsampling: Voxels of the full plane, along each side, in one of those that are seen: 1, 2 or 4. The
            velocity lives
            on half the plane; where less is seen, a coarser step is looked for, which conjugate gradients find sooner.
    """

    background: float
    window: float
    blur: float
    shear: float
    robust: bool
    downsampling: int

    @property
    def step(self) -> int:
        """Voxels of half the plane, along each side, in one of the step that is looked for."""
        return max(self.downsampling // 2, 1)


FIT_LEVELS = (
    4 * (FitLevel(background=6.0, window=1.5, blur=2.0, shear=0.2, robust=False, downsampling=4),)
    + 4 * (FitLevel(background=2.5, window=0.7, blur=1.0, shear=0.2, robust=False, downsampling=2),)
    + 6 * (FitLevel(background=2.5, window=1.0, blur=1.0, shear=2.0, robust=True, downsampling=1),)
)
"""Each begins where the one before it led."""

SHAPE = 0.4
"""s: a class probability that is off by 1 counts as much as texture that is off by its contrast."""

GEMAN_MCCLURE_SCALE = 0.2
"""c: mean square of the mismatch, in contrasts, at which texture counts a quarter (as in Geman and McClure, Bulletin of
the ISI 52, 1987)."""

SIMILARITY_WINDOW = 4.0
"""Distance over which the mismatch is averaged, in voxels of half the plane."""

ATTACHMENT = 0.8
"""κ."""

BENDING = 0.03
"""β."""

BENDING_THROUGH = 0.001
"""β_z: slices lie far apart, and turn against each other."""

BORDER = 1.5
"""Width of the ventricle's border where uneven motion begins to cost, in voxels of half the plane."""

ITERATIONS = 18
"""Of conjugate gradients, in a round."""

SQUARINGS = 5
"""Of the exponential, at most: more change a heart's motion by 0.002 voxels in the mean."""

SMALLEST_CONTRAST = 0.1
"""Texture that is fainter, in standard deviations of the image, is not brought to the contrast of the rest."""

NEIGHBOURS = 0.25
"""Weight of the slices above and below where the mismatch is averaged."""

SLICE = 0.2
"""Of a slice; a step through the plane as dear as one voxel in it."""

MAX_STEP = 1.5
"""Voxels by which one round can move at most."""

FADES_FROM = 2.0
FADES_OVER = 0.8
"""From the first share of the epicardial radius on, trust in texture fades as a Gaussian this wide."""


@torch.no_grad()
def fit_velocity(
    previous: Float[Tensor, "n c y x"],
    current: Float[Tensor, "n c y x"],
    known: Float[Tensor, "n 3 yh xh"],
    stacks: Stacks,
    *,
    integration_steps: int,
) -> Float[Tensor, "n 3 yh xh"]:
    """Fit a velocity to texture and shapes.

    Args:
        previous: Frame that is pointed into: its image, and behind it the probabilities of the structures.
        current: Frame where the velocity is fixed, likewise.
        known: The velocity v₀ on half the plane and in its voxels.
        stacks: Where the stacks of the batch begin.
        integration_steps: Squarings of its exponential.
    """
    here = locate_lv(current, stacks)
    return torch.cat(
        [
            _fit_stack(previous[a:b], current[a:b], known[a:b], here.of(a, b), min(integration_steps, SQUARINGS))
            for a, b in stacks.spans()
        ]
    )


def _fit_stack(previous: Tensor, current: Tensor, known: Tensor, place: LVLocation, steps: int) -> Tensor:
    previous, current = previous.float(), current.float()
    units = torch.tensor([SLICE, 1.0, 1.0], device=known.device).view(3, 1, 1)
    half = _Given(_near_heart(place, known), _ventricle(functional.avg_pool2d(current, 2)), known / units)
    given = {1: half, 2: half, 4: half.coarser()}
    # Means: of the current frame over the voxels of a plane, of the previous one over as many around every place.
    seen = {k: (functional.avg_pool2d(previous, k, 1), functional.avg_pool2d(current, k)) for k in (1, 2, 4)}
    velocity = half.start
    for level in FIT_LEVELS:
        before, now = seen[level.downsampling]
        here = functional.avg_pool2d(velocity, level.step)
        brought = _warped(before, here * units / _in_plane_voxels(level.step, here), level, steps)
        step = _limited(_solve(_equations(brought, now, here, level, given[level.downsampling])))
        velocity = velocity + enlarge(step, factor=level.step)
    return velocity * units


def _in_plane_voxels(factor: float, like: Tensor) -> Float[Tensor, "3 1 1"]:
    """1 along z, and a factor in the plane."""
    return torch.tensor([1.0, factor, factor], device=like.device).view(3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """What all rounds have in common, on the plane of the velocity.

    Attributes:
        near: Where texture is looked at: 1 in the heart, fading outside of it.
        ventricle: 1 in cavity and wall of the left ventricle.
        start: v₀, in units of the solution: voxels of half the plane, and :data:`SLICE`.
    """

    near: Float[Tensor, "n 1 y x"]
    ventricle: Float[Tensor, "n 1 y x"]
    start: Float[Tensor, "n 3 y x"]

    def coarser(self) -> "_Given":
        """The same on half as fine a plane."""
        near, ventricle, start = (functional.avg_pool2d(maps, 2) for maps in (self.near, self.ventricle, self.start))
        return _Given(near, ventricle, start)


def _near_heart(place: LVLocation, like: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 1 y x"]:
    """1 in the heart, fading outside of it, on half the plane."""
    y, x = (
        2.0 * torch.arange(count, device=like.device) + 0.5 - place.centre[:, axis, None]
        for axis, count in enumerate(like.shape[2:])
    )
    share = torch.hypot(y[:, :, None], x[:, None, :]) / place.radius[:, None, None]
    fading = torch.exp(-0.5 * ((share - FADES_FROM).clamp_min(0.0) / FADES_OVER).square())
    return (fading * place.presence[:, None, None])[:, None]


def _ventricle(frame: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 1 y x"]:
    """1 in the left ventricle up to its border, fading outside of it."""
    inside = frame[:, Label.LV, None] + frame[:, Label.MYO, None]
    return (2.0 * smooth_in_plane(inside, BORDER)).clamp_max(1.0)


def _warped(
    frame: Float[Tensor, "n c yf xf"], velocity: Float[Tensor, "n 3 y x"], level: FitLevel, steps: int
) -> Float[Tensor, "n c yl xl"]:
    """A stack's frame, known at every place, seen on a round's plane along a velocity in the velocity's voxels."""
    volume = exponential(velocity.movedim(0, 1)[None], steps=steps)
    if level.downsampling == 1:
        volume = enlarge_displacement(volume, factor=2)
    places = volume + identity_grid((int(volume.shape[2]), int(volume.shape[3]), int(volume.shape[4])), volume)
    full = _in_plane_voxels(float(level.downsampling), places)[..., None]
    return sample_at(frame.movedim(0, 1)[None], places * full)[0].movedim(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """The linear equations of one round: (data + pull + smoothness) · step = right.

    Attributes:
        data: Upper triangle, row by row, of every voxel's 3×3 matrix.
        pull: Of v₀.
        smoothness: What the velocity's roughness costs.
        right: What the step has to make good.
    """

    data: Float[Tensor, "n 6 y x"]
    pull: Float[Tensor, "n 1 y x"]
    smoothness: "_Smoothness"
    right: Float[Tensor, "n 3 y x"]

    def times(self, step: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
        """The left side."""
        return _symmetric_times(self.data, step) + self.pull * step + self.smoothness.slope(step)

    def inverse(self) -> Float[Tensor, "n 6 y x"]:
        """Roughly: of every voxel's own matrix."""
        data = self.data.clone()
        data[:, :1] += 2.0 * self.smoothness.even
        return _inverse(data, self.pull + 20.0 * self.smoothness.bending + 6.0 * BENDING_THROUGH)


def _equations(
    before: Float[Tensor, "n c yl xl"],
    now: Float[Tensor, "n c yl xl"],
    velocity: Float[Tensor, "n 3 y x"],
    level: FitLevel,
    given: _Given,
) -> _Equations:
    """Gauss and Newton's equations of E at a velocity, with the gradient of both frames' mean."""
    # Voxels of the frames in one of the velocity, and in one of half the plane.
    scale, fineness = level.step * 2 // level.downsampling, 2.0 / level.downsampling
    before, now = _features(before, level, fineness), _features(now, level, fineness)
    unlike = before - now
    z, y, x = _gradient(0.5 * (before + now), fineness)
    weight = torch.cat([_finer(given.near, scale), torch.full_like(now[:, 1:], SHAPE)], dim=1)
    pull = torch.zeros_like(given.near)
    if level.robust:
        mismatch = _mismatch(_coarser(unlike[:, :1].square(), scale), given.near, level)
        weight[:, :1] *= _finer((GEMAN_MCCLURE_SCALE / (GEMAN_MCCLURE_SCALE + mismatch)) ** 2, scale)
        pull = ATTACHMENT * mismatch.square()
    products = [(weight * a * b).sum(1) for a, b in ((z, z), (z, y), (z, x), (y, y), (y, x), (x, x))]
    products += [(weight * a * unlike).sum(1) for a in (z, y, x)]
    sums = smooth_in_plane(_coarser(torch.stack(products, dim=1), scale), level.window / level.step)
    smoothness = _Smoothness(BENDING / level.step**4, level.shear / level.step**2 * given.ventricle)
    right = -sums[:, 6:] - pull * (velocity - given.start) - smoothness.slope(velocity)
    return _Equations(sums[:, :6], pull, smoothness, right)


def _finer(maps: Tensor, scale: int) -> Tensor:
    return maps if scale == 1 else functional.interpolate(maps, scale_factor=float(scale))


def _coarser(maps: Tensor, scale: int) -> Tensor:
    return maps if scale == 1 else functional.avg_pool2d(maps, scale)


def _features(frame: Float[Tensor, "n c y x"], level: FitLevel, fineness: float) -> Float[Tensor, "n c y x"]:
    """Texture without its background and at one contrast, and the blurred shapes."""
    texture = frame[:, :1] - smooth_in_plane(frame[:, :1], fineness * level.background)
    contrast = (smooth_in_plane(texture.square(), fineness * level.background) + SMALLEST_CONTRAST**2).rsqrt()
    return torch.cat([texture * contrast, smooth_in_plane(frame[:, 1:], fineness * level.blur)], dim=1)


def _mismatch(
    unlike: Float[Tensor, "n 1 y x"], near: Float[Tensor, "n 1 y x"], level: FitLevel
) -> Float[Tensor, "n 1 y x"]:
    """m: the mean, round about, of the squares of what is unlike."""
    sums = _over_slices(smooth_in_plane(torch.cat([unlike * near, near], dim=1), SIMILARITY_WINDOW / level.step))
    return sums[:, :1] / sums[:, 1:].clamp_min(1e-3)


def _over_slices(maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
    """A weighted mean of every slice of a stack and its neighbours."""
    around = torch.cat([maps[:1], maps, maps[-1:]])
    return (maps + NEIGHBOURS * (around[:-2] + around[2:])) / (1.0 + 2.0 * NEIGHBOURS)


def _gradient(maps: Float[Tensor, "n c y x"], fineness: float) -> list[Float[Tensor, "n c y x"]]:
    """Central differences along z, y and x in units of the solution; half of one-sided ones at the border."""
    z = torch.cat([maps[:1], maps, maps[-1:]])
    downsampling = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    return [
        0.5 * SLICE * (z[2:] - z[:-2]),
        0.5 * fineness * (downsampling[:, :, 2:, 1:-1] - downsampling[:, :, :-2, 1:-1]),
        0.5 * fineness * (downsampling[:, :, 1:-1, 2:] - downsampling[:, :, 1:-1, :-2]),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothness:
    """What a velocity's roughness costs. Beyond the border the border's value goes on.

    Attributes:
        bending: In the plane.
        even: Of motion through the slices that is uneven within them.
    """

    bending: float
    even: Float[Tensor, "n 1 y x"]

    def slope(self, velocity: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
        """Half the derivative of that cost."""
        slope = self.bending * _in_plane(_inner(_in_plane(velocity))) + BENDING_THROUGH * _through(_through(velocity))
        slope[:, :1] += self._unevenness(velocity[:, :1])
        return slope

    def _unevenness(self, through: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 1 y x"]:
        """Half the derivative of even · |slope within the slice|², between neighbours at the lesser weight."""
        even = self.even
        down = torch.diff(through, dim=2) * torch.minimum(even[:, :, 1:], even[:, :, :-1])
        across = torch.diff(through, dim=3) * torch.minimum(even[..., 1:], even[..., :-1])
        return -torch.diff(functional.pad(down, (0, 0, 1, 1)), dim=2) - torch.diff(
            functional.pad(across, (1, 1)), dim=3
        )


def _in_plane(maps: Tensor) -> Tensor:
    downsampling = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    along_y, along_x = (
        downsampling[:, :, 2:, 1:-1] + downsampling[:, :, :-2, 1:-1],
        downsampling[:, :, 1:-1, 2:] + downsampling[:, :, 1:-1, :-2],
    )
    return 4.0 * maps - along_y - along_x


def _inner(maps: Tensor) -> Tensor:
    """0 at the plane's border, where a turn would seem to bend."""
    return functional.pad(maps[:, :, 1:-1, 1:-1], (1, 1, 1, 1))


def _through(maps: Tensor) -> Tensor:
    stack = torch.cat([maps[:1], maps, maps[-1:]])
    return 2.0 * maps - stack[2:] - stack[:-2]


def _solve(equations: _Equations) -> Float[Tensor, "n 3 y x"]:
    """Conjugate gradients, from no step on, preconditioned by every voxel's own 3×3 matrix."""
    inverse = equations.inverse()
    left = equations.right
    step, direction = torch.zeros_like(left), _symmetric_times(inverse, left)
    size = (left * direction).sum()
    for _ in range(ITERATIONS):
        moved = equations.times(direction)
        length = size / (direction * moved).sum().clamp_min(1e-20)
        step, left = step + length * direction, left - length * moved
        towards = _symmetric_times(inverse, left)
        before, size = size, (left * towards).sum()
        direction = towards + size / before.clamp_min(1e-20) * direction
    return step


def _symmetric_times(matrix: Float[Tensor, "n 6 y x"], vector: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    a, b, c, d, e, f = matrix.unbind(1)
    z, y, x = vector.unbind(1)
    return torch.stack([a * z + b * y + c * x, b * z + d * y + e * x, c * z + e * y + f * x], dim=1)


def _inverse(matrix: Float[Tensor, "n 6 y x"], more: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 6 y x"]:
    """Of every voxel's matrix with ``more`` on its diagonal, by cofactors; a library's takes ten times as long."""
    a, b, c, d, e, f = matrix.unbind(1)
    a, d, f = (diagonal + more[:, 0] for diagonal in (a, d, f))
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    cofactors = torch.stack([p, q, r, a * f - c * c, b * c - a * e, a * d - b * b], dim=1)
    return cofactors / (a * p + b * q + c * r)[:, None]


def _limited(step: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    length = step.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    return step * (MAX_STEP * torch.tanh(length / MAX_STEP) / length)
