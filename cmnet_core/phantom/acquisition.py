"""Image acquisition: slices of finite thickness, coil sensitivity, k-space and noise."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.phantom.kinematics import Beat, Instant, cavity_mm, undo_contraction, undo_descent_and_twist
from cmnet_core.phantom.scan_grid import grid_points, slice_depths, to_image
from cmnet_core.phantom.shape import Points, labels_at, surfaces
from cmnet_core.phantom.spec import ContrastSpec, PhantomSpec, ScanSpec
from cmnet_core.phantom.tissue_signal import draw_texture, paint_anatomy, papillary_fraction

_VOLUME_STEP_MM = 2.0
_VOLUME_MARGIN_MM = 22.0
_SUBSLICE_MM = 3.4


def _subslices(scan: ScanSpec) -> Float[Tensor, "z k"]:
    """Depths averaged by each slice: an odd number, so that one is the slice's centre."""
    count = 2 * math.ceil(0.5 * (scan.thickness_mm / _SUBSLICE_MM - 1.0)) + 1
    offsets = ((torch.arange(count) + 0.5) / count - 0.5) * scan.thickness_mm
    return slice_depths(scan, torch.float32)[:, None] + offsets


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """The signal at ED, finely sampled along z."""

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


def _moving_columns(beat: Beat, points: Points) -> Tensor:
    """The in-plane voxels that move in at least one slice."""
    off = points.x - beat.descent_centre_mm
    near = off * off + points.y * points.y < (beat.descent_radius_mm + 25.0) ** 2
    return near.any(dim=0)


@dataclass(frozen=True, slots=True, eq=False)
class Scanner:
    """Computes the signal of one frame at a time; static voxels are computed once."""

    spec: PhantomSpec
    beat: Beat
    volume: _Volume
    moving: Tensor
    points: Points
    static: Float[Tensor, "z y x"]

    def signal_and_labels(self, now: Instant) -> tuple[Float[Tensor, "z y x"], UInt8[Tensor, "z y x"]]:
        """Signal of all slices at an instant, averaged over the slice thickness, and the labels at their centres."""
        image = self.static.clone()
        labels = torch.zeros_like(image, dtype=torch.uint8)
        # One slice at a time fits the processor's cache.
        for z in range(len(image)):
            image[z, self.moving], labels[z, self.moving] = self._slice(now, Points(*(p[z] for p in self.points)))
        return image, labels

    def _slice(self, now: Instant, points: Points) -> tuple[Float[Tensor, " n"], UInt8[Tensor, " n"]]:
        """Signal and labels of the moving voxels of one slice, of whose thickness ``points`` are samples (k, n)."""
        without_twist = undo_descent_and_twist(self.beat, now, points)
        wall = surfaces(self.beat.heart, without_twist)
        material = undo_contraction(self.beat, now, without_twist, wall)
        signal = self.volume.sample(self.spec.scan, *to_image(self.spec.scan, material))
        fraction = papillary_fraction(self.beat.heart, without_twist, cavity_mm(self.beat, now, without_twist, wall))
        fraction = fraction * (signal > self.spec.contrast.myocardium)
        signal = signal + fraction * (self.spec.contrast.myocardium - signal)
        centre = len(points.s) // 2
        return signal.mean(dim=0), labels_at(self.beat.heart, Points(*(p[centre] for p in material)))


def make_scanner(spec: PhantomSpec, beat: Beat, generator: torch.Generator) -> Scanner:
    """Prepare the signal at ED and its static part."""
    scan = spec.scan
    volume = _paint_volume(spec, generator)
    depths = _subslices(scan)
    flat = grid_points(scan, depths.reshape(-1))
    moving = _moving_columns(beat, flat)
    points = Points(*(p.expand(-1, scan.rows, scan.columns)[:, moving].reshape(*depths.shape, -1) for p in flat))
    below = (depths - volume.first_mm) / volume.step_mm
    floor, fraction = below.floor().long(), below.frac()[..., None, None]
    static = (volume.signal[floor] * (1.0 - fraction) + volume.signal[floor + 1] * fraction).mean(dim=1)
    return Scanner(spec=spec, beat=beat, volume=volume, moving=moving, points=points, static=static)


def coil_sensitivity(spec: PhantomSpec) -> Float[Tensor, "y x"]:
    """Coil sensitivity, which is highest at the chest wall on the RV's side."""
    scan = spec.scan
    points = grid_points(scan, torch.tensor([0.5 * (scan.slices - 1) * scan.slice_mm]))
    away = ((points.x - 120.0) ** 2 + (points.y - 40.0) ** 2).sqrt()[0]
    return 1.0 + spec.contrast.bias_field * (1.6 * torch.exp(-away / 110.0) - 0.55)


def _kspace_window(size: int, fraction: float) -> Float[Tensor, " k"]:
    """1 where k-space is acquired, 0 outside, with a short linear edge."""
    k: Tensor = torch.fft.fftfreq(size).abs() * 2.0
    return ((fraction - k) / 0.12 + 0.5).clamp(0.0, 1.0)


def measure_kspace(
    image: Float[Tensor, "z y x"], contrast: ContrastSpec, generator: torch.Generator
) -> Float[Tensor, "z y x"]:
    """Acquire k-space within a band limit and with complex noise, and reconstruct the magnitude, which is Rician.

    Gudbjartsson & Patz, Magn Reson Med 1995: |A + n₁ + i n₂| with normal n₁, n₂.
    """
    window = _kspace_window(image.shape[1], contrast.resolution)[:, None] * _kspace_window(
        image.shape[2], contrast.resolution
    )
    level = contrast.noise / float((window * window).mean().sqrt())
    noise = torch.view_as_complex(torch.randn([*image.shape, 2], generator=generator)) * level
    measured: Tensor = torch.fft.fft2(image + noise) * window
    image_space: Tensor = torch.fft.ifft2(measured)
    return image_space.abs()
