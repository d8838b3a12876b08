"""The fit: the motion that DeformNet gives is fitted to the texture and the shapes of two frames.

Shape does not show motion along the wall; texture does. What is sought is the velocity v, close to DeformNet's v₀ and
smooth, by which one frame looks like the other::

    E(v) =   near · (c/(c + m))² |texture(previous ∘ exp v) − texture(current)|²
           + s |shapes(previous ∘ exp v) − shapes(current)|²
           + κ m² |v − v₀|²  +  β |Δv|²  +  β_z |∂²v/∂z²|²        summed over all voxels

It is variational flow with warping (Horn and Schunck, Artificial Intelligence 17, 1981; Brox et al., ECCV 2004), with
two differences. The whole velocity is held smooth, by its bending, so that neither a turn nor an even stretch costs
anything. And what is still unlike after the first rounds, m, tells how far texture can be trusted: what moves through
the plane is like nothing in the other frame. There DeformNet and shape have their way.

Nothing here is learnt and no gradient passes. No loss compares images.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.layers import Stacks
from cmnet_core.models.optical_flow import LONGEST, SLICE, SMALLEST_CONTRAST, near_heart, over_slices, smooth
from cmnet_core.models.rotation_net import Place, place_of
from cmnet_core.motion import exponential, identity_grid, sample_at


@dataclass(frozen=True, slots=True)
class Round:
    """How one round looks at the frames; lengths are standard deviations of Gaussians, in voxels of half the plane.

    Attributes:
        background: What is brighter or darker over this distance is not texture.
        window: Over which a round's equations are averaged.
        blur: Of the shapes.
        wary: Whether texture that finds nothing like it is trusted less. At first nothing is like anything.
    """

    background: float
    window: float
    blur: float
    wary: bool


ROUNDS = (
    4 * (Round(background=6.0, window=1.5, blur=2.0, wary=False),)
    + 4 * (Round(background=2.5, window=0.7, blur=1.0, wary=False),)
    + 6 * (Round(background=2.5, window=0.7, blur=1.0, wary=True),)
)
"""Each begins where the one before it led."""

SHAPE = 0.8
"""s: a class probability that is off by 1 counts as much as texture that is off by its contrast."""

UNLIKE = 0.2
"""c: mean square of the mismatch, in contrasts, at which texture counts a quarter (as in Geman and McClure, Bulletin of
the ISI 52, 1987)."""

REACH = 4.0
"""Distance over which the mismatch is averaged, in voxels of half the plane."""

ATTACHMENT = 0.8
"""κ."""

BENDING = 0.05
"""β."""

BENDING_THROUGH = 0.003
"""β_z: slices lie far apart, and turn against each other."""

ITERATIONS = 25
"""Of conjugate gradients, in a round."""

SQUARINGS = 5
"""Of the exponential, at most: more change a heart's motion by 0.002 voxels in the mean."""


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
    here = place_of(current, stacks)
    return torch.cat(
        [
            _fit_stack(previous[a:b], current[a:b], known[a:b], here.of(a, b), min(integration_steps, SQUARINGS))
            for a, b in stacks.spans()
        ]
    )


def _fit_stack(previous: Tensor, current: Tensor, known: Tensor, place: Place, steps: int) -> Tensor:
    units = torch.tensor([SLICE, 1.0, 1.0], device=known.device).view(3, 1, 1)
    # Means of two by two voxels: of the current frame on half the plane, of the previous one at every place.
    before, now = (functional.avg_pool2d(frame.float(), 2, stride) for frame, stride in ((previous, 1), (current, 2)))
    near, start = near_heart(place, known), known / units
    velocity = start
    for look in ROUNDS:
        brought = _carried(before, velocity * units, steps)
        equations = _equations(brought, now, near, look, velocity=velocity, start=start)
        velocity = velocity + _limited(_solve(equations))
    return velocity * units


def _carried(frame: Float[Tensor, "n c yf xf"], velocity: Float[Tensor, "n 3 y x"], steps: int) -> Tensor:
    """A stack on its full plane, seen from half the plane along a velocity there."""
    displacement = exponential(velocity.movedim(0, 1)[None], steps=steps)
    slices, _, height, width = velocity.shape
    places = identity_grid((slices, height, width), displacement) + displacement
    full = torch.tensor([1.0, 2.0, 2.0], device=places.device).view(3, 1, 1, 1)
    return sample_at(frame.movedim(0, 1)[None], places * full)[0].movedim(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Equations:
    """The linear equations of one round: (data + pull + bending) · step = right.

    Attributes:
        data: Upper triangle, row by row, of every voxel's 3×3 matrix.
        pull: Of v₀.
        right: What the step has to make good.
    """

    data: Float[Tensor, "n 6 y x"]
    pull: Float[Tensor, "n 1 y x"]
    right: Float[Tensor, "n 3 y x"]

    def times(self, step: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
        """The left side."""
        return _symmetric_times(self.data, step) + self.pull * step + _bending(step)


def _equations(
    before: Float[Tensor, "n c y x"],
    now: Float[Tensor, "n c y x"],
    near: Float[Tensor, "n 1 y x"],
    look: Round,
    *,
    velocity: Float[Tensor, "n 3 y x"],
    start: Float[Tensor, "n 3 y x"],
) -> _Equations:
    """Gauss and Newton's equations of E at a velocity, with the gradient of both frames' mean."""
    before, now = _features(before, look), _features(now, look)
    unlike = before - now
    gradient = _gradient(0.5 * (before + now))
    weight, pull = torch.cat([near, torch.full_like(now[:, 1:], SHAPE)], dim=1), torch.zeros_like(near)
    if look.wary:
        mismatch = _mismatch(unlike[:, :1], near)
        weight[:, :1] *= (UNLIKE / (UNLIKE + mismatch)) ** 2
        pull = ATTACHMENT * mismatch.square()
    z, y, x = gradient
    products = [(weight * a * b).sum(1) for a, b in ((z, z), (z, y), (z, x), (y, y), (y, x), (x, x))]
    products += [(weight * a * unlike).sum(1) for a in gradient]
    sums = smooth(torch.stack(products, dim=1), look.window)
    return _Equations(sums[:, :6], pull, -sums[:, 6:] - pull * (velocity - start) - _bending(velocity))


def _features(frame: Float[Tensor, "n c y x"], look: Round) -> Float[Tensor, "n c y x"]:
    """Texture without its background and at one contrast, and the blurred shapes."""
    texture = frame[:, :1] - smooth(frame[:, :1], look.background)
    contrast = smooth(texture.square(), look.background)
    return torch.cat([texture * (contrast + SMALLEST_CONTRAST**2).rsqrt(), smooth(frame[:, 1:], look.blur)], dim=1)


def _mismatch(unlike: Float[Tensor, "n 1 y x"], near: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 1 y x"]:
    """m: the mean square of what is unlike, round about."""
    sums = over_slices(smooth(torch.cat([unlike.square() * near, near], dim=1), REACH))
    return sums[:, :1] / sums[:, 1:].clamp_min(1e-3)


def _gradient(maps: Float[Tensor, "n c y x"]) -> list[Float[Tensor, "n c y x"]]:
    """Central differences along z, in units of the solution, y and x; half of one-sided ones at the border."""
    z = torch.cat([maps[:1], maps, maps[-1:]])
    plane = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    return [
        0.5 * SLICE * (z[2:] - z[:-2]),
        0.5 * (plane[:, :, 2:, 1:-1] - plane[:, :, :-2, 1:-1]),
        0.5 * (plane[:, :, 1:-1, 2:] - plane[:, :, 1:-1, :-2]),
    ]


def _bending(velocity: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    """Half the derivative of the bending energy. Beyond the border the border's value goes on."""
    return BENDING * _in_plane(_in_plane(velocity)) + BENDING_THROUGH * _through(_through(velocity))


def _in_plane(maps: Tensor) -> Tensor:
    plane = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    along_y, along_x = plane[:, :, 2:, 1:-1] + plane[:, :, :-2, 1:-1], plane[:, :, 1:-1, 2:] + plane[:, :, 1:-1, :-2]
    return 4.0 * maps - along_y - along_x


def _through(maps: Tensor) -> Tensor:
    stack = torch.cat([maps[:1], maps, maps[-1:]])
    return 2.0 * maps - stack[2:] - stack[:-2]


def _solve(equations: _Equations) -> Float[Tensor, "n 3 y x"]:
    """Conjugate gradients, from no step on, preconditioned by every voxel's own 3×3 matrix."""
    inverse = _inverse(equations.data, equations.pull + 20.0 * BENDING + 6.0 * BENDING_THROUGH)
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
    return step * (LONGEST * torch.tanh(length / LONGEST) / length)
