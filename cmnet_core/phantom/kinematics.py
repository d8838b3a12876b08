"""The motion of the heart in closed form: a diffeomorphism for every instant, with its inverse.

It is the composition of three maps in coordinates of the heart (axis s, angle θ, squared radius q = r²):

1. *Contraction* at a fixed s and θ: q → a·G(q) with a(s) = 1/λ(s), λ being the axial stretch of map 3.
   In the LV's wall G(q) = q - κ·K(s, θ)·q_endo, so that ∂(a·G)/∂q = a and the determinant of all three maps is exactly
   1: the myocardium is incompressible (Guccione et al., J Biomech Eng 1991, eq. for the incompressible cylinder,
   r² = (R² - R_endo²)/λ + r_endo²). Because q_endo → (1 - κK)·q_endo/λ over a length that shrinks by λ, the LV's
   volume falls by ½κ ∫∫ K q_endo dθ ds: the ejection fraction is prescribed, not fitted. The RV's blood pool is
   scaled by 1 - rho in the same way, and its free wall is incompressible as well. Between these linear pieces are
   monotone rational-quadratic splines (Gregory & Delbourgo, IMA J Numer Anal 1982) with a closed-form inverse, and
   outside the heart one that returns to q.
2. *Twist*: a rotation about the axis, linear along it, that vanishes outside the LV. Determinant 1.
3. *Descent*: s → s - D·w(s)·η(y, x), w = 1 at the base and 0 at the apex, η = 1 at the heart and 0 far from it.
   Determinant λ = 1 - D·w'(s)·η.

All determinants are positive, so the motion has no folds.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.phantom.shape import Points, Surfaces, direction, half_lines, smooth_step, surfaces
from cmnet_core.phantom.spec import BeatSpec, Defect, HeartSpec

_EARLY_FILLING_FRACTION = 0.2
_ATRIAL_KICK_FRACTION = 0.14
_ATRIAL_FADE_MM = 25.0
_TIP_FADE_MM = 8.0
_APICAL_GAIN = 0.3
_APEX_RAMP_MM = 15.0
_BASE_RAMP_MM = 20.0
_RV_CALM_MM2 = 300.0
_TWIST_FADE_MM = 26.0
_DESCENT_FADE_MM = 24.0
_NEWTON_STEPS = 3


@dataclass(frozen=True, slots=True)
class Instant:
    """The state of contraction at one instant; all values are 0 at ED.

    Attributes:
        contraction: κ, the ejected fraction of the LV cavity where K = 1.
        rv_contraction: rho, the same for the RV.
        descent_mm: D, the displacement of the base towards the apex in mm.
        basal_rotation: Rotation at the base in rad, counter-clockwise seen from the apex.
        apical_rotation: The same at the apex.
    """

    contraction: float
    rv_contraction: float
    descent_mm: float
    basal_rotation: float
    apical_rotation: float


def activation(phase: float, *, systole_fraction: float, early_fraction: float) -> float:
    """Degree of contraction: 0 at ED (phases 0 and 1), 1 at ES (phase ``systole_fraction``).

    Ejection, rapid filling of ``early_fraction`` of the stroke volume, diastasis and atrial contraction are joined
    smoothly.
    """
    phase = phase % 1.0
    if phase < systole_fraction:
        return _ease(phase / systole_fraction)
    early = _ease((phase - systole_fraction) / _EARLY_FILLING_FRACTION)
    kick = _ease((phase - 1.0 + _ATRIAL_KICK_FRACTION) / _ATRIAL_KICK_FRACTION)
    return 1.0 - early_fraction * early - (1.0 - early_fraction) * kick


def _ease(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def sector_centre_deg(segment: int) -> float:
    """Angle of the middle of an AHA segment, from the middle of the septum towards anterior.

    Basal and mid sectors are 60° wide, and 2 and 3 meet in the middle of the septum; apical sectors are 90° wide, with
    14 centred there (Cerqueira et al., Circulation 2002).
    """
    return -90.0 * (segment - 14) if segment > 12 else 30.0 - 60.0 * ((segment - 2) % 6)


def _contractility(heart: HeartSpec, defect: Defect | None, points: Points) -> Float[Tensor, "..."]:
    """K: 1 at the base, larger towards the apex, smaller in the defect, 0 in the atria and at the cavity's apex."""
    tip = smooth_step((points.s + heart.cavity_length_mm) / _TIP_FADE_MM)
    apical_gain = 1.0 + _APICAL_GAIN * smooth_step(points.s / -heart.cavity_length_mm)
    contractility = apical_gain * tip * (1.0 - smooth_step(points.s / _ATRIAL_FADE_MM))
    if defect is None:
        return contractility
    level = (defect.segment - 1) // 6
    third = heart.cavity_length_mm / 3.0
    along = smooth_step((third * 0.5 + 6.0 - (points.s + third * (level + 0.5)).abs()) / 12.0)
    middle = math.radians(sector_centre_deg(defect.segment))
    c, n = direction(points)
    half = math.radians(30.0 if level < 2 else 45.0)
    cosine = c * math.cos(middle) + n * math.sin(middle)
    inner, outer = math.cos(0.6 * half), math.cos(1.5 * half)
    return contractility * (1.0 - defect.severity * along * smooth_step((cosine - outer) / (inner - outer)))


@dataclass(frozen=True, slots=True)
class Beat:
    """The anatomy and motion of a heart, with the constants that follow from both.

    Attributes:
        heart: The anatomy at ED.
        spec: The parameters of the motion.
        peak: The state at ES.
        twist_radius_mm: Radius up to which the twist is complete.
        descent_centre_mm: Centre of the descent on the x axis.
        descent_radius_mm: Radius up to which the descent is complete.
    """

    heart: HeartSpec
    spec: BeatSpec
    peak: Instant
    twist_radius_mm: float
    descent_centre_mm: float
    descent_radius_mm: float

    def activation(self, phase: float) -> float:
        """Ejected fraction of the stroke volume at a phase of the cycle, 0 at ED and 1 at ES."""
        return activation(
            phase, systole_fraction=self.spec.systole_fraction, early_fraction=self.spec.early_filling_fraction
        )

    def at(self, phase: float) -> Instant:
        """The state at a phase of the cycle, which is 0 at ED."""
        fraction = self.activation(phase)
        return Instant(
            contraction=fraction * self.peak.contraction,
            rv_contraction=fraction * self.peak.rv_contraction,
            descent_mm=fraction * self.peak.descent_mm,
            basal_rotation=fraction * self.peak.basal_rotation,
            apical_rotation=fraction * self.peak.apical_rotation,
        )


def _peak_contraction(heart: HeartSpec, beat: BeatSpec) -> float:
    endo, contractility = _cavity_nodes(heart, beat.defect)
    return beat.lvef_pct / 100.0 * float(endo.sum() / (contractility * endo).sum())


def _cavity_nodes(heart: HeartSpec, defect: Defect | None) -> tuple[Tensor, Tensor]:
    points, _ = half_lines(-heart.cavity_length_mm, 0.0)
    return surfaces(heart, points).endo, _contractility(heart, defect, points)


def _rv_contractility(heart: HeartSpec, s: Float[Tensor, "..."], width: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """K of the RV, which also decreases where the RV is thin, so that contraction ends smoothly at its edges."""
    squared = width * width
    return squared / (squared + _RV_CALM_MM2**2) * (1.0 - smooth_step((s - heart.rv_base_mm) / _ATRIAL_FADE_MM))


def _rv_nodes(heart: HeartSpec) -> tuple[Tensor, Tensor, float]:
    points, weight = half_lines(-heart.rv_length_mm, heart.rv_base_mm)
    wall = surfaces(heart, points)
    width = (wall.rv - wall.epi) * (wall.rv_gap > 0)
    return width, _rv_contractility(heart, points.s, wall.rv - wall.epi), weight


def _peak_rv_contraction(heart: HeartSpec, stroke_ml: float) -> float:
    width, contractility, weight = _rv_nodes(heart)
    return stroke_ml / (weight * float((width * contractility).sum()))


def make_beat(heart: HeartSpec, spec: BeatSpec, *, lv_ml: float) -> Beat:
    """Build the motion whose contraction at ES gives the specified stroke volumes of both ventricles."""
    stroke_ml = lv_ml * spec.lvef_pct / 100.0
    points, _ = half_lines(-heart.length_mm, heart.rv_base_mm, steps=60)
    wall = surfaces(heart, points)
    left, right = float(wall.epi[:, 60].sqrt().max()), float(wall.rv_wall.sqrt().max())
    return Beat(
        heart=heart,
        spec=spec,
        peak=Instant(
            contraction=_peak_contraction(heart, spec),
            rv_contraction=_peak_rv_contraction(heart, stroke_ml * spec.rv_to_lv_stroke),
            descent_mm=spec.descent_mm,
            basal_rotation=math.radians(spec.basal_rotation_deg),
            apical_rotation=math.radians(spec.apical_rotation_deg),
        ),
        twist_radius_mm=float(wall.epi.sqrt().max()) + 2.0,
        descent_centre_mm=0.5 * (right - left),
        descent_radius_mm=0.5 * (right + left) + 4.0,
    )


def cavity_volume_fraction(beat: Beat, now: Instant) -> float:
    """Volume of the LV cavity relative to ED: 1 - κ · ∫∫ K q_endo / ∫∫ q_endo."""
    endo, contractility = _cavity_nodes(beat.heart, beat.spec.defect)
    return 1.0 - now.contraction * float((contractility * endo).sum() / endo.sum())


def rv_volume_fraction(beat: Beat, now: Instant) -> float:
    """Volume of the RV cavity relative to ED."""
    width, contractility, _ = _rv_nodes(beat.heart)
    return 1.0 - now.rv_contraction * float((width * contractility).sum() / width.sum())


def _ramp(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The integral of :func:`smooth_step`: x³ - x⁴/2 from 0 to 1, then x - ½."""
    inside = x.clamp(0.0, 1.0)
    return inside * inside * inside * (1.0 - 0.5 * inside) + (x - 1.0).clamp_min(0.0)


def _descent_knots(heart: HeartSpec) -> tuple[float, float, float]:
    """Start of the rise of w, start of its plateau above the base, and its slope in the ventricle."""
    start = -heart.length_mm - 5.0
    rise = heart.length_mm + 5.0 - 0.5 * _APEX_RAMP_MM
    return start, rise, 1.0 / rise


def _descent_weight(heart: HeartSpec, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """w(s): 0 at the apex, linear to 1 at the base, decreasing over the atria; twice differentiable."""
    start, end, slope = _descent_knots(heart)
    up = _APEX_RAMP_MM * _ramp((s - start) / _APEX_RAMP_MM)
    down = 2.0 * _BASE_RAMP_MM * _ramp(s / _BASE_RAMP_MM) - _BASE_RAMP_MM * _ramp((s - end) / _BASE_RAMP_MM)
    return slope * (up - down)


def _descent_slope(heart: HeartSpec, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """w'(s)."""
    start, end, slope = _descent_knots(heart)
    rise = smooth_step((s - start) / _APEX_RAMP_MM) - 2.0 * smooth_step(s / _BASE_RAMP_MM)
    return slope * (rise + smooth_step((s - end) / _BASE_RAMP_MM))


@dataclass(frozen=True, slots=True)
class _Bins:
    """The pieces of the spline G along a half-line: their edges before and after the contraction."""

    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    secant: tuple[Tensor, ...]
    slope: tuple[Tensor, ...]

    def select(self, q: Tensor, edges: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Start, width, image of the start, secant and slopes at both ends of the piece that contains each q."""
        rows = [
            (self.before[i], self.before[i + 1] - self.before[i], self.after[i], self.secant[i], *self.slope[i : i + 2])
            for i in range(len(self.secant))
        ]
        chosen = rows[0]
        for edge, row in zip(edges[1:], rows[1:], strict=False):
            beyond = q > edge
            chosen = tuple(torch.where(beyond, new, old) for new, old in zip(row, chosen, strict=True))
        return chosen


def _bins(beat: Beat, now: Instant, points: Points, wall: Surfaces, a: Tensor) -> _Bins:
    heart = beat.heart
    kept = 1.0 - now.contraction * _contractility(heart, beat.spec.defect, points)
    width = wall.rv - wall.epi
    rv_kept = 1.0 - now.rv_contraction * _rv_contractility(heart, points.s, width)
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    endo = wall.endo * kept
    epi = wall.epi - wall.endo + endo
    rv = epi + width * rv_kept
    rv_wall = rv + wall.rv_wall - wall.rv
    far = wall.far / a
    outside = (far - rv_wall) / (wall.far - wall.rv_wall)
    return _Bins(
        before=(zero, wall.endo, wall.epi, wall.rv, wall.rv_wall, wall.far),
        after=(zero, endo, epi, rv, rv_wall, far),
        secant=(kept, one, rv_kept, one, outside),
        slope=(kept * kept.sqrt(), one, one, one, one, 1.0 / a),
    )


def _contract(q: Tensor, bins: _Bins) -> Tensor:
    """G(q) for q inside ``far``: a rational-quadratic spline (Gregory & Delbourgo 1982)."""
    start, width, image, secant, d0, d1 = bins.select(q, bins.before[:-1])
    xi = ((q - start) / width).clamp(0.0, 1.0)
    between = xi * (1.0 - xi)
    return image + width * secant * (secant * xi * xi + d0 * between) / (secant + (d0 + d1 - 2.0 * secant) * between)


def _expand(g: Tensor, bins: _Bins) -> Tensor:
    """The inverse of :func:`_contract`, by the stable root of its quadratic."""
    start, width, image, secant, d0, d1 = bins.select(g, bins.after[:-1])
    fraction = ((g - image) / (width * secant)).clamp(0.0, 1.0)
    bend = fraction * (d0 + d1 - 2.0 * secant)
    b = d0 - bend
    root = (b * b + 4.0 * (secant - d0 + bend) * secant * fraction).clamp_min(0.0).sqrt()
    return start + width * 2.0 * secant * fraction / (b + root)


def _shortening_factor(beat: Beat, now: Instant, s: Tensor) -> Tensor:
    """a(s) = 1/λ(s)."""
    return 1.0 / (1.0 - now.descent_mm * _descent_slope(beat.heart, s))


def _twist(beat: Beat, now: Instant, points: Points, sign: float) -> Points:
    """Rotate about the axis; angles increase clockwise seen from the apex, rotations counter-clockwise."""
    length = beat.heart.length_mm
    rise = (now.apical_rotation - now.basal_rotation) / -length
    window = smooth_step((points.s + length + 25.0) / 25.0) * (1.0 - smooth_step(points.s / 40.0))
    radius = (points.x * points.x + points.y * points.y).clamp_min(1e-12).sqrt()
    fade = 1.0 - smooth_step((radius - beat.twist_radius_mm) / _TWIST_FADE_MM)
    angle = (now.basal_rotation + rise * points.s) * window * fade * -sign
    c, n = angle.cos(), angle.sin()
    return Points(points.s, points.y * c + points.x * n, points.x * c - points.y * n)


def _descent_extent(beat: Beat, points: Points) -> Tensor:
    """η(y, x)."""
    off = points.x - beat.descent_centre_mm
    distance = (off * off + points.y * points.y).clamp_min(1e-12).sqrt()
    return 1.0 - smooth_step((distance - beat.descent_radius_mm) / _DESCENT_FADE_MM)


def _scale_radially(points: Points, before: Tensor, after: Tensor) -> Points:
    scale = (after / before.clamp_min(1e-12)).sqrt()
    return Points(points.s, points.y * scale, points.x * scale)


def push_forward(beat: Beat, now: Instant, points: Points) -> Points:
    """Positions at an instant of points of the heart at ED."""
    a = _shortening_factor(beat, now, points.s)
    wall = surfaces(beat.heart, points)
    q = (points.x * points.x + points.y * points.y).clamp_min(1e-12)
    inside = a * _contract(q, _bins(beat, now, points, wall, a))
    rotated = _twist(beat, now, _scale_radially(points, q, torch.where(q < wall.far, inside, q)), 1.0)
    descent_mm = now.descent_mm * _descent_extent(beat, rotated) * _descent_weight(beat.heart, rotated.s)
    return rotated._replace(s=rotated.s - descent_mm)


def undo_descent_and_twist(beat: Beat, now: Instant, points: Points) -> Points:
    """Invert descent and twist, but not the contraction.

    The inverse of the descent solves s - D·η·w(s) = s' by Newton's method; w is linear over most of its length and
    D·w' < 1, so a few steps converge to rounding error.
    """
    reach = now.descent_mm * _descent_extent(beat, points)
    s = points.s + reach * _descent_weight(beat.heart, points.s)
    for _ in range(_NEWTON_STEPS):
        residual = s - reach * _descent_weight(beat.heart, s) - points.s
        s = s - residual / (1.0 - reach * _descent_slope(beat.heart, s))
    return _twist(beat, now, points._replace(s=s), -1.0)


def undo_contraction(beat: Beat, now: Instant, without_twist: Points, wall: Surfaces) -> Points:
    """Invert the contraction.

    Args:
        beat: The motion.
        now: The instant.
        without_twist: Points returned by :func:`undo_descent_and_twist`.
        wall: The surfaces at ED on the half-lines of these points.
    """
    a = _shortening_factor(beat, now, without_twist.s)
    q = (without_twist.x * without_twist.x + without_twist.y * without_twist.y).clamp_min(1e-12)
    inside = _expand(q / a, _bins(beat, now, without_twist, wall, a))
    return _scale_radially(without_twist, q, torch.where(q < wall.far, inside, q))


def cavity_mm(beat: Beat, now: Instant, without_twist: Points, wall: Surfaces) -> Tensor:
    """Radius in mm of the LV cavity at an instant, on the half-lines of these points."""
    kept = 1.0 - now.contraction * _contractility(beat.heart, beat.spec.defect, without_twist)
    return (_shortening_factor(beat, now, without_twist.s) * kept * wall.endo).sqrt()


def pull_back(beat: Beat, now: Instant, points: Points) -> Points:
    """Positions at ED of points at an instant: the inverse of :func:`push_forward`."""
    without_twist = undo_descent_and_twist(beat, now, points)
    return undo_contraction(beat, now, without_twist, surfaces(beat.heart, without_twist))
