"""Made cines: one real ED image, moved along a path that is known.

Data sets often hold two frames a heart. From those two masks a velocity is fitted that carries the one onto the other;
a twist about the long axis and a descent of the base, which no mask shows, are added in closed form; and the real ED
image is warped along the whole path. What comes out looks like a cine of that heart, and its motion is known exactly.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes
from cmnet_core.models.layers import upsample_displacement
from cmnet_core.registration.displacement import compose_displacements, exponential, from_voxels, warp
from cmnet_core.simulation.mask_registration import MaskRegistrationSettings, register_masks
from cmnet_core.types import MotionField, Spacing

SIZES = MotionSizes(integration_steps=7, output_level=1)
"""The fitted velocity lives on half the plane and is integrated as the networks' are."""

SYSTOLE = 0.37
"""Share of the cycle from ED to ES, as in a heart at rest (Weissler et al., Circulation 37, 1968)."""

LARGEST_DESCENT = 0.25
"""Of the ventricle's length."""

OUTSIDE_MM = 25.0
"""Over this distance outside the heart the twist and the descent of the base fade to a third."""


@dataclass(frozen=True, slots=True)
class TangentialMotion:
    """Motion along the wall, at ES: what shape does not show.

    Attributes:
        basal_deg: Rotation of the base from ED, from array axis y to x: counter-clockwise on the display, which shows a
            short axis as seen from the apex.
        apical_deg: Rotation of the apex.
        descent_mm: How far the base moves towards the apex; the apex stays.
    """

    basal_deg: float
    apical_deg: float
    descent_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedCine:
    """A real heart on a known path; frame 0 is ED.

    Attributes:
        voxels: Intensities.
        labels: The ED mask, carried by the motion.
        to_ed: For every frame the motion fixed there and pointing into ED.
        es: End-systolic frame.
        tangential: What was added to the motion between the masks.
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
    """A stationary velocity within the slices that carries one mask onto another, on half the plane and in its voxels.

    Raises:
        LabelError: A mask holds no left ventricle.
    """
    for name, mask in (("ED", ed), ("ES", es)):
        if not bool((mask == Label.LV).any()):
            raise LabelError(
                f"The {name} mask holds no left ventricle.",
                hint="Check the mask and the label_scheme, or leave the subject out.",
                code=ErrorCode.LABEL_VALUES,
            )
    source, target = (functional.one_hot(mask.long(), len(Label)).movedim(-1, 1).float() for mask in (ed, es))
    velocity = register_masks(source, target, spacing, settings or MaskRegistrationSettings())
    # Two masks do not tell how far tissue moves through the slices: what they cannot show is left to the descent.
    in_plane = velocity.movedim(1, 0)
    return torch.cat([torch.zeros_like(in_plane[:1]), in_plane])


def draw_tangential_motion(generator: torch.Generator, *, length_mm: float) -> TangentialMotion:
    """Draw twist and descent: a normal heart's mean, and more spread than normal hearts have.

    Means after Lorenz et al., J. Cardiovasc. Magn. Reson. 2(2), 2000: the apex turns about 10° one way, the base about
    4° the other. No base descends by more than a quarter of the ventricle's length.
    """
    basal, apical, descent = torch.randn(3, generator=generator).clamp(-2.5, 2.5).tolist()
    return TangentialMotion(
        basal_deg=-4.0 + 4.0 * basal,
        apical_deg=10.0 + 6.0 * apical,
        descent_mm=min(max(8.0 + 4.0 * descent, 0.0), LARGEST_DESCENT * length_mm),
    )


def volume_course(frames: int) -> tuple[list[float], int]:
    """Share of the way from ED to ES at each frame, and the frame of ES.

    Ejection, rapid filling, a pause and the atrial kick, joined smoothly.
    """
    es = max(1, round(SYSTOLE * frames))
    return [_share_of_way(frame, frames, es) for frame in range(frames)], es


def _share_of_way(frame: int, frames: int, es: int) -> float:
    if frame <= es:
        return 0.5 * (1.0 - math.cos(math.pi * frame / es))
    filling = (frame - es) / (frames - es)
    early = 0.75 * _ramp(filling / 0.45)
    return 1.0 - early - 0.25 * _ramp((filling - 0.7) / 0.3)


def _ramp(share: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * min(max(share, 0.0), 1.0)))


def simulate_cine(
    image: Float[Tensor, "z y x"],
    mask: UInt8[Tensor, "z y x"],
    velocity: Float[Tensor, "3 z yh xh"],
    spacing: Spacing,
    *,
    frames: int,
    generator: torch.Generator,
) -> SimulatedCine:
    """Move one ED image round a cycle.

    Args:
        image: At ED, normalised.
        mask: Of the same frame.
        velocity: From :func:`fit_motion`.
        spacing: Of image and mask.
        frames: In the cycle.
        generator: Draws the hidden motion and the noise of each frame.
    """
    axis = fit_voxel_axis(mask)
    tangential = draw_tangential_motion(generator, length_mm=abs(axis.apex - axis.base) * spacing.z)
    course, es = volume_course(frames)
    still, one_hot = image[None, None], functional.one_hot(mask.long(), len(Label)).movedim(-1, 0)[None].float()
    noise = 0.5 * _noise_of(image)
    voxels, labels, fields = [], [], []
    for frame, share in enumerate(course):
        # The heart untwists before it fills: the twist runs ahead of the volume after ES.
        twist = share if frame <= es else share**1.5
        displacement = _to_ed(mask, velocity, tangential, spacing, share=share, twist=twist)
        moved = warp(still, displacement)[0, 0]
        voxels.append((moved + noise * torch.randn(moved.shape, generator=generator)).clamp_min(0.0))
        labels.append(warp(one_hot, displacement)[0].argmax(0).to(torch.uint8))
        fields.append(from_voxels(displacement[0], spacing, fixed=frame, moving=0))
    return SimulatedCine(torch.stack(voxels), torch.stack(labels), tuple(fields), es, tangential)


def _to_ed(
    mask: UInt8[Tensor, "z y x"],
    velocity: Float[Tensor, "3 z yh xh"],
    tangential: TangentialMotion,
    spacing: Spacing,
    *,
    share: float,
    twist: float,
) -> Float[Tensor, "1 3 z y x"]:
    """From a frame back to ED: first untwist and lift the base, then back along the masks' motion."""
    inner = upsample_displacement(exponential(share * velocity[None], steps=SIZES.integration_steps), factor=2)
    return compose_displacements(_hidden_motion(mask, tangential, spacing, share=share, twist=twist), inner)


def _hidden_motion(
    mask: UInt8[Tensor, "z y x"], tangential: TangentialMotion, spacing: Spacing, *, share: float, twist: float
) -> Float[Tensor, "1 3 z y x"]:
    """Back to ED, in voxels: a rotation in each slice about the long axis, and a slide along it."""
    depth, height, width = mask.shape
    axis = fit_voxel_axis(mask)
    along, centre = axis.along(depth), axis.centres(depth)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    offset = torch.stack([y - centre[:, 0, None, None], x - centre[:, 1, None, None]])
    fading = _fading(mask, offset, spacing)
    degrees = tangential.basal_deg + along * (tangential.apical_deg - tangential.basal_deg)
    angle = -torch.deg2rad(twist * degrees).view(depth, 1, 1) * fading
    turned = torch.stack(
        [
            angle.cos() * offset[0] - angle.sin() * offset[1],
            angle.sin() * offset[0] + angle.cos() * offset[1],
        ]
    )
    slide = share * tangential.descent_mm / spacing.z * (1.0 - along).view(depth, 1, 1) * fading
    towards_apex = 1.0 if axis.apex >= axis.base else -1.0
    return torch.cat([-towards_apex * slide[None], turned - offset])[None]


@dataclass(frozen=True, slots=True)
class VoxelAxis:
    """A straight axis through the LV, in voxels.

    Attributes:
        base: Slice of the base.
        apex: Slice of the apex.
        origin: Where the axis meets slice 0 (y, x).
        slope: How far it moves along y and x from one slice to the next.
    """

    base: int
    apex: int
    origin: tuple[float, float]
    slope: tuple[float, float]

    def along(self, depth: int) -> Float[Tensor, " z"]:
        """Of each slice of a stack: its place from base (0) to apex (1)."""
        every = torch.arange(depth).float()
        return ((every - self.base) / ((self.apex - self.base) or 1)).clamp(0.0, 1.0)

    def centres(self, depth: int) -> Float[Tensor, "z 2"]:
        """Where the axis meets each slice of a stack (y, x)."""
        every = torch.arange(depth).float()[:, None]
        return torch.tensor(self.origin) + every * torch.tensor(self.slope)


def fit_voxel_axis(mask: UInt8[Tensor, "z y x"]) -> VoxelAxis:
    """The axis of an ED mask. The heart is larger towards its base, whichever way the slices are counted."""
    heart = (mask == Label.LV) | (mask == Label.MYO)
    slices = heart.flatten(1).any(1).nonzero()[:, 0]
    centres = torch.stack([heart[z].nonzero().double().mean(0) for z in slices])
    place = slices.double()
    lever = place - place.mean()
    slope = (lever[:, None] * centres).sum(0) / lever.square().sum().clamp_min(1.0)
    origin = centres.mean(0) - place.mean() * slope
    area = (mask != Label.BACKGROUND).flatten(1).sum(1).double()[slices]
    first, last = int(slices[0]), int(slices[-1])
    upside_down = float((lever * area).sum()) > 0
    return VoxelAxis(
        base=last if upside_down else first,
        apex=first if upside_down else last,
        origin=(float(origin[0]), float(origin[1])),
        slope=(float(slope[0]), float(slope[1])),
    )


def _fading(mask: UInt8[Tensor, "z y x"], offset: Float[Tensor, "2 z y x"], spacing: Spacing) -> Float[Tensor, "z y x"]:
    """1 inside the ventricle's outer wall, less and less outside of it; it depends on the distance from the axis alone.

    A turn by an angle that depends only on the radius cannot fold.
    """
    area_mm2 = float((mask == Label.LV).logical_or(mask == Label.MYO).flatten(1).sum(1).max()) * spacing.y * spacing.x
    distance = torch.hypot(offset[0] * spacing.y, offset[1] * spacing.x) - math.sqrt(area_mm2 / math.pi)
    return torch.exp(-0.5 * (distance.clamp_min(0.0) / OUTSIDE_MM * 1.5).square())


def _noise_of(image: Float[Tensor, "z y x"]) -> float:
    """Standard deviation of an image's noise, from the median of its diagonal differences (robust against edges)."""
    corners = image[:, 1:, 1:] + image[:, :-1, :-1] - image[:, 1:, :-1] - image[:, :-1, 1:]
    return float(corners.abs().median()) / 0.6745 / 2.0
