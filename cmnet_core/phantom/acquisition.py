"""From the beating chest to images: slices of finite thickness, coils, k-space and noise."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.phantom.kinematics import Beat, Instant, cavity_mm, lift, unsqueeze
from cmnet_core.phantom.scan_grid import grid_points, slice_depths, to_image
from cmnet_core.phantom.shape import Points, labels_at, surfaces
from cmnet_core.phantom.spec import LookSpec, PhantomSpec, ScanSpec
from cmnet_core.phantom.tissue_signal import draw_texture, paint_anatomy, papillary_share

_VOLUME_STEP_MM = 2.0
_VOLUME_MARGIN_MM = 22.0
_SUBSLICE_MM = 3.4


def _subslices(scan: ScanSpec) -> Float[Tensor, "z k"]:
    """Depths over which each slice averages: an odd number, so that one is the slice's centre."""
    count = 2 * math.ceil(0.5 * (scan.thickness_mm / _SUBSLICE_MM - 1.0)) + 1
    offsets = ((torch.arange(count) + 0.5) / count - 0.5) * scan.thickness_mm
    return slice_depths(scan, torch.float32)[:, None] + offsets


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """The chest at ED, finely sampled along z."""

    signal: Float[Tensor, "z y x"]
    first_mm: float
    step_mm: float

    def sample(self, scan: ScanSpec, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Linear interpolation at image mm."""
        half = [0.5 * (n - 1) for n in self.signal.shape]
        where = torch.stack(
            [
                x / (scan.pixel_mm * half[2]) - 1.0,
                y / (scan.pixel_mm * half[1]) - 1.0,
                (z - self.first_mm) / (self.step_mm * half[0]) - 1.0,
            ],
            dim=-1,
        )
        sampled = functional.grid_sample(
            self.signal[None, None], where.reshape(1, 1, 1, -1, 3), padding_mode="border", align_corners=True
        )
        return sampled.reshape(z.shape)


def _paint_volume(spec: PhantomSpec, generator: torch.Generator) -> _Volume:
    scan = spec.scan
    first = -_VOLUME_MARGIN_MM
    last = (scan.slices - 1) * scan.slice_mm + _VOLUME_MARGIN_MM
    depths = torch.arange(first, last + _VOLUME_STEP_MM, _VOLUME_STEP_MM)
    texture = draw_texture((len(depths), scan.rows, scan.columns), generator)
    points = Points(*(p.expand(len(depths), scan.rows, scan.columns) for p in grid_points(scan, depths)))
    return _Volume(paint_anatomy(spec, points, texture), first, _VOLUME_STEP_MM)


def _moving(beat: Beat, points: Points) -> Tensor:
    """The in-plane voxels that move in some slice."""
    off = points.x - beat.descent_centre_mm
    near = off * off + points.y * points.y < (beat.descent_radius_mm + 25.0) ** 2
    return near.any(dim=0)


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Sees the beating chest, one frame at a time: what does not move is painted once."""

    spec: PhantomSpec
    beat: Beat
    volume: _Volume
    moving: Tensor
    points: Points
    still: Float[Tensor, "z y x"]

    def see(self, now: Instant) -> tuple[Float[Tensor, "z y x"], UInt8[Tensor, "z y x"]]:
        """Signal of all slices at an instant, averaged over each slice's thickness, and the tissue at their centres."""
        lifted = lift(self.beat, now, self.points)
        wall = surfaces(self.beat.heart, lifted)
        material = unsqueeze(self.beat, now, lifted, wall)
        signal = self.volume.sample(self.spec.scan, *to_image(self.spec.scan, material))
        share = papillary_share(self.beat.heart, lifted, cavity_mm(self.beat, now, lifted, wall))
        share = share * (signal > self.spec.look.myocardium)
        signal = signal + share * (self.spec.look.myocardium - signal)
        image = self.still.clone()
        image[:, self.moving] = signal.mean(dim=1)
        labels = torch.zeros_like(image, dtype=torch.uint8)
        centre = self.points.s.shape[1] // 2
        labels[:, self.moving] = labels_at(self.beat.heart, Points(*(p[:, centre] for p in material)))
        return image, labels


def make_camera(spec: PhantomSpec, beat: Beat, generator: torch.Generator) -> Camera:
    """Paint the chest and what of it stands still."""
    scan = spec.scan
    volume = _paint_volume(spec, generator)
    depths = _subslices(scan)
    flat = grid_points(scan, depths.reshape(-1))
    moving = _moving(beat, flat)
    points = Points(*(p.expand(-1, scan.rows, scan.columns)[:, moving].reshape(*depths.shape, -1) for p in flat))
    below = (depths - volume.first_mm) / volume.step_mm
    floor, share = below.floor().long(), below.frac()[..., None, None]
    still = (volume.signal[floor] * (1.0 - share) + volume.signal[floor + 1] * share).mean(dim=1)
    return Camera(spec=spec, beat=beat, volume=volume, moving=moving, points=points, still=still)


def coil_shading(spec: PhantomSpec) -> Float[Tensor, "y x"]:
    """Sensitivity of the coils: highest at the chest wall, on the RV's side."""
    scan = spec.scan
    points = grid_points(scan, torch.tensor([0.5 * (scan.slices - 1) * scan.slice_mm]))
    away = ((points.x - 120.0) ** 2 + (points.y - 40.0) ** 2).sqrt()[0]
    return 1.0 + spec.look.bias_field * (1.6 * torch.exp(-away / 110.0) - 0.55)


def _k_window(size: int, share: float) -> Float[Tensor, " k"]:
    """1 where k-space was measured, 0 beyond, with a short smooth edge."""
    k: Tensor = torch.fft.fftfreq(size).abs() * 2.0
    return ((share - k) / 0.12 + 0.5).clamp(0.0, 1.0)


def expose(image: Float[Tensor, "z y x"], look: LookSpec, generator: torch.Generator) -> Float[Tensor, "z y x"]:
    """Measure k-space: a band limit with its point spread, and complex noise of which the magnitude is Rician.

    Gudbjartsson & Patz, Magn Reson Med 1995: |A + n₁ + i n₂| with normal n₁, n₂.
    """
    window = _k_window(image.shape[1], look.resolution)[:, None] * _k_window(image.shape[2], look.resolution)
    level = look.noise / float((window * window).mean().sqrt())
    noise = torch.view_as_complex(torch.randn([*image.shape, 2], generator=generator)) * level
    measured: Tensor = torch.fft.fft2(image + noise) * window
    seen: Tensor = torch.fft.ifft2(measured)
    return seen.abs()
