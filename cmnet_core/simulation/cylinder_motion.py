"""Motion in closed form around the long axis of a real left ventricle: the second class of simulated motion.

No stationary velocity has this motion as its exponential: contraction, twist and descent of the base have courses over
time of their own. It is the composition of three maps in cylinder coordinates around the axis, with distance s from the
basal slice in mm, angle θ and squared radius q = r²:

1. *Contraction* at a fixed s and θ: q → q + (a(s) − 1)·q·e(q) − κK(s, θ)·q_endo·g(q/q_endo)·d(q) − ρ·A(s)·b(θ)·h(q).
   Within the wall g, d and e are near 1 and the area of the wall is multiplied by a = 1/λ, with λ the stretch along the
   axis by map 3: the wall thickens as an incompressible cylinder (Guccione et al., J Biomech Eng 113, 1991). K varies
   around and along the ventricle. The last term empties the right ventricle, on its side.
2. *Rotation* about the axis by an angle that depends on s and r. Its determinant is 1.
3. *Descent* of the base: s → s + D·w(s)·η(y, x), with w = 1 at the base and 0 at the apex.

Every map is monotone along the one coordinate that it changes, so that the motion has no folds, and the determinant is
the product of two derivatives in closed form. The inverses are found by bisection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_FAR_MM = 45.0
"""Distance from the epicardium at which the contraction has decayed."""

_ENDO_SHARPNESS = 8.0
"""Exponent p of g(t) = t / (1 + tᵖ)^(1/p), which is about t in the cavity and 1 in the wall."""

_MAX_EMPTIED = 0.9
"""Bound of κK, below which the contraction is monotone."""


class Points(NamedTuple):
    """Positions around the long axis in mm: distance from the basal slice towards the apex, and offsets y and x."""

    s: Float[Tensor, "..."]
    y: Float[Tensor, "..."]
    x: Float[Tensor, "..."]


@dataclass(frozen=True, slots=True, eq=False)
class VentricleShape:
    """A real heart at ED, as circles in each slice.

    Attributes:
        length_mm: Distance from the basal to the apical slice.
        slice_mm: Distance between slices; radii are interpolated between them.
        endo_mm: Radius of the endocardium in each slice, from the base on.
        epi_mm: Radius of the epicardium in each slice.
        rv_mm: Distance of the right ventricle's free wall from the axis in each slice; the epicardium where there is
            none.
        rv_rad: Direction of the right ventricle.
    """

    length_mm: float
    slice_mm: float
    endo_mm: Float[Tensor, " z"]
    epi_mm: Float[Tensor, " z"]
    rv_mm: Float[Tensor, " z"]
    rv_rad: float


@dataclass(frozen=True, slots=True)
class Contraction:
    """State of the motion in one frame; all amplitudes are 0 at ED.

    Attributes:
        cavity: κ, fraction by which the squared radius of the endocardium falls where K = 1.
        rv_cavity: ρ, the same for the area of the right ventricle.
        descent_mm: D, displacement of the base towards the apex.
        basal_rad: Rotation of the base, from y to x.
        apical_rad: Rotation of the apex.
        waves: Amplitude of K's first and second harmonic around the ventricle, and its gain at the apex.
        waves_rad: Phase of both harmonics.
        tilt: Gradient of the descent along y and x, relative to 40 mm.
    """

    cavity: float
    rv_cavity: float
    descent_mm: float
    basal_rad: float
    apical_rad: float
    waves: tuple[float, float, float] = (0.0, 0.0, 0.0)
    waves_rad: tuple[float, float] = (0.0, 0.0)
    tilt: tuple[float, float] = (0.0, 0.0)


class CylinderMotion:
    """The map from ED to one frame, its determinant and its inverse.

    Args:
        shape: The heart at ED.
        state: The state of the motion.
    """

    def __init__(self, shape: VentricleShape, state: Contraction) -> None:
        self.shape, self.state = shape, state

    def forward(self, points: Points) -> Points:
        """Return the positions at the frame of points at ED."""
        q = _squared_radius(points)
        scale = (self._contraction(points.s, _angle(points))(q) / q).sqrt()
        s, y, x = self._rotated(Points(points.s, scale * points.y, scale * points.x), 1.0)
        return Points(s + self._reach(y, x) * self._profile(s), y, x)

    def inverse(self, points: Points) -> Points:
        """Return the positions at ED of points at the frame."""
        reach = self._reach(points.y, points.x)
        span = 1.3 * reach.abs() + 1.0
        s = _bisect(lambda s: s + reach * self._profile(s), points.s, points.s - span, points.s + span, steps=20)
        _, y, x = self._rotated(Points(s, points.y, points.x), -1.0)
        q = _squared_radius(Points(s, y, x))
        contraction = self._contraction(s, _angle(Points(s, y, x)))
        at_ed = _bisect(contraction, q, torch.zeros_like(q), 4.0 * q + _FAR_MM**2, steps=28)
        scale = (at_ed / q).sqrt()
        return Points(s, scale * y, scale * x)

    def determinant(self, points: Points) -> Float[Tensor, "..."]:
        """Return the determinant of the deformation gradient at points at ED, by the derivatives of maps 1 and 3."""
        q = _squared_radius(points).detach().requires_grad_()
        contracted = self._contraction(points.s, _angle(points))(q)
        (area,) = torch.autograd.grad(contracted.sum(), q)
        scale = (contracted.detach() / q.detach()).sqrt()
        _, y, x = self._rotated(Points(points.s, scale * points.y, scale * points.x), 1.0)
        return area * (1.0 + self._reach(y, x) * self._slope(points.s))

    def _contraction(self, s: Tensor, angle: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the map of q by the contraction, at given s and θ."""
        shape, state = self.shape, self.state
        endo, epi, rv = (self._radius(values, s).square() for values in (shape.endo_mm, shape.epi_mm, shape.rv_mm))
        stretch = 1.0 / (1.0 + state.descent_mm * self._slope(s)) - 1.0
        emptied = (state.cavity * self._strength(s, angle)).clamp_max(_MAX_EMPTIED) * endo
        side = (0.5 + 0.5 * torch.cos(angle - shape.rv_rad)).square()
        rv_emptied = state.rv_cavity * (rv - epi).clamp_min(0.0) * side
        far = (rv.sqrt() + _FAR_MM).square()

        def contracted(q: Tensor) -> Tensor:
            fade = torch.exp(-3.0 * ((q - rv) / (far - rv)).clamp_min(0.0).square())
            relative = q / endo
            inner = relative / (1.0 + relative.pow(_ENDO_SHARPNESS)).pow(1.0 / _ENDO_SHARPNESS)
            beyond_epi = _smooth_step(((q - epi) / (rv - epi).clamp_min(1.0)).clamp(0.0, 1.0))
            return q + fade * (stretch * q - emptied * inner - rv_emptied * beyond_epi)

        return contracted

    def _strength(self, s: Tensor, angle: Tensor) -> Float[Tensor, "..."]:
        """Return K, which is 1 on average around the base."""
        first, second, gain = self.state.waves
        (phase, phase_2), along = self.state.waves_rad, (s / self.shape.length_mm).clamp(0.0, 1.0)
        waves = first * torch.cos(angle - phase) + second * torch.cos(2.0 * angle - phase_2)
        return 1.0 + gain * _smooth_step(along) + waves

    def _rotated(self, points: Points, sign: float) -> Points:
        state = self.state
        along = (points.s / self.shape.length_mm).clamp(-0.2, 1.2)
        radius = _squared_radius(points).sqrt()
        outer = float(self.shape.epi_mm.max())
        fade = torch.exp(-(((radius - outer) / 20.0).clamp_min(0.0).square()))
        angle = sign * (state.basal_rad + (state.apical_rad - state.basal_rad) * along) * fade
        c, n = angle.cos(), angle.sin()
        return Points(points.s, c * points.y - n * points.x, n * points.y + c * points.x)

    def _reach(self, y: Tensor, x: Tensor) -> Float[Tensor, "..."]:
        """Return D·η(y, x)."""
        along_y, along_x = self.state.tilt
        radius = (y.square() + x.square()).sqrt()
        fade = torch.exp(-(((radius - float(self.shape.rv_mm.max())) / 30.0).clamp_min(0.0).square()))
        return self.state.descent_mm * fade * (1.0 + 0.3 * torch.tanh((along_y * y + along_x * x) / 12.0))

    def _profile(self, s: Tensor) -> Float[Tensor, "..."]:
        """Return w(s): 0 beyond the apex, linear to about 1 at the base, and decaying above the base."""
        length = self.shape.length_mm
        inside = _soft_ramp((length - s) / length)
        return inside * torch.exp(-((-s / (2.0 * length)).clamp_min(0.0).square()) * 4.0)

    def _slope(self, s: Tensor) -> Float[Tensor, "..."]:
        """Return w'(s)."""
        with torch.enable_grad():
            at = s.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._profile(at).sum(), at)
        return slope

    def _radius(self, values: Float[Tensor, " z"], s: Tensor) -> Float[Tensor, "..."]:
        """Interpolate a radius between the slices, smoothly, and keep it beyond them."""
        values, place = values.to(s), (s / self.shape.slice_mm).clamp(0.0, len(values) - 1.0)
        below = place.floor().long().clamp_max(max(len(values) - 2, 0))
        above = (below + 1).clamp_max(len(values) - 1)
        return torch.lerp(values[below], values[above], _smooth_step(place - below))


def _squared_radius(points: Points) -> Float[Tensor, "..."]:
    return (points.y.square() + points.x.square()).clamp_min(1e-6)


def _angle(points: Points) -> Float[Tensor, "..."]:
    return torch.atan2(points.x, points.y)


def _smooth_step(x: Tensor) -> Float[Tensor, "..."]:
    return x * x * (3.0 - 2.0 * x)


def _soft_ramp(x: Tensor) -> Float[Tensor, "..."]:
    """Return max(x, 0), rounded around 0."""
    return 0.05 * torch.nn.functional.softplus(x / 0.05)


def _bisect(
    function: Callable[[Tensor], Tensor], target: Tensor, low: Tensor, high: Tensor, *, steps: int
) -> Float[Tensor, "..."]:
    """Solve ``function(x) = target`` for a function that increases from ``low`` to ``high``."""
    for _ in range(steps):
        middle = 0.5 * (low + high)
        above = function(middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)
