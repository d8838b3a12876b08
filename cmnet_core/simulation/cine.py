"""Simulated cines: one real ED image, warped along a known motion.

Data sets often have reference masks of two frames only. A velocity is registered to these two masks. A twist about the
long axis and a longitudinal displacement of the base, which masks do not show, are added in closed form, and the real
ED image is warped along the whole motion. The result resembles a cine of the subject, and its motion is exactly known.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.layers import upsample_displacement
from cmnet_core.registration.displacement import compose_displacements, exponential, from_voxels, warp
from cmnet_core.simulation.mask_registration import MaskRegistrationSettings, register_masks
from cmnet_core.types import MotionField, Spacing

SIZES = MotionSizes(integration_steps=7, output_level=1)
"""Grid and integration of the registered velocity: half the in-plane resolution, and the networks' squarings."""

SYSTOLE = 0.37
"""Duration of systole as a fraction of the cycle, for a heart at rest (Weissler et al., Circulation 37, 1968)."""

MAX_DESCENT_FRACTION = 0.25
"""Largest longitudinal displacement of the base, as a fraction of the ventricle's length."""

OUTSIDE_MM = 25.0
"""Distance outside of the epicardium, in mm, at which twist and longitudinal displacement have decayed to a third."""


@dataclass(frozen=True, slots=True)
class TangentialMotion:
    """Motion tangential to the wall at ES, which masks do not show.

    Attributes:
        basal_deg: Rotation of the base from ED in degrees, from array axis y to x: counter-clockwise on the display,
            which shows a short axis as seen from the apex.
        apical_deg: Rotation of the apex in degrees, with the same sign.
        descent_mm: Displacement of the base towards the apex in mm; the apex does not move.
    """

    basal_deg: float
    apical_deg: float
    descent_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedCine:
    """A cine of known motion, whose frame 0 is ED.

    Attributes:
        voxels: Normalised intensities.
        labels: The ED mask, warped by the motion.
        to_ed: Motion of every frame, fixed at the frame and pointing into ED.
        es: End-systolic frame.
        tangential: The tangential motion that was added to the registration of the masks.
    """

    voxels: Float[Tensor, "t z y x"]
    labels: UInt8[Tensor, "t z y x"]
    to_ed: tuple[MotionField, ...]
    es: int
    tangential: TangentialMotion


def fit_motion(
    ed: UInt8[Tensor, "z y x"],
    es: UInt8[Tensor, "z y x"],
    spacing: Spacing,
    settings: MaskRegistrationSettings | None = None,
) -> Float[Tensor, "3 z yh xh"]:
    """Fit a stationary in-plane velocity that warps the ED mask onto the ES mask.

    Args:
        ed: Mask at ED.
        es: Mask at ES.
        spacing: Voxel spacing of both in mm.
        settings: Settings of the registration; None for the defaults.

    Returns:
        The velocity at half the in-plane resolution, in its voxels; its through-plane component is 0.

    Raises:
        LabelError: A mask contains no left ventricle.
    """
    require_ventricle(ed, es)
    source, target = (functional.one_hot(mask.long(), len(Label)).movedim(-1, 1).float() for mask in (ed, es))
    velocity = register_masks(source, target, spacing, settings or MaskRegistrationSettings())
    # Two masks do not determine through-plane motion, which the longitudinal displacement of the base adds.
    in_plane = velocity.movedim(1, 0)
    return torch.cat([torch.zeros_like(in_plane[:1]), in_plane])


def require_ventricle(ed: UInt8[Tensor, "z y x"], es: UInt8[Tensor, "z y x"]) -> None:
    """Require that both masks contain a left ventricle.

    Raises:
        LabelError: One contains none.
    """
    for name, mask in (("ED", ed), ("ES", es)):
        if not bool((mask == Label.LV).any()):
            raise LabelError(
                f"The {name} mask contains no left ventricle.",
                hint="Check the mask and the label_scheme, or leave the subject out.",
                code=ErrorCode.LABEL_VALUES,
            )


def draw_tangential_motion(generator: torch.Generator, *, length_mm: float) -> TangentialMotion:
    """Draw rotation and longitudinal displacement, with the means of normal hearts and a larger spread.

    The means follow Lorenz et al., J. Cardiovasc. Magn. Reson. 2(2), 2000: the apex rotates by about 10° and the base
    by about 4° in the opposite direction.

    Args:
        generator: Draws the motion.
        length_mm: Length of the ventricle in mm; the base moves by at most :data:`MAX_DESCENT_FRACTION` of it.
    """
    basal, apical, descent = torch.randn(3, generator=generator).clamp(-2.5, 2.5).tolist()
    return TangentialMotion(
        basal_deg=-4.0 + 4.0 * basal,
        apical_deg=10.0 + 6.0 * apical,
        descent_mm=min(max(8.0 + 4.0 * descent, 0.0), MAX_DESCENT_FRACTION * length_mm),
    )


def volume_course(frames: int) -> tuple[list[float], int]:
    """Return the contraction of each frame, from 0 at ED to 1 at ES, and the frame of ES.

    The smooth course has ejection, rapid filling, diastasis and atrial contraction.
    """
    es = max(1, round(SYSTOLE * frames))
    return [_contraction(frame, frames, es) for frame in range(frames)], es


def _contraction(frame: int, frames: int, es: int) -> float:
    if frame <= es:
        return 0.5 * (1.0 - math.cos(math.pi * frame / es))
    filling = (frame - es) / (frames - es)
    early = 0.75 * _cosine_ramp(filling / 0.45)
    return 1.0 - early - 0.25 * _cosine_ramp((filling - 0.7) / 0.3)


def _cosine_ramp(time: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * min(max(time, 0.0), 1.0)))


def simulate_cine(
    image: Float[Tensor, "z y x"],
    mask: UInt8[Tensor, "z y x"],
    velocity: Float[Tensor, "3 z yh xh"],
    spacing: Spacing,
    *,
    frames: int,
    generator: torch.Generator,
) -> SimulatedCine:
    """Warp one ED image over a cardiac cycle.

    Args:
        image: Normalised intensities at ED.
        mask: Mask at ED.
        velocity: Velocity that :func:`fit_motion` returned.
        spacing: Voxel spacing of image and mask in mm.
        frames: Number of frames of the cycle.
        generator: Draws the tangential motion, and the noise of each frame.
    """
    axis = fit_voxel_axis(mask)
    tangential = draw_tangential_motion(generator, length_mm=abs(axis.apex - axis.base) * spacing.z)
    course, es = volume_course(frames)
    ed_image, one_hot = image[None, None], functional.one_hot(mask.long(), len(Label)).movedim(-1, 0)[None].float()
    noise = 0.5 * noise_sd(image)
    voxels, labels, fields = [], [], []
    for frame, contraction in enumerate(course):
        # The heart untwists before it fills: after ES the twist decreases faster than the contraction.
        twist = contraction if frame <= es else contraction**1.5
        displacement = _to_ed(mask, velocity, tangential, spacing, contraction=contraction, twist=twist)
        warped = warp(ed_image, displacement)[0, 0]
        voxels.append((warped + noise * torch.randn(warped.shape, generator=generator)).clamp_min(0.0))
        labels.append(warp(one_hot, displacement)[0].argmax(0).to(torch.uint8))
        fields.append(from_voxels(displacement[0], spacing, fixed=frame, moving=0))
    return SimulatedCine(torch.stack(voxels), torch.stack(labels), tuple(fields), es, tangential)


def _to_ed(
    mask: UInt8[Tensor, "z y x"],
    velocity: Float[Tensor, "3 z yh xh"],
    tangential: TangentialMotion,
    spacing: Spacing,
    *,
    contraction: float,
    twist: float,
) -> Float[Tensor, "1 3 z y x"]:
    """Return the displacement of a frame into ED in voxels: first the tangential motion, then that of the masks."""
    in_plane = exponential(contraction * velocity[None], steps=SIZES.integration_steps)
    outer = _tangential_displacement(mask, tangential, spacing, contraction=contraction, twist=twist)
    return compose_displacements(outer, upsample_displacement(in_plane, factor=2))


def _tangential_displacement(
    mask: UInt8[Tensor, "z y x"], tangential: TangentialMotion, spacing: Spacing, *, contraction: float, twist: float
) -> Float[Tensor, "1 3 z y x"]:
    """Return the tangential displacement into ED in voxels: rotation about the long axis, and motion along it."""
    depth, height, width = mask.shape
    axis = fit_voxel_axis(mask)
    along, centre = axis.along(depth), axis.centres(depth)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    offset = torch.stack([y - centre[:, 0, None, None], x - centre[:, 1, None, None]])
    decay = _decay_outside(mask, offset, spacing)
    degrees = tangential.basal_deg + along * (tangential.apical_deg - tangential.basal_deg)
    angle = -torch.deg2rad(twist * degrees).view(depth, 1, 1) * decay
    rotated = torch.stack(
        [
            angle.cos() * offset[0] - angle.sin() * offset[1],
            angle.sin() * offset[0] + angle.cos() * offset[1],
        ]
    )
    longitudinal = contraction * tangential.descent_mm / spacing.z * (1.0 - along).view(depth, 1, 1) * decay
    towards_apex = 1.0 if axis.apex >= axis.base else -1.0
    return torch.cat([-towards_apex * longitudinal[None], rotated - offset])[None]


@dataclass(frozen=True, slots=True)
class VoxelAxis:
    """A straight long axis of the LV in voxels, independent of that of :mod:`cmnet_core.geometry.long_axis`.

    Attributes:
        base: Basal slice.
        apex: Apical slice.
        origin: Intersection (y, x) of the axis with slice 0.
        slope: Displacement (y, x) of the axis from one slice to the next.
    """

    base: int
    apex: int
    origin: tuple[float, float]
    slope: tuple[float, float]

    def along(self, depth: int) -> Float[Tensor, " z"]:
        """Return the longitudinal position of each slice of a stack, from 0 at the base to 1 at the apex."""
        slices = torch.arange(depth).float()
        return ((slices - self.base) / ((self.apex - self.base) or 1)).clamp(0.0, 1.0)

    def centres(self, depth: int) -> Float[Tensor, "z 2"]:
        """Return the intersection (y, x) of the axis with each slice of a stack."""
        slices = torch.arange(depth).float()[:, None]
        return torch.tensor(self.origin) + slices * torch.tensor(self.slope)


def fit_voxel_axis(mask: UInt8[Tensor, "z y x"]) -> VoxelAxis:
    """Fit the long axis to an ED mask by least squares; the base is the end at which the heart is larger."""
    lv = (mask == Label.LV) | (mask == Label.MYO)
    slices = lv.flatten(1).any(1).nonzero()[:, 0]
    centres = torch.stack([lv[z].nonzero().double().mean(0) for z in slices])
    position = slices.double()
    lever = position - position.mean()
    slope = (lever[:, None] * centres).sum(0) / lever.square().sum().clamp_min(1.0)
    origin = centres.mean(0) - position.mean() * slope
    area = (mask != Label.BACKGROUND).flatten(1).sum(1).double()[slices]
    first, last = int(slices[0]), int(slices[-1])
    apex_first = float((lever * area).sum()) > 0
    return VoxelAxis(
        base=last if apex_first else first,
        apex=first if apex_first else last,
        origin=(float(origin[0]), float(origin[1])),
        slope=(float(slope[0]), float(slope[1])),
    )


def _decay_outside(
    mask: UInt8[Tensor, "z y x"], offset: Float[Tensor, "2 z y x"], spacing: Spacing
) -> Float[Tensor, "z y x"]:
    """Return 1 within the largest epicardial radius of a slice, decaying outside of it.

    It depends only on the distance from the axis: a rotation by an angle that depends only on the radius cannot fold.
    """
    area_mm2 = float((mask == Label.LV).logical_or(mask == Label.MYO).flatten(1).sum(1).max()) * spacing.y * spacing.x
    distance = torch.hypot(offset[0] * spacing.y, offset[1] * spacing.x) - math.sqrt(area_mm2 / math.pi)
    return torch.exp(-0.5 * (distance.clamp_min(0.0) / OUTSIDE_MM * 1.5).square())


def noise_sd(image: Float[Tensor, "z y x"]) -> float:
    """Estimate the standard deviation of an image's noise by the median absolute diagonal difference."""
    difference = image[:, 1:, 1:] + image[:, :-1, :-1] - image[:, 1:, :-1] - image[:, :-1, 1:]
    return float(difference.abs().median()) / 0.6745 / 2.0
