"""The motion from ED to the frame in closed form: a diffeomorphism with its inverse.

It is the composition of four maps in coordinates of the heart (axis s, angle θ, squared radius q = r²):

1. *Contraction* at a fixed s and θ: q → a(s)·G(q). G is piecewise linear with knots at the surfaces. The endocardium
   goes to q_endo·(1 − κK), the wall keeps its area up to ``wall_volume``, the area of the RV is scaled by
   1 − ``rv_contraction``, its free wall keeps its area, and at the outermost knot q returns to itself. With
   a(s) = 1/(1 − D·w'(s)) the wall's shortening along the axis (map 3) is balanced, so that det F of the wall is
   ``wall_volume``, apart from the descent's tilt (Guccione et al., J Biomech Eng 113, 1991: the incompressible
   cylinder, r² = (R² − R_endo²)/λ + r_endo²).
2. *Rotation* about the axis, linear along it, that decreases to 0 outside the LV. Its determinant is 1.
3. *Descent*: s → s − D·η(y, x)·w(s), with w = 1 at the base and 0 at the apex and η linear in y and x.
4. *Rigid motion* of the whole heart.

All maps are monotone along the one coordinate that they change, so that the motion has no folds.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.phantom.shape import Points, Surfaces, smooth_step
from cmnet_core.simulation.label_maps.anatomy import Anatomy, surfaces
from cmnet_core.simulation.label_maps.beat import Beat, contractility, descent_at

_ROTATION_FADE_MM = 26.0
_RV_CALM_MM2 = 300.0
_RV_FADE_MM = 25.0
_MIN_FAR_MM2 = 100.0
_NEWTON_STEPS = 5


def _piecewise_linear(q: Tensor, before: Surfaces, after: Surfaces) -> Float[Tensor, "..."]:
    """Map squared radii linearly between the surfaces; beyond the outermost surface they are kept."""
    mapped = q
    knots = list(zip(before[:-1], after[:-1], strict=True))
    lower = [(torch.zeros_like(q), torch.zeros_like(q)), *knots[:-1]]
    for (low, to_low), (high, to_high) in reversed(list(zip(lower, knots, strict=True))):
        piece = to_low + (q - low) * (to_high - to_low) / (high - low).clamp_min(1e-3)
        mapped = torch.where(q < high, piece, mapped)
    return mapped


def _scaled(points: Points, before: Surfaces, after: Surfaces) -> Points:
    """Map the distance from the axis, and keep s and the angle."""
    q = (points.x * points.x + points.y * points.y).clamp_min(1e-6)
    scale = (_piecewise_linear(q, before, after) / q).clamp_min(1e-6).sqrt()
    return Points(points.s, points.y * scale, points.x * scale)


class HeartMotion:
    """The map from ED to the frame and its inverse, in coordinates of the heart in mm."""

    def __init__(self, anatomy: Anatomy, beat: Beat) -> None:
        self.anatomy, self.beat = anatomy, beat

    def forward(self, points: Points) -> Points:
        """Return the positions at the frame of points at ED."""
        s, y, x = self._rotated(_scaled(points, *self._contraction(points)), 1.0)
        s = s - self._descent_mm(y, x) * descent_at(self.beat.descent_profile, s)[0]
        return self._moved_rigidly(Points(s, y, x))

    def inverse(self, points: Points) -> tuple[Points, Float[Tensor, "..."], Surfaces]:
        """Return the positions at ED of points at the frame.

        Also returns the distance of each point from the axis at the frame, before the rigid motion, and the surfaces at
        the frame on its half-line, with which the tissue at the point is found.
        """
        s, y, x = self._moved_rigidly_back(points)
        descent_mm, at_frame = self._descent_mm(y, x), s
        for _ in range(_NEWTON_STEPS):
            value, slope = descent_at(self.beat.descent_profile, s)
            s = s - (s - descent_mm * value - at_frame) / (1.0 - descent_mm * slope)
        contracted = self._rotated(Points(s, y, x), -1.0)
        before, after = self._contraction(contracted)
        radius = (contracted.x.square() + contracted.y.square()).clamp_min(1e-6).sqrt()
        return _scaled(contracted, after, before), radius, after

    def _contraction(self, points: Points) -> tuple[Surfaces, Surfaces]:
        """Return the surfaces at ED and after the contraction, on the half-lines through the points."""
        anatomy, beat = self.anatomy, self.beat
        ed = surfaces(anatomy, points)
        strength = contractility(anatomy, beat.regional_waves, beat.apical_gain, beat.defects, points)
        kept = (1.0 - beat.contraction * strength).clamp(0.06, 1.5)
        area = ed.rv - ed.epi
        calm = area**2 / (area**2 + _RV_CALM_MM2**2)
        calm = calm * (1.0 - smooth_step((points.s - anatomy.rv_base_mm) / _RV_FADE_MM))
        stretch = 1.0 / (1.0 - beat.descent_mm * descent_at(beat.descent_profile, points.s)[1])
        endo = ed.endo * kept
        epi = endo + (ed.epi - ed.endo) * beat.wall_volume
        rv = epi + area * (1.0 - beat.rv_contraction * calm)
        rv_wall = rv + ed.rv_wall - ed.rv
        far = torch.maximum(ed.far, stretch * rv_wall + _MIN_FAR_MM2)
        after = Surfaces(stretch * endo, stretch * epi, stretch * rv, stretch * rv_wall, far, ed.rv_gap)
        return ed._replace(far=far), after

    def _rotated(self, points: Points, sign: float) -> Points:
        beat = self.beat
        radius = (points.x * points.x + points.y * points.y).clamp_min(1e-9).sqrt()
        fade = 1.0 - smooth_step((radius - self.anatomy.outer_radius_mm) / _ROTATION_FADE_MM)
        along = (points.s / -self.anatomy.length_mm).clamp(-0.3, 1.2)
        difference = beat.apical_rotation_rad - beat.basal_rotation_rad
        angle = sign * (beat.basal_rotation_rad + difference * along) * fade
        c, n = angle.cos(), angle.sin()
        return Points(points.s, points.y * c + points.x * n, points.x * c - points.y * n)

    def _descent_mm(self, y: Float[Tensor, "..."], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return D·η(y, x)."""
        along_y, along_x = self.beat.descent_tilt
        tilt = 1.0 + along_y * y / 40.0 + along_x * x / 40.0
        return self.beat.descent_mm * tilt.clamp(0.3, 2.0)

    def _moved_rigidly(self, points: Points) -> Points:
        """Rotate about a point of the axis near the middle of the ventricle, then translate."""
        pivot, (a, b), (ds, dy, dx) = self._pivot_mm, self.beat.rocking_rad, self.beat.translation_mm
        s, y, x = points.s - pivot, points.y, points.x
        s, y = s * math.cos(a) - y * math.sin(a), y * math.cos(a) + s * math.sin(a)
        s, x = s * math.cos(b) - x * math.sin(b), x * math.cos(b) + s * math.sin(b)
        return Points(s + pivot + ds, y + dy, x + dx)

    def _moved_rigidly_back(self, points: Points) -> Points:
        pivot, (a, b), (ds, dy, dx) = self._pivot_mm, self.beat.rocking_rad, self.beat.translation_mm
        s, y, x = points.s - ds - pivot, points.y - dy, points.x - dx
        s, x = s * math.cos(b) + x * math.sin(b), x * math.cos(b) - s * math.sin(b)
        s, y = s * math.cos(a) + y * math.sin(a), y * math.cos(a) - s * math.sin(a)
        return Points(s + pivot, y, x)

    @property
    def _pivot_mm(self) -> float:
        return -0.6 * self.anatomy.length_mm
