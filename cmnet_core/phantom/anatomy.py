"""What a bSSFP scanner sees of the chest at end-diastole: signal relative to blood, in the heart's frame.

Painted in layers from the back to the front, each with an edge as soft as the voxels it is sampled on.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.phantom.shape import Points, Surfaces, smooth_step, surfaces
from cmnet_core.phantom.spec import HeartSpec, LookSpec

_EDGE_MM = 1.4
_BONE = 0.18
_MUSCLE_OVER_MYOCARDIUM = 1.1
_MARROW = 0.55
_RV_BLOOD = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """Smooth random fields of mean 0 and variance 1 on the grid that the anatomy is painted on.

    Attributes:
        fine: Grain of a few mm.
        patchy: Structures of about a centimetre.
        broad: Structures of several centimetres.
        waves: Angular frequencies, slopes along the axis and phases of the trabeculae.
        stomach: Signal of what is in the stomach.
    """

    fine: Float[Tensor, "z y x"]
    patchy: Float[Tensor, "z y x"]
    broad: Float[Tensor, "z y x"]
    waves: Float[Tensor, "3 k"]
    stomach: float


def _field(shape: tuple[int, ...], cell: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "z y x"]:
    coarse = [max(2, math.ceil(n / c) + 1) for n, c in zip(shape, cell, strict=True)]
    values = torch.randn([1, 1, *coarse], generator=generator)
    smooth = functional.interpolate(values, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return (smooth - smooth.mean()) / smooth.std()


def draw_texture(shape: tuple[int, int, int], generator: torch.Generator) -> Texture:
    """Draw the random fields for a grid of this shape (z, y, x)."""
    turns = torch.randint(4, 17, (8,), generator=generator).float()
    slopes = 0.35 * torch.randn(8, generator=generator)
    phases = 2.0 * math.pi * torch.rand(8, generator=generator)
    return Texture(
        fine=_field(shape, (2, 3, 3), generator),
        patchy=_field(shape, (5, 8, 8), generator),
        broad=_field(shape, (14, 28, 28), generator),
        waves=torch.stack([turns, slopes, phases]),
        stomach=float(0.25 + 0.5 * torch.rand(1, generator=generator)),
    )


def _inside(depth_mm: Tensor) -> Tensor:
    """1 deep inside, 0 outside, a ramp of one edge between."""
    return (0.5 + depth_mm / _EDGE_MM).clamp(0.0, 1.0)


def _paint(image: Tensor, mask: Tensor, signal: Tensor | float) -> Tensor:
    return image + mask * (signal - image)


def _disc(points: Points, y: float, x: float, radius: float) -> Tensor:
    return _inside(radius - ((points.y - y) ** 2 + (points.x - x) ** 2).sqrt())


def _chest(points: Points, texture: Texture, look: LookSpec, right_mm: float) -> Tensor:
    """Lung with its vessels, ribs, muscle, fat under the skin, air."""
    muscle_mm, centre = 13.0, -12.0
    half_width = right_mm + 9.0 + muscle_mm + look.chest_fat_mm - centre
    across, along = (points.x - centre) / half_width, (points.y + 10.0) / 165.0
    depth = half_width * (1.0 - (across * across + along * along).sqrt()) + 2.0 * texture.broad
    image = look.lung * (1.0 + 0.3 * texture.fine)
    image = _paint(image, smooth_step((texture.patchy + 0.3 * texture.fine - 2.0) / 0.4), 0.6)
    wall = _inside(look.chest_fat_mm + muscle_mm - depth)
    image = _paint(image, wall, look.myocardium * _MUSCLE_OVER_MYOCARDIUM * (1.0 + 0.1 * texture.patchy))
    rib = (points.y / 26.0 + 0.02 * points.s).sin() - 0.55
    middle = (depth - look.chest_fat_mm - 0.55 * muscle_mm).abs()
    image = _paint(image, _inside(4.0 - middle) * smooth_step(rib * 8.0), _MARROW)
    image = _paint(image, _inside(1.2 - (middle - 4.5).abs()) * smooth_step(rib * 8.0), _BONE)
    image = _paint(image, _inside(look.chest_fat_mm - depth), look.fat * (1.0 + 0.05 * texture.patchy))
    return _paint(image, _inside(-depth), 0.0)


def _abdomen(points: Points, texture: Texture, look: LookSpec, left_mm: float) -> tuple[Tensor, Tensor]:
    """Liver and stomach under the diaphragm, with fat between them, and how deep under the diaphragm a point is."""
    dome = -(left_mm + 7.0) - 0.0022 * (points.x - 15.0) ** 2 + 0.12 * (-40.0 - points.s) + 3.0 * texture.broad
    depth = dome - points.y
    border = points.x + 8.0 + 10.0 * texture.broad
    liver = look.liver * (1.0 + 0.05 * texture.fine)
    vessels = smooth_step((0.13 - (texture.patchy - 0.4).abs()) / 0.05)
    liver = _paint(liver, vessels * (points.x > 0), 0.75)
    organ = _paint(liver, _inside(-border), texture.stomach * (1.0 + 0.25 * texture.patchy))
    bowel = _inside(-border - 25.0) * _inside(depth - 25.0)
    organ = _paint(organ, bowel, (0.45 + 0.3 * texture.patchy).clamp(0.05, 1.1))
    organ = _paint(organ, _inside(3.0 - (border + 3.0).abs()), look.fat * 0.9)
    return _paint(organ, _inside(1.5 - depth), _BONE), depth


def _back(image: Tensor, points: Points, texture: Texture, look: LookSpec, left_mm: float) -> Tensor:
    """Spine and descending aorta."""
    y, x = -(left_mm + 34.0), -(left_mm + 42.0)
    image = _paint(image, _disc(points, y, x, 27.0), look.myocardium * _MUSCLE_OVER_MYOCARDIUM)
    image = _paint(image, _disc(points, y, x, 21.0), _MARROW * (1.0 + 0.1 * texture.patchy))
    image = _paint(image, _disc(points, y - 6.0, x - 24.0, 8.0), 1.1)
    y, x = -(left_mm + 14.0), -(0.35 * left_mm + 12.0)
    image = _paint(image, _disc(points, y, x, 12.5), look.myocardium)
    return _paint(image, _disc(points, y, x, 11.0), 1.0)


def _background(points: Points, texture: Texture, look: LookSpec, reach: tuple[float, float]) -> Tensor:
    left_mm, right_mm = reach
    image = _chest(points, texture, look, right_mm)
    organs, depth = _abdomen(points, texture, look, left_mm)
    body = (image > 0.03) & (points.x < right_mm + 8.0)
    image = _paint(image, _inside(depth) * body, organs)
    return _back(image, points, texture, look, left_mm)


def _ridges(points: Points, texture: Texture) -> Tensor:
    """Trabeculae: waves around and along the wall, 0 to about 1."""
    angle = torch.atan2(points.y, points.x)
    height = torch.zeros_like(angle)
    for turns, slope, phase in texture.waves.T.tolist():
        height += (turns * angle + slope * points.s + phase).sin()
    return (0.5 + 0.25 * height).clamp(0.0, 1.4)


def _epicardial_fat(points: Points, wall: Surfaces, texture: Texture, look: LookSpec) -> Tensor:
    """Thickness of the fat outside the heart: more in the grooves at the insertions and at the valves."""
    groove = torch.exp(-((wall.rv_gap / 500.0) ** 2))
    valves = torch.exp(-((points.s - 4.0) ** 2) / 120.0)
    lively = (0.55 + 0.45 * texture.broad).clamp(0.05, 1.6)
    return look.epicardial_fat_mm * (lively + 1.2 * groove + 0.8 * valves)


def _great_vessels(image: Tensor, points: Points, heart: HeartSpec, look: LookSpec) -> Tensor:
    """The root of the aorta, above the valves."""
    above = _inside(points.s - 4.0)
    y, x, radius = 0.35 * heart.cavity_radius_mm, 0.75 * heart.cavity_radius_mm, 0.55 * heart.cavity_radius_mm
    image = _paint(image, above * _disc(points, y, x, radius + 2.0), look.myocardium)
    return _paint(image, above * _disc(points, y, x, radius), 1.05)


def _ventricles(
    image: Tensor, points: Points, wall: Surfaces, texture: Texture, heart: HeartSpec, look: LookSpec
) -> Tensor:
    radius = (points.y * points.y + points.x * points.x).sqrt()
    ridges = _ridges(points, texture)
    muscle = look.myocardium * (1.0 + look.texture * texture.fine)
    blood = 1.0 + 0.6 * look.texture * texture.patchy
    tip = _inside(points.s + heart.length_mm)
    fat = _epicardial_fat(points, wall, texture, look)
    outer = wall.rv_wall.sqrt() - (1.0 - smooth_step(wall.rv_gap / 200.0)) * heart.rv_wall_mm
    sac = _inside(points.s + heart.length_mm + 4.0)
    image = _paint(image, sac * _inside(outer + fat + 1.3 - radius), _BONE)
    image = _paint(image, sac * _inside(outer + fat - radius), look.fat * (1.0 + 0.06 * texture.fine))
    right = _inside(points.s + heart.rv_length_mm + heart.rv_wall_mm) * smooth_step(wall.rv_gap / 60.0)
    image = _paint(image, right * _inside(wall.rv_wall.sqrt() - radius), muscle * 1.05)
    inner = wall.rv.sqrt() - 2.0 * heart.trabeculation_mm * ridges
    right = right * _inside(points.s + heart.rv_length_mm)
    image = _paint(image, right * _inside(inner - radius), blood * _RV_BLOOD)
    image = _paint(image, tip * _inside(wall.epi.sqrt() - radius), muscle)
    inner = wall.endo.sqrt() - heart.trabeculation_mm * ridges * (1.0 - smooth_step((points.s + 15.0) / 15.0))
    return _paint(image, _inside(points.s + heart.cavity_length_mm) * _inside(inner - radius), blood)


def paint_anatomy(heart: HeartSpec, look: LookSpec, points: Points, texture: Texture) -> Float[Tensor, "z y x"]:
    """Signal at the points of a grid at ED, papillary muscles left out (they do not move with the blood)."""
    wall = surfaces(heart, points)
    left_mm, right_mm = float(wall.epi.max().sqrt()), float(wall.rv_wall.max().sqrt())
    image = _background(points, texture, look, (left_mm, right_mm))
    image = _great_vessels(image, points, heart, look)
    return _ventricles(image, points, wall, texture, heart, look)


def papillary_share(heart: HeartSpec, lifted: Points, endo_mm: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Share of papillary muscle at points of any instant, descent and twist undone (``endo_mm``: cavity radius there).

    The two muscles stand on the free wall, at either side of its middle. They follow the wall but keep their thickness,
    as muscle does, and therefore are not part of the blood's motion.
    """
    low = smooth_step((lifted.s + 0.88 * heart.cavity_length_mm) / 8.0)
    along = low * (1.0 - smooth_step((lifted.s + 0.4 * heart.cavity_length_mm) / 8.0))
    share = torch.zeros_like(endo_mm)
    for degrees in (125.0, 235.0):
        centre = (endo_mm - 0.9 * heart.papillary_mm).clamp_min(0.45 * heart.papillary_mm)
        y = lifted.y - centre * math.sin(math.radians(degrees))
        x = lifted.x - centre * math.cos(math.radians(degrees))
        depth = heart.papillary_mm * along - (y * y + x * x).sqrt()
        share = torch.maximum(share, _inside(depth) * (along > 0))
    return share
