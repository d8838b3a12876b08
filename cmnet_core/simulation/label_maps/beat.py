"""Parameters of the motion between ED and a later frame, and the regional variation of the contraction."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.phantom.shape import Points, direction, smooth_step
from cmnet_core.simulation.label_maps.anatomy import Anatomy, endocardium
from cmnet_core.simulation.label_maps.random_draws import RandomDraws

PROFILE_START_MM, PROFILE_END_MM = -200.0, 140.0
"""Range of s in which the profile of the descent is tabulated, at every millimetre."""

MAX_DESCENT_MM = 24.0

_DESCENT_FRACTION = 0.165
"""Mean descent of a base with normal ejection fraction, as a fraction of the ventricle's length."""

_PROFILE_SMOOTHING_MM = 5.0
_TIP_FADE_MM = 8.0
_ATRIAL_FADE_MM = 25.0


@dataclass(frozen=True, slots=True)
class ContractionDefect:
    """A region of the wall that contracts less, or is dyskinetic where the severity exceeds 1.

    Attributes:
        s_mm: Position of its centre along the axis.
        half_length_mm: Distance from there at which the defect has decreased to 1/e, along the axis.
        angle_rad: Angle of its centre around the axis.
        half_angle_rad: The same distance around the axis.
        severity: Relative reduction of the contraction in its centre.
    """

    s_mm: float
    half_length_mm: float
    angle_rad: float
    half_angle_rad: float
    severity: float


@dataclass(frozen=True, slots=True, eq=False)
class Beat:
    """What happens between ED and the frame.

    Attributes:
        contraction: κ, the relative decrease of the squared endocardial radius where the contractility K is 1.
        regional_waves: Amplitudes of the contractility's variation, by its order around the axis, its order along the
            axis, and cosine or sine.
        apical_gain: Relative increase of the contractility towards the apex.
        defects: Regions that contract less.
        rv_contraction: Relative decrease of the RV's area.
        wall_volume: Volume of the wall relative to ED; perfusion changes it by a few percent.
        basal_rotation_rad: Rotation about the axis at the base.
        apical_rotation_rad: The same at the apex.
        descent_mm: D, the displacement of the base towards the apex.
        descent_profile: w(s) at every millimetre of s: 0 at the apex, 1 at the base, and decreasing above it.
        descent_tilt: Relative increase of the descent per 40 mm along y and x.
        translation_mm: Displacement of the whole heart along s, y and x.
        rocking_rad: Rotation of the whole heart in the planes s-y and s-x.
    """

    contraction: float
    regional_waves: Float[Tensor, "3 3 2"]
    apical_gain: float
    defects: tuple[ContractionDefect, ...]
    rv_contraction: float
    wall_volume: float
    basal_rotation_rad: float
    apical_rotation_rad: float
    descent_mm: float
    descent_profile: Float[Tensor, " n"]
    descent_tilt: tuple[float, float]
    translation_mm: tuple[float, float, float]
    rocking_rad: tuple[float, float]


def draw_beat(draws: RandomDraws, anatomy: Anatomy, *, lvef_pct: float) -> Beat:
    """Draw a contraction with regional differences, a rotation of either sign, a descent and rigid motion.

    In a third of the draws the frame is not ES but any earlier degree of contraction.

    Args:
        draws: Source of randomness.
        anatomy: The anatomy at ED.
        lvef_pct: Ejection fraction of the LV at ES in %.
    """
    degree = 1.0 if draws.happens(0.65) else draws.uniform(0.05, 1.0)
    sizes = torch.tensor([[0.0, 0.10, 0.05], [0.14, 0.10, 0.05], [0.09, 0.06, 0.03]])
    waves = draws.normals(3, 3, 2) * sizes[..., None] * draws.uniform(0.2, 1.6)
    defects = tuple(_draw_defect(draws, anatomy) for _ in range(2) if draws.happens(0.25))
    relative_ef = lvef_pct / 60.0
    descent = anatomy.length_mm * _DESCENT_FRACTION * min(relative_ef, 1.15) * draws.uniform(0.55, 1.45)
    descent += draws.uniform(-1.0, 1.5)
    gain = draws.uniform(-0.1, 0.55)
    rv_ef = min(max(draws.normal(0.28 + 0.45 * lvef_pct / 100.0, 0.09), 0.08), 0.75)
    return Beat(
        contraction=_contraction_for(anatomy, waves, gain, defects, degree * lvef_pct / 100.0),
        regional_waves=waves,
        apical_gain=gain,
        defects=defects,
        rv_contraction=degree * rv_ef,
        wall_volume=1.0 + degree * draws.normal(0.0, 0.02),
        basal_rotation_rad=degree * math.radians(draws.normal(0.0, 3.5)),
        apical_rotation_rad=degree * math.radians(draws.normal(0.0, 7.0)),
        descent_mm=degree * min(descent, MAX_DESCENT_MM),
        descent_profile=_draw_descent_profile(draws, anatomy),
        descent_tilt=(draws.normal(0.0, 0.14), draws.normal(0.12, 0.16)),
        translation_mm=(
            degree * draws.normal(0.0, 0.7),
            degree * draws.normal(0.0, 1.3),
            degree * draws.normal(0.0, 1.3),
        ),
        rocking_rad=(degree * math.radians(draws.normal(0.0, 2.0)), degree * math.radians(draws.normal(0.0, 2.0))),
    )


def _draw_defect(draws: RandomDraws, anatomy: Anatomy) -> ContractionDefect:
    return ContractionDefect(
        s_mm=-anatomy.cavity_length_mm * draws.uniform(0.05, 0.95),
        half_length_mm=draws.uniform(10.0, 28.0),
        angle_rad=draws.uniform(0.0, 2 * math.pi),
        half_angle_rad=draws.uniform(0.4, 1.3),
        severity=draws.uniform(0.4, 1.15),
    )


def _draw_descent_profile(draws: RandomDraws, anatomy: Anatomy) -> Float[Tensor, " n"]:
    """Draw w(s): a parabola from the apex to the base, a line down over the atria, smoothed by a Gaussian."""
    s = torch.arange(PROFILE_START_MM, PROFILE_END_MM + 1.0)
    start = -anatomy.length_mm - draws.uniform(-4.0, 8.0)
    x = ((s - start) / -start).clamp(0.0, 1.0)
    curvature = draws.uniform(-0.35, 0.55)
    ventricle = (1.0 - curvature) * x + curvature * x * x
    atria = 1.0 - (s / draws.uniform(60.0, 110.0)).clamp(0.0, 1.0)
    profile = torch.where(s < 0, ventricle, atria)
    kernel = torch.exp(-0.5 * (torch.arange(-15.0, 16.0) / _PROFILE_SMOOTHING_MM) ** 2)
    padded = functional.pad(profile.view(1, 1, -1), (15, 15), mode="replicate")
    return functional.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).view(-1)


def descent_at(profile: Float[Tensor, " n"], s: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return w(s) and its derivative w'(s) in 1/mm, by linear interpolation of the profile.

    Args:
        profile: w at every millimetre from ``PROFILE_START_MM``.
        s: Positions along the axis in mm.
    """
    place = (s - PROFILE_START_MM).clamp(0.0, len(profile) - 2.001)
    low = place.long()
    first, second = profile[low], profile[low + 1]
    return first + (place - low) * (second - first), second - first


def _contraction_for(
    anatomy: Anatomy,
    waves: Float[Tensor, "3 3 2"],
    gain: float,
    defects: tuple[ContractionDefect, ...],
    ejected: float,
) -> float:
    """Return κ with which the cavity ejects a fraction of its volume: κ = ejected · ∫∫ q_endo / ∫∫ K q_endo."""
    s = torch.linspace(-anatomy.cavity_length_mm, 0.0, 25)[:, None].expand(25, 24) - 0.01
    angle = (torch.arange(24)[None] * (2 * math.pi / 24)).expand(25, 24)
    points = Points(s, angle.sin(), angle.cos())
    endo = endocardium(anatomy, points)
    strength = contractility(anatomy, waves, gain, defects, points)
    return ejected / max(float((strength * endo).sum() / endo.sum()), 0.15)


def contractility(
    anatomy: Anatomy,
    waves: Float[Tensor, "3 3 2"],
    gain: float,
    defects: tuple[ContractionDefect, ...],
    points: Points,
) -> Float[Tensor, "..."]:
    """Return K(s, θ), the contraction relative to that of the whole cavity; 0 in the atria and at the cavity's apex.

    Args:
        anatomy: The anatomy at ED.
        waves: Amplitudes of the variation, as in :class:`Beat`.
        gain: Relative increase towards the apex.
        defects: Regions that contract less.
        points: Points at ED.
    """
    s, (c, n) = points.s, direction(points)
    tau = (s / -anatomy.cavity_length_mm).clamp(0.0, 1.0)
    strength = 1.0 + gain * smooth_step(tau)
    cosines = (torch.ones_like(c), c, c * c - n * n)
    sines = (torch.zeros_like(c), n, 2 * c * n)
    for around in range(3):
        for along in range(3):
            a, b = waves[around, along].tolist()
            strength = strength + (a * cosines[around] + b * sines[around]) * (along * math.pi * tau).cos()
    for defect in defects:
        cosine = (c * math.cos(defect.angle_rad) + n * math.sin(defect.angle_rad)).clamp(-1.0, 1.0)
        distance = (cosine.acos() / defect.half_angle_rad) ** 4 + ((s - defect.s_mm) / defect.half_length_mm) ** 4
        strength = strength * (1.0 - defect.severity * torch.exp(-distance))
    tip = smooth_step((s + anatomy.cavity_length_mm) / _TIP_FADE_MM)
    return strength.clamp(-0.3, 2.2) * tip * (1.0 - smooth_step(s / _ATRIAL_FADE_MM))
