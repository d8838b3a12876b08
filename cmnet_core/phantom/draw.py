"""Random phantoms of plausible anatomy, function and image quality."""

from dataclasses import replace

import torch

from cmnet_core.phantom.shape import lv_volumes_ml, rv_volume_ml
from cmnet_core.phantom.spec import BeatSpec, ChestSpec, ContrastSpec, Defect, HeartSpec, PhantomSpec, ScanSpec


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator, dtype=torch.float64))


def _normal(generator: torch.Generator, mean: float, sd: float, *, clip: float = 2.0) -> float:
    value = float(torch.randn(1, generator=generator, dtype=torch.float64))
    return mean + sd * min(max(value, -clip), clip)


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _happens(generator: torch.Generator, probability: float) -> bool:
    return _uniform(generator, 0.0, 1.0) < probability


def _draw_heart(generator: torch.Generator, lvef_pct: float) -> HeartSpec:
    """Draw the anatomy; the width of the RV is set afterwards by its volume."""
    dilation = 1.0 + 0.013 * max(0.0, 52.0 - lvef_pct)
    edv_ml = min(max(_normal(generator, 138.0, 27.0) * dilation, 75.0), 300.0)
    length_to_radius = _uniform(generator, 2.95, 3.55) / dilation**0.35
    bluntness, narrowing = _uniform(generator, 0.35, 0.85), _uniform(generator, 0.04, 0.14)
    radius = (
        edv_ml * 1000.0 / (3.1416 * length_to_radius * (2.0 / 3.0 + bluntness / 12.0) * (1.0 - 0.8 * narrowing))
    ) ** (1 / 3)
    wall = _normal(generator, 7.8, 0.9)
    if lvef_pct > 50.0 and _happens(generator, 0.25):
        wall += _uniform(generator, 1.0, 5.0)
    cavity_length = length_to_radius * radius
    return HeartSpec(
        cavity_radius_mm=radius,
        cavity_length_mm=cavity_length,
        bluntness=bluntness,
        base_narrowing=narrowing,
        wall_mm=wall,
        apex_wall_mm=_uniform(generator, 0.6, 0.9) * wall,
        ellipticity=_uniform(generator, 0.0, 0.09),
        ellipse_deg=_uniform(generator, 0.0, 180.0),
        asymmetry=_uniform(generator, 0.0, 0.10),
        asymmetry_deg=_uniform(generator, 0.0, 360.0),
        rv_width_mm=30.0,
        rv_insertion_deg=_uniform(generator, 58.0, 76.0),
        rv_length_mm=cavity_length * _uniform(generator, 0.82, 0.98),
        rv_base_mm=_uniform(generator, -2.5, 2.5),
        rv_wall_mm=_uniform(generator, 2.4, 3.6),
        papillary_mm=_uniform(generator, 3.5, 6.0) * (radius / 26.0),
        trabeculation_mm=_uniform(generator, 0.6, 2.0),
    )


def _fit_rv(heart: HeartSpec, rv_ml: float) -> HeartSpec:
    """Set the width of the RV so that its volume is ``rv_ml``, by bisection."""
    low, high = 6.0, 70.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        too_large = rv_volume_ml(replace(heart, rv_width_mm=middle)) > rv_ml
        low, high = (low, middle) if too_large else (middle, high)
    return replace(heart, rv_width_mm=0.5 * (low + high))


def _draw_beat(generator: torch.Generator, heart: HeartSpec, lvef_pct: float, defect: Defect | None) -> BeatSpec:
    relative_ef = lvef_pct / 60.0
    rate = min(max(_normal(generator, 66.0, 11.0) + 8.0 * max(0.0, 1.0 - relative_ef), 45.0), 110.0)
    return BeatSpec(
        lvef_pct=lvef_pct,
        rv_to_lv_stroke=_uniform(generator, 0.97, 1.03),
        descent_mm=heart.length_mm * 0.165 * min(relative_ef, 1.15) * _uniform(generator, 0.85, 1.15),
        basal_rotation_deg=-_uniform(generator, 2.0, 6.0) * relative_ef,
        apical_rotation_deg=_uniform(generator, 6.0, 13.0) * relative_ef,
        heart_rate_bpm=rate,
        systole_fraction=min(0.30 + 0.0011 * rate + _uniform(generator, -0.02, 0.02), 0.46),
        early_filling_fraction=_uniform(generator, 0.6, 0.85),
        defect=defect,
    )


def _draw_scan(generator: torch.Generator, heart: HeartSpec, frames: int, ed: int) -> ScanSpec:
    thickness = min(max(_normal(generator, 7.8, 1.4), 5.0), 10.0)
    gap = _uniform(generator, 0.0, 10.0 - thickness) if _happens(generator, 0.6) else 0.0
    # The valve plane is between two slices; the first slice is the last atrial or the first ventricular one.
    base = (thickness + gap) * (_uniform(generator, 0.3, 0.7) - (0.0 if _happens(generator, 0.6) else 1.0))
    pixel, field = _uniform(generator, 1.2, 1.9), _uniform(generator, 300.0, 380.0)
    rows = 2 * round(0.5 * field / pixel)
    return ScanSpec(
        frames=frames,
        ed=ed,
        slices=int((heart.length_mm + base) / (thickness + gap)) + 1 + _integer(generator, 0, 1),
        rows=rows,
        columns=2 * round(0.5 * rows * _uniform(generator, 0.75, 1.0)),
        thickness_mm=thickness,
        gap_mm=gap,
        pixel_mm=pixel,
        base_mm=base,
        centre_y_mm=_normal(generator, 0.0, 12.0),
        centre_x_mm=_normal(generator, 0.0, 12.0),
        rv_deg=_normal(generator, 0.0, 24.0, clip=2.5),
        tilt_y_deg=_normal(generator, 0.0, 3.0),
        tilt_x_deg=_normal(generator, 0.0, 3.0),
        apex_first=_happens(generator, 0.4),
        yaw_deg=_normal(generator, 0.0, 9.0),
        pitch_deg=_normal(generator, 0.0, 9.0),
    )


def _draw_contrast(generator: torch.Generator) -> ContrastSpec:
    return ContrastSpec(
        myocardium=_uniform(generator, 0.26, 0.5),
        fat=_uniform(generator, 0.85, 1.35),
        liver=_uniform(generator, 0.28, 0.55),
        lung=_uniform(generator, 0.03, 0.10),
        gain=_uniform(generator, 120.0, 420.0),
        noise=_uniform(generator, 0.012, 0.05),
        bias_field=_uniform(generator, 0.2, 0.8),
        resolution=_uniform(generator, 0.7, 1.0),
        texture=_uniform(generator, 0.04, 0.10),
    )


def _draw_chest(generator: torch.Generator) -> ChestSpec:
    return ChestSpec(
        epicardial_fat_mm=_uniform(generator, 0.5, 4.5),
        skin_fat_mm=_uniform(generator, 5.0, 28.0),
        muscle_mm=_uniform(generator, 10.0, 20.0),
        wall_gap_mm=_uniform(generator, 2.0, 14.0),
        depth_mm=_uniform(generator, 112.0, 150.0),
        height_mm=_uniform(generator, 140.0, 200.0),
        diaphragm_gap_mm=_uniform(generator, 1.0, 9.0),
        liver_border_mm=_uniform(generator, -20.0, 45.0),
        stomach=_uniform(generator, 0.15, 0.8),
    )


def draw_spec(generator: torch.Generator, *, frames: int, defect: bool, ed: int = 0) -> PhantomSpec:
    """Draw the parameters of a phantom.

    Args:
        generator: Source of randomness.
        frames: Number of frames of the cycle.
        defect: Whether one segment is hypokinetic.
        ed: Frame of end-diastole, from 0.
    """
    lvef_pct = _uniform(generator, 20.0, 62.0 if defect else 75.0)
    segment = Defect(_integer(generator, 1, 16), _uniform(generator, 0.6, 1.0)) if defect else None
    left = _draw_heart(generator, lvef_pct)
    beat = _draw_beat(generator, left, lvef_pct, segment)
    rvef_pct = min(max(_normal(generator, 27.0 + 0.5 * lvef_pct, 3.0), 30.0), 64.0)
    stroke_ml = lv_volumes_ml(left)[0] * lvef_pct / 100.0 * beat.rv_to_lv_stroke
    heart = _fit_rv(left, min(max(100.0 * stroke_ml / rvef_pct, 90.0), 230.0))
    return PhantomSpec(
        heart=heart,
        beat=beat,
        chest=_draw_chest(generator),
        scan=_draw_scan(generator, heart, frames, ed),
        contrast=_draw_contrast(generator),
    )
