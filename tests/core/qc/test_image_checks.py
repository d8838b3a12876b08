"""Images of questionable quality are flagged, and the images of a plain heart are not."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.qc.image_checks import check_bands, check_image, image_flags
from cmnet_core.types import CineSequence, Spacing

SPACING = Spacing(10.0, 1.5, 1.5)
SIZE = 96
BRIGHTNESS = torch.tensor([70.0, 200.0, 60.0, 190.0])


def heart(*radii: int) -> tuple[Tensor, Tensor]:
    """Image and labels of slices with an LV of these radii in voxels, off the middle of the image."""
    axis = torch.arange(SIZE, dtype=torch.float32) - SIZE // 2
    y, x = torch.meshgrid(axis + 4, axis - 6, indexing="ij")
    labels = torch.zeros(len(radii), SIZE, SIZE, dtype=torch.uint8)
    for plane, radius in zip(labels, radii, strict=True):
        plane[(x + 26).hypot(y) < 14] = Label.RV
        plane[x.hypot(y) < radius + 6] = Label.MYO
        plane[x.hypot(y) < radius] = Label.LV
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    return (BRIGHTNESS[labels.long()] + 3 * noise).clamp(0), labels


def cine(volume: Tensor, *, spacing: Spacing = SPACING) -> CineSequence:
    frames = torch.stack([volume, volume.roll(1, dims=2)])
    return CineSequence(frames, spacing, torch.eye(4, dtype=torch.float64), None, ed=0, es=1)


def banded(volume: Tensor, *, angle_deg: float, offset_mm: float, width_mm: float = 7.0) -> Tensor:
    """A straight dark band through the middle of the heart, across the whole field of view."""
    axis = (torch.arange(SIZE, dtype=torch.float32) - SIZE // 2) * SPACING.y
    y, x = torch.meshgrid(axis + 6, axis - 9, indexing="ij")
    angle = math.radians(angle_deg)
    distance = y * math.cos(angle) - x * math.sin(angle) - offset_mm
    return volume * (1 - 0.85 * torch.exp(-((distance / width_mm) ** 2)))


def test_a_plain_heart_has_no_flag() -> None:
    volume, labels = heart(16, 18, 17, 14, 9)
    assert list(check_image(cine(volume))) == []
    assert list(check_bands(volume, labels, SPACING)) == []
    assert list(check_bands(volume, torch.zeros_like(labels), SPACING)) == []


@pytest.mark.parametrize("angle_deg", [0, 35, 90, 145])
@pytest.mark.parametrize("offset_mm", [-10, 0, 6])
def test_a_dark_band_through_the_lv_is_flagged(angle_deg: float, offset_mm: float) -> None:
    volume, labels = heart(16, 18, 17, 14, 9)
    spoiled = banded(volume, angle_deg=angle_deg, offset_mm=offset_mm)
    assert list(check_bands(spoiled, labels, SPACING)) == ["dark-band"]


@pytest.mark.parametrize(("noise", "flags"), [(0.04, []), (0.15, ["heavy-noise"])])
def test_heavy_noise_is_flagged(noise: float, flags: list[str]) -> None:
    volume, _ = heart(16, 18, 17, 14, 9)
    added = noise * volume.max() * torch.randn(volume.shape, generator=torch.Generator().manual_seed(1))
    assert list(check_image(cine((volume + added).abs()))) == flags


def test_a_negative_is_flagged() -> None:
    volume, _ = heart(16, 18, 17, 14, 9)
    negative = cine(volume.max() - volume)
    assert list(check_image(negative)) == ["intensities-inverted"]
    assert [text.partition(":")[0] for text in image_flags(negative)] == ["The image may be a negative"]


def test_a_slice_that_is_empty_in_one_frame_is_flagged() -> None:
    volume, _ = heart(16, 18, 17, 14, 9)
    incomplete = cine(volume)
    incomplete.voxels[1, 2] = 0.0
    assert list(check_image(incomplete)) == ["slices-empty"]


@pytest.mark.parametrize("rounding", [0.0, 0.4])
def test_end_slices_stored_again_are_flagged(rounding: float) -> None:
    volume, _ = heart(16, 18, 17, 14, 9)
    again = torch.cat([volume[:1], volume, volume[-1:], volume[-1:]])
    assert list(check_image(cine(again + rounding * torch.rand(again.shape)))) == ["slices-copied"]


@pytest.mark.parametrize(("mm", "flags"), [(14.9, []), (15.0, ["slices-far-apart"])])
def test_slices_far_apart_are_flagged(mm: float, flags: list[str]) -> None:
    volume, _ = heart(16, 18, 17, 14, 9)
    assert list(check_image(cine(volume, spacing=replace(SPACING, z=mm)))) == flags
