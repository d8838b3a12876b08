"""Simulated cines of the second motion class, for judging a method and not for training one.

One real ED image moves by :mod:`cmnet_core.simulation.cylinder_motion`. Three properties distinguish these cines from
those of :mod:`cmnet_core.simulation.cine`: no stationary velocity has their motion as its exponential; every frame has
noise of its own, which does not move; and the texture of a slice is not found again in its neighbours when the tissue
moves through the slices, but fades into new texture.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.filters import smooth_in_plane
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import from_voxels, warp
from cmnet_core.simulation.cine import (
    MAX_DESCENT_FRACTION,
    SimulatedCine,
    TangentialMotion,
    VoxelAxis,
    draw_tangential_motion,
    fit_voxel_axis,
    noise_sd,
    volume_course,
)
from cmnet_core.simulation.cylinder_motion import Contraction, CylinderMotion, Points, VentricleShape
from cmnet_core.types import Spacing

_LEVEL_MM = 4.0
"""Standard deviation of the Gaussian that smooths the intensities of each tissue, in mm; the rest is texture."""

_LEAST_EJECTED, _MOST_EJECTED = 0.05, 0.75
"""Bounds of the ejection fraction of a subject that the motion is given."""

_ABOVE_BASE = 2
"""Slices that are added above the stack's base: what the descent of the base brings into the stack."""

_RV_SHARE = 0.8
"""Ejection fraction of the RV relative to that of the LV."""


@dataclass(frozen=True, slots=True)
class _Amplitudes:
    """The motion of a subject at ES, with courses over time that differ between its parts."""

    peak: Contraction
    tangential: TangentialMotion

    def at(self, contraction: float, *, after_es: bool) -> Contraction:
        """Return the motion of a frame from the fraction of the stroke volume that has been ejected.

        The base descends later than the cavity empties, and after ES the twist vanishes before the cavity fills.
        """
        peak, twist = self.peak, contraction**1.5 if after_es else contraction**0.8
        return Contraction(
            cavity=contraction * peak.cavity,
            rv_cavity=contraction * peak.rv_cavity,
            descent_mm=contraction**1.3 * peak.descent_mm,
            basal_rad=twist * peak.basal_rad,
            apical_rad=twist * peak.apical_rad,
            waves=peak.waves,
            waves_rad=peak.waves_rad,
            tilt=peak.tilt,
        )


def simulate_cylinder_cine(
    image: Float[Tensor, "z y x"],
    ed_mask: UInt8[Tensor, "z y x"],
    es_mask: UInt8[Tensor, "z y x"],
    spacing: Spacing,
    *,
    frames: int,
    generator: torch.Generator,
) -> SimulatedCine:
    """Move one ED image over a cardiac cycle by a motion in closed form.

    Args:
        image: Normalised intensities at ED.
        ed_mask: Mask at ED.
        es_mask: Mask at ES, which determines the ejection fraction alone.
        spacing: Voxel spacing of image and masks in mm.
        frames: Number of frames of the cycle.
        generator: Draws the motion that the masks do not determine, the texture and the noise.
    """
    stack = _extended(image, ed_mask)
    axis, shape = fit_voxel_axis(stack.mask), ventricle_shape(stack.mask, spacing)
    amplitudes = _draw_amplitudes(shape, ejection_fraction(ed_mask, es_mask), generator)
    layers = _layers(stack, spacing, generator)
    labels_at_ed = functional.one_hot(stack.mask.long(), len(Label)).movedim(-1, 0).float()
    noise, (course, es) = noise_sd(image), volume_course(frames)
    voxels, labels, fields = [], [], []
    for frame, contraction in enumerate(course):
        motion = CylinderMotion(shape, amplitudes.at(contraction, after_es=frame > es))
        displacement = pull_back(motion, axis, stack.image.shape, spacing)
        moved = layers.moved(displacement)[stack.own]
        voxels.append((moved + noise * torch.randn(moved.shape, generator=generator)).clamp_min(0.0))
        labels.append(warp(labels_at_ed[None], displacement)[0].argmax(0)[stack.own].to(torch.uint8))
        fields.append(from_voxels(displacement[0, :, stack.own], spacing, fixed=frame, moving=0))
    return SimulatedCine(torch.stack(voxels), torch.stack(labels), tuple(fields), es, amplitudes.tangential)


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """A stack at ED with further slices above its base.

    Attributes:
        image: The image; the further slices repeat the one next to them.
        mask: The mask, which is empty in the further slices.
        tissue: The mask, with blood in the further slices as in the one next to them: the atria.
        own: The slices of the image that was given.
    """

    image: Float[Tensor, "z y x"]
    mask: UInt8[Tensor, "z y x"]
    tissue: UInt8[Tensor, "z y x"]
    own: slice


def _extended(image: Float[Tensor, "z y x"], mask: UInt8[Tensor, "z y x"]) -> _Stack:
    axis = fit_voxel_axis(mask)
    above = -1 if axis.base > axis.apex else 0
    blood = torch.where(mask[above] == Label.MYO, torch.zeros_like(mask[above]), mask[above])
    further = (image[above].expand(_ABOVE_BASE, -1, -1), blood.expand(_ABOVE_BASE, -1, -1))
    empty = torch.zeros_like(further[1])
    parts = ((image, further[0]), (mask, empty), (mask, further[1]))
    extended = [torch.cat(part if above else part[::-1]) for part in parts]
    own = slice(0, len(mask)) if above else slice(_ABOVE_BASE, _ABOVE_BASE + len(mask))
    return _Stack(extended[0], extended[1], extended[2], own)


def ejection_fraction(ed_mask: UInt8[Tensor, "z y x"], es_mask: UInt8[Tensor, "z y x"]) -> float:
    """Return the ejected fraction of the LV cavity, within plausible bounds."""
    ed, es = (float((mask == Label.LV).sum()) for mask in (ed_mask, es_mask))
    return min(max(1.0 - es / max(ed, 1.0), _LEAST_EJECTED), _MOST_EJECTED)


def ventricle_shape(mask: UInt8[Tensor, "z y x"], spacing: Spacing) -> VentricleShape:
    """Return the circles of the areas of a mask at ED, from the base to the apex."""
    axis = fit_voxel_axis(mask)
    step = 1 if axis.apex >= axis.base else -1
    slices = list(range(axis.base, axis.apex + step, step))
    voxel_mm2 = spacing.y * spacing.x
    lv, epi = (mask == Label.LV), (mask == Label.LV) | (mask == Label.MYO)
    centres = axis.centres(len(mask))
    rv = (mask == Label.RV).nonzero().float()
    offset = (rv[:, 1:] - centres[rv[:, 0].long()]) * torch.tensor([spacing.y, spacing.x])
    towards = offset.mean(0) if len(offset) else torch.tensor([0.0, -1.0])
    distance = torch.zeros(len(mask)).scatter_reduce(0, rv[:, 0].long(), offset.norm(dim=1), "amax")
    epi_mm = _radii(epi, voxel_mm2)[slices].clamp_min(4.0)
    return VentricleShape(
        length_mm=max(len(slices) - 1, 1) * spacing.z,
        slice_mm=spacing.z,
        endo_mm=torch.minimum(_radii(lv, voxel_mm2)[slices].clamp_min(2.0), 0.9 * epi_mm),
        epi_mm=epi_mm,
        rv_mm=torch.maximum(distance[slices], epi_mm),
        rv_rad=math.atan2(float(towards[1]), float(towards[0])),
    )


def _radii(structure: Tensor, voxel_mm2: float) -> Float[Tensor, " z"]:
    return (structure.flatten(1).sum(1) * voxel_mm2 / math.pi).sqrt()


def _draw_amplitudes(shape: VentricleShape, ejected: float, generator: torch.Generator) -> _Amplitudes:
    """Draw the motion at ES; the ejection fraction is that of the subject."""
    tangential = draw_tangential_motion(generator, length_mm=shape.length_mm)
    first, second, gain, phase, phase_2, tilt_y, tilt_x = torch.rand(7, generator=generator).tolist()
    peak = Contraction(
        cavity=ejected,
        rv_cavity=_RV_SHARE * ejected,
        descent_mm=min(tangential.descent_mm, MAX_DESCENT_FRACTION * shape.length_mm),
        basal_rad=math.radians(tangential.basal_deg),
        apical_rad=math.radians(tangential.apical_deg),
        waves=(0.3 * first, 0.15 * second, 0.3 * gain),
        waves_rad=(2.0 * math.pi * phase, 2.0 * math.pi * phase_2),
        tilt=(2.0 * tilt_y - 1.0, 2.0 * tilt_x - 1.0),
    )
    return _Amplitudes(peak, tangential)


def pull_back(
    motion: CylinderMotion, axis: VoxelAxis, shape: tuple[int, ...], spacing: Spacing
) -> Float[Tensor, "1 3 z y x"]:
    """Return the displacement of a frame into ED in voxels, at every voxel of the frame."""
    z, y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    direction = 1.0 if axis.apex >= axis.base else -1.0
    origin, slope = torch.tensor(axis.origin).double(), torch.tensor(axis.slope).double()
    at_frame = Points(
        direction * (z - axis.base) * spacing.z,
        (y - origin[0] - z * slope[0]) * spacing.y,
        (x - origin[1] - z * slope[1]) * spacing.x,
    )
    at_ed = motion.inverse(at_frame)
    z_ed = axis.base + direction * at_ed.s / spacing.z
    y_ed = at_ed.y / spacing.y + origin[0] + z_ed * slope[0]
    x_ed = at_ed.x / spacing.x + origin[1] + z_ed * slope[1]
    return torch.stack([z_ed - z, y_ed - y, x_ed - x])[None].float()


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """An ED image as tissue of smooth intensity, which moves in 3-D, and texture, which stays in its slice.

    Attributes:
        tissue: Class membership of every voxel.
        levels: Smooth intensity of each class, also beyond it.
        texture: The image minus both, without noise.
        new_texture: Other texture of the same power spectrum and local contrast.
    """

    tissue: Float[Tensor, "k z y x"]
    levels: Float[Tensor, "k z y x"]
    texture: Float[Tensor, "z y x"]
    new_texture: Float[Tensor, "z y x"]

    def moved(self, displacement: Float[Tensor, "1 3 z y x"]) -> Float[Tensor, "z y x"]:
        """Return the image of a frame without noise.

        Where the tissue of a slice comes from another slice, at a distance of one slice or more, all of the texture is
        new; the variance is the same everywhere.
        """
        tissue, levels = warp(self.tissue[None], displacement)[0], warp(self.levels[None], displacement)[0]
        in_plane = torch.cat([torch.zeros_like(displacement[:, :1]), displacement[:, 1:]], dim=1)
        own, new = (warp(part[None, None], in_plane)[0, 0] for part in (self.texture, self.new_texture))
        share = 0.5 * math.pi * displacement[0, 0].abs().clamp_max(1.0)
        return (tissue * levels).sum(0) + share.cos() * own + share.sin() * new


def _layers(stack: _Stack, spacing: Spacing, generator: torch.Generator) -> _Layers:
    image, tissue = stack.image, functional.one_hot(stack.tissue.long(), len(Label)).movedim(-1, 0).float()
    sd = _LEVEL_MM / math.sqrt(spacing.y * spacing.x)
    weights = smooth_in_plane(tissue, sd) + 1e-3
    mean = (tissue * image).flatten(1).sum(1) / tissue.flatten(1).sum(1).clamp_min(1.0)
    levels = (smooth_in_plane(tissue * image, sd) + 1e-3 * mean.view(-1, 1, 1, 1)) / weights
    texture = _without_noise(image - (tissue * levels).sum(0))
    contrast = (smooth_in_plane(texture[None].square(), sd)[0] + 1e-6).sqrt()
    return _Layers(tissue, levels, texture, contrast * _shuffled(texture / contrast, generator))


def _without_noise(texture: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Smooth texture by the kernel 1-2-1 along both axes, which removes five sixths of the variance of white noise."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    padded = functional.pad(texture[:, None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])[:, 0]


def _shuffled(texture: Float[Tensor, "z y x"], generator: torch.Generator) -> Float[Tensor, "z y x"]:
    """Return noise with the power spectrum of each slice's texture."""
    noise = torch.fft.fft2(torch.randn(texture.shape, generator=generator))
    spectrum = torch.fft.fft2(texture - texture.mean((1, 2), keepdim=True)).abs()
    shuffled: Tensor = torch.fft.ifft2(spectrum * noise / noise.abs().clamp_min(1e-9)).real
    return shuffled
