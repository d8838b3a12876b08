"""bSSFP signal of heart and chest at end-diastole relative to blood, in coordinates of the heart.

Tissues are painted in layers from background to foreground, with edges as soft as the voxels.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.phantom.shape import Points, Surfaces, direction, smooth_step, surfaces
from cmnet_core.phantom.spec import ChestSpec, ContrastSpec, HeartSpec, PhantomSpec

_EDGE_MM = 1.4
_BONE = 0.18
_MUSCLE_OVER_MYOCARDIUM = 1.1
_MARROW = 0.55
_RV_BLOOD = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """Smooth random fields of mean 0 and variance 1 on the grid of the anatomy.

    Attributes:
        fine: Structures of a few mm.
        patchy: Structures of about a centimetre.
        broad: Structures of several centimetres.
        waves: Angular frequency, slope along the axis and phase of each wave of the trabeculae.
    """

    fine: Float[Tensor, "z y x"]
    patchy: Float[Tensor, "z y x"]
    broad: Float[Tensor, "z y x"]
    waves: Float[Tensor, "3 k"]


def _field(shape: tuple[int, ...], cell: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "z y x"]:
    coarse = [max(2, math.ceil(n / c) + 1) for n, c in zip(shape, cell, strict=True)]
    values = torch.randn([1, 1, *coarse], generator=generator)
    smooth = functional.interpolate(values, size=shape, mode="trilinear", align_corners=True)
    # Linear interpolation leaves patches with straight edges; averaging rounds them.
    rounded = functional.avg_pool2d(smooth[0], 5, stride=1, padding=2, count_include_pad=False)[0]
    return (rounded - rounded.mean()) / rounded.std()


def draw_texture(shape: tuple[int, int, int], generator: torch.Generator) -> Texture:
    """Draw the random fields for a grid of this shape (z, y, x)."""
    turns = torch.randint(4, 17, (8,), generator=generator).float()
    slopes = 0.35 * torch.randn(8, generator=generator)
    phases = 2.0 * math.pi * torch.rand(8, generator=generator)
    return Texture(
        fine=_field(shape, (2, 3, 3), generator),
        patchy=_field(shape, (5, 8, 8), generator),
        broad=_field(shape, (14, 24, 24), generator),
        waves=torch.stack([turns, slopes, phases]),
    )


def _inside(depth_mm: Tensor) -> Tensor:
    """1 inside, 0 outside, with a linear ramp of one edge width."""
    return (0.5 + depth_mm / _EDGE_MM).clamp(0.0, 1.0)


def _paint(image: Tensor, mask: Tensor, signal: Tensor | float) -> Tensor:
    return image + mask * (signal - image)


def _disc(points: Points, y: float, x: float, radius: float) -> Tensor:
    return _inside(radius - ((points.y - y) ** 2 + (points.x - x) ** 2).sqrt())


def _wall_depth(points: Points, texture: Texture, chest: ChestSpec, right_mm: float) -> Tensor:
    """Depth of a point under the skin in mm."""
    near = right_mm + chest.wall_gap_mm + chest.muscle_mm + chest.skin_fat_mm
    across = (points.x - near + chest.depth_mm) / chest.depth_mm
    along = (points.y + 10.0) / chest.height_mm
    # With an exponent of 3 the outline of the chest is a rounded rectangle instead of an ellipse.
    outline = (across.abs() ** 3 + along.abs() ** 3).clamp_min(1e-9) ** (1.0 / 3.0)
    return chest.depth_mm * (1.0 - outline) + 1.5 * texture.broad


def _chest(points: Points, texture: Texture, spec: PhantomSpec, right_mm: float) -> Tensor:
    """Lung with vessels, ribs, muscle with fat, subcutaneous fat, air."""
    contrast, chest = spec.contrast, spec.chest
    depth = _wall_depth(points, texture, chest, right_mm)
    image = contrast.lung * (1.0 + 0.3 * texture.fine + 0.2 * texture.broad)
    image = _paint(image, smooth_step((texture.patchy + 0.4 * texture.fine - 2.1) / 0.5), 0.75)
    wall = _inside(chest.skin_fat_mm + chest.muscle_mm - depth)
    muscle = contrast.myocardium * _MUSCLE_OVER_MYOCARDIUM * (1.0 + 0.1 * texture.patchy)
    muscle = _paint(muscle, smooth_step((texture.patchy + 0.5 * texture.broad - 0.7) / 0.4), 0.9 * contrast.fat)
    image = _paint(image, wall, muscle)
    rib = smooth_step(8.0 * (points.y / 9.0 + 0.05 * points.s + texture.broad).sin() - 4.0)
    middle = (depth - chest.skin_fat_mm - 0.6 * chest.muscle_mm).abs()
    image = _paint(image, _inside(4.5 - middle) * rib, _BONE)
    image = _paint(image, _inside(3.0 - middle) * rib, _MARROW)
    skin = chest.skin_fat_mm * (1.0 + 0.25 * texture.broad)
    image = _paint(image, _inside(skin - depth), contrast.fat * (1.0 + 0.04 * texture.patchy))
    return _paint(image, _inside(-depth), 0.0)


def _abdomen(points: Points, texture: Texture, spec: PhantomSpec, left_mm: float) -> tuple[Tensor, Tensor]:
    """Liver and stomach under the diaphragm with fat between them, and the depth of each point under the diaphragm."""
    contrast, chest = spec.contrast, spec.chest
    rise = 0.3 * (-35.0 - points.s).clamp_min(0.0)
    dome = rise - left_mm - chest.diaphragm_gap_mm - 0.002 * (points.x - 5.0) ** 2 + 3.5 * texture.broad
    depth = dome - points.y
    border = points.x + chest.liver_border_mm + 12.0 * texture.broad - 0.25 * points.y - 0.25 * left_mm
    liver = contrast.liver * (1.0 + 0.05 * texture.fine + 0.06 * texture.broad)
    organ = _paint(liver, smooth_step((texture.patchy - 1.7) / 0.5), 0.8)
    stomach = chest.stomach * (1.0 + 0.2 * texture.patchy)
    organ = _paint(organ, _inside(-border), stomach)
    bowel = _inside(-border - 30.0 - 8.0 * texture.patchy) + _inside(depth - 70.0 - 8.0 * texture.broad)
    organ = _paint(organ, bowel.clamp_max(1.0), (0.5 + 0.2 * texture.patchy).clamp(0.05, 1.1))
    organ = _paint(organ, _inside(2.5 + 2.0 * texture.patchy - (border + 3.0).abs()), contrast.fat * 0.9)
    return _paint(organ, _inside(1.4 - depth), _BONE), depth


def _back(
    image: Tensor, points: Points, texture: Texture, contrast: ContrastSpec, spine_mm: tuple[float, float]
) -> Tensor:
    """Spine with its canal and muscle, and the descending aorta."""
    y, x = spine_mm
    image = _paint(image, _disc(points, y, x, 27.0), contrast.myocardium * _MUSCLE_OVER_MYOCARDIUM)
    image = _paint(image, _disc(points, y, x, 21.0), _MARROW * (1.0 + 0.1 * texture.patchy))
    image = _paint(image, _disc(points, y - 6.0, x - 24.0, 8.0), 1.1)
    y, x = y + 17.0, x + 32.0
    image = _paint(image, _disc(points, y, x, 12.5), contrast.myocardium)
    return _paint(image, _disc(points, y, x, 11.0), 1.0)


def _background(points: Points, texture: Texture, spec: PhantomSpec, reach: tuple[float, float]) -> Tensor:
    left_mm, right_mm = reach
    wall_mm = spec.chest.skin_fat_mm + spec.chest.muscle_mm
    far_mm = right_mm + spec.chest.wall_gap_mm + wall_mm - 2.0 * spec.chest.depth_mm
    image = _chest(points, texture, spec, right_mm)
    organs, depth = _abdomen(points, texture, spec, left_mm)
    within = _inside(_wall_depth(points, texture, spec.chest, right_mm) - wall_mm)
    image = _paint(image, _inside(depth) * within, organs)
    spine_mm = (-(left_mm + 40.0), min(-(0.35 * left_mm + 46.0), far_mm + spec.chest.skin_fat_mm + 34.0))
    return _paint(image, within, _back(image, points, texture, spec.contrast, spine_mm))


def _ridges(points: Points, texture: Texture) -> Tensor:
    """Height of the trabeculae, 0 to about 1: waves around and along the wall."""
    angle = torch.atan2(points.y, points.x)
    height = torch.zeros_like(angle)
    for turns, slope, phase in texture.waves.T.tolist():
        height += (turns * angle + slope * points.s + phase).sin()
    return (0.5 + 0.25 * height).clamp(0.0, 1.4)


def _epicardial_fat(points: Points, wall: Surfaces, texture: Texture, chest: ChestSpec) -> Tensor:
    """Thickness of epicardial fat: patchy, and thicker in the grooves at the insertions and at the valves."""
    groove = torch.exp(-((wall.rv_gap / 450.0) ** 2))
    valves = torch.exp(-((points.s - 4.0) ** 2) / 120.0)
    variation = (0.3 + 0.7 * texture.broad + 0.3 * texture.patchy).clamp(0.0, 2.0)
    return chest.epicardial_fat_mm * (variation + 1.3 * groove + 0.8 * valves)


def _aorta(image: Tensor, points: Points, heart: HeartSpec, contrast: ContrastSpec) -> Tensor:
    """The aortic root, above the valves and between the atria."""
    above = _inside(points.s - 3.0)
    y, x, radius = 0.3 * heart.cavity_radius_mm, 0.8 * heart.cavity_radius_mm, 0.5 * heart.cavity_radius_mm
    image = _paint(image, above * _disc(points, y, x, radius + 2.0), contrast.myocardium)
    return _paint(image, above * _disc(points, y, x, radius), 1.05)


def _right_heart(image: Tensor, points: Points, wall: Surfaces, texture: Texture, spec: PhantomSpec) -> Tensor:
    """Pericardium with fat, the RV's free wall and blood; above the valve, outflow tract and atrium are separate."""
    heart, contrast = spec.heart, spec.contrast
    radius = (points.y * points.y + points.x * points.x).sqrt()
    fat = _epicardial_fat(points, wall, texture, spec.chest)
    outer = wall.rv_wall.sqrt() - (1.0 - smooth_step(wall.rv_gap / 200.0)) * heart.rv_wall_mm
    sac = _inside(points.s + heart.length_mm + 4.0)
    image = _paint(image, sac * _inside(outer + fat + 1.2 - radius), _BONE)
    image = _paint(image, sac * _inside(outer + fat - radius), contrast.fat * (1.0 + 0.06 * texture.fine))
    within = smooth_step(wall.rv_gap / 60.0)
    above = smooth_step((points.s - heart.rv_base_mm) / 8.0)
    smaller = 1.0 - 0.12 * above
    shell = within * _inside(points.s + heart.rv_length_mm + heart.rv_wall_mm)
    muscle = 1.05 * contrast.myocardium * (1.0 + contrast.texture * texture.fine)
    image = _paint(image, shell * _inside(smaller * wall.rv_wall.sqrt() - radius), muscle)
    inner = wall.rv.sqrt() * smaller - 2.0 * heart.trabeculation_mm * _ridges(points, texture)
    blood = _RV_BLOOD * (1.0 + 0.6 * contrast.texture * texture.patchy)
    filled = within * _inside(points.s + heart.rv_length_mm) * _inside(inner - radius)
    parted = above * _inside(2.0 - (points.y + 0.2 * heart.cavity_radius_mm).abs())
    return _paint(image, filled * (1.0 - parted), blood)


def _left_heart(image: Tensor, points: Points, wall: Surfaces, texture: Texture, spec: PhantomSpec) -> Tensor:
    """The LV's myocardium and blood; above the valve plane the thin-walled atrium, away from the aorta."""
    heart, contrast = spec.heart, spec.contrast
    radius = (points.y * points.y + points.x * points.x).sqrt()
    c, n = direction(points)
    above = smooth_step(points.s / 3.5)
    atrium = wall.endo.sqrt() * (0.86 - 0.2 * (0.94 * c + 0.34 * n))
    inner = wall.endo.sqrt() + above * (atrium - wall.endo.sqrt())
    outer = wall.epi.sqrt() + above * (atrium + 2.2 - wall.epi.sqrt())
    muscle = contrast.myocardium * (1.0 + contrast.texture * texture.fine)
    image = _paint(image, _inside(points.s + heart.length_mm) * _inside(outer - radius), muscle)
    rough = heart.trabeculation_mm * (1.0 - smooth_step((points.s + 15.0) / 15.0))
    inner = inner - rough * _ridges(points, texture)
    blood = 1.0 + 0.6 * contrast.texture * texture.patchy
    return _paint(image, _inside(points.s + heart.cavity_length_mm) * _inside(inner - radius), blood)


def paint_anatomy(spec: PhantomSpec, points: Points, texture: Texture) -> Float[Tensor, "z y x"]:
    """Signal at the points of a grid at ED, without papillary muscles, which do not move with the blood."""
    wall = surfaces(spec.heart, points)
    reach = float(wall.epi.max().sqrt()), float(wall.rv_wall.max().sqrt())
    image = _background(points, texture, spec, reach)
    image = _right_heart(image, points, wall, texture, spec)
    image = _left_heart(image, points, wall, texture, spec)
    return _aorta(image, points, spec.heart, spec.contrast)


def papillary_fraction(heart: HeartSpec, without_twist: Points, endo_mm: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Share of papillary muscle at points of any instant, descent and twist undone (``endo_mm``: cavity radius there).

    The two muscles stand on the free wall, at either side of its middle. They follow the wall but keep their thickness,
    as muscle does, and therefore are not part of the blood's motion.
    """
    low = smooth_step((without_twist.s + 0.88 * heart.cavity_length_mm) / 8.0)
    along = low * (1.0 - smooth_step((without_twist.s + 0.4 * heart.cavity_length_mm) / 8.0))
    fraction = torch.zeros_like(endo_mm)
    for degrees in (125.0, 235.0):
        centre = (endo_mm - 0.9 * heart.papillary_mm).clamp_min(0.45 * heart.papillary_mm)
        y = without_twist.y - centre * math.sin(math.radians(degrees))
        x = without_twist.x - centre * math.cos(math.radians(degrees))
        depth = heart.papillary_mm * along - (y * y + x * x).sqrt()
        fraction = torch.maximum(fraction, _inside(depth) * (along > 0))
    return fraction
