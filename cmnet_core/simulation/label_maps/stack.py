"""Acquisition geometry: how the short-axis stack is planned on the heart."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.models.shape_motion_net import PIXEL_MM
from cmnet_core.phantom.shape import Points
from cmnet_core.simulation.label_maps.anatomy import Anatomy
from cmnet_core.simulation.label_maps.random_draws import RandomDraws

MIN_SLICES = 5


@dataclass(frozen=True, slots=True, eq=False)
class StackGeometry:
    """Position of the stack relative to the heart. The base is the last slice, and the RV is towards low x.

    Attributes:
        size: Voxels of the window along y and x.
        slice_mm: Distance between slices.
        base_slice: Position of the valve plane along the stack, in slices.
        rotation_rad: Rotation of the heart about the stack's normal.
        tilt_rad: Tilts of the long axis against the stack's normal.
        mirrored: Whether the stack has the other handedness.
        centre_mm: Offset (y, x) of the heart from the window's centre.
        slice_shift_mm: Offset (y, x) of each slice, as breath-holds at different positions cause.
    """

    size: int
    slice_mm: float
    base_slice: float
    rotation_rad: float
    tilt_rad: tuple[float, float]
    mirrored: bool
    centre_mm: tuple[float, float]
    slice_shift_mm: Float[Tensor, "z 2"]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.slice_shift_mm)


def draw_stack(draws: RandomDraws, anatomy: Anatomy, *, size: int) -> StackGeometry:
    """Draw a stack that starts and ends up to three slices beyond the ventricle.

    Args:
        draws: Source of randomness.
        anatomy: The anatomy at ED.
        size: Voxels of the window along y and x.
    """
    slice_mm = 10.0 if draws.happens(0.35) else draws.uniform(5.0, 10.5)
    above = draws.uniform(-0.9, 0.9) + (0.0 if draws.happens(0.5) else draws.uniform(0.0, 2.0))
    below = draws.uniform(-0.6, 1.2)
    slices = max(int(anatomy.length_mm / slice_mm + above + below) + 1, MIN_SLICES)
    shift_sd_mm = draws.uniform(0.0, 1.6)
    return StackGeometry(
        size=size,
        slice_mm=slice_mm,
        base_slice=slices - 1 - above,
        rotation_rad=math.radians(draws.uniform(-55.0, 55.0)),
        tilt_rad=(math.radians(draws.normal(0.0, 4.5)), math.radians(draws.normal(0.0, 4.5))),
        mirrored=draws.happens(0.5),
        centre_mm=(draws.normal(0.0, 5.0), draws.normal(0.0, 5.0)),
        slice_shift_mm=draws.normals(slices, 2) * shift_sd_mm,
    )


def heart_axes(stack: StackGeometry) -> Float[Tensor, "3 3"]:
    """Return the rotation from the image's axes (z, y, x) to those of the heart (s, y, x)."""
    c, n = math.cos(stack.rotation_rad), math.sin(stack.rotation_rad)
    sign = -1.0 if stack.mirrored else 1.0
    in_plane = torch.tensor([[1.0, 0, 0], [0, -c * sign, n * sign], [0, -n, -c]])
    a, b = stack.tilt_rad
    about_x = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1.0]])
    about_y = torch.tensor([[math.cos(b), 0, -math.sin(b)], [0, 1.0, 0], [math.sin(b), 0, math.cos(b)]])
    return in_plane @ about_x @ about_y


def voxels_in_heart(stack: StackGeometry, anatomy: Anatomy) -> Points:
    """Return the coordinates of every voxel's centre in the heart, in mm.

    The middle of both ventricles, halfway from base to apex, is near the centre of the window.
    """
    axes, centre = heart_axes(stack), 0.5 * (stack.size - 1) * PIXEL_MM
    halfway = torch.tensor([-0.5 * anatomy.cavity_length_mm, 0.0, 0.5 * anatomy.rv_width_mm])
    offset = (axes.T @ halfway).tolist()
    origin = [
        stack.base_slice * stack.slice_mm,
        centre + stack.centre_mm[0] - offset[1],
        centre + stack.centre_mm[1] - offset[2],
    ]
    index = torch.arange(stack.size) * PIXEL_MM
    z, y, x = torch.meshgrid(torch.arange(stack.slices) * stack.slice_mm, index, index, indexing="ij")
    y, x = y + stack.slice_shift_mm[:, :1, None], x + stack.slice_shift_mm[:, 1:, None]
    image = torch.stack([z, y, x]) - torch.tensor(origin).view(3, 1, 1, 1)
    return Points(*torch.einsum("ij,jzyx->izyx", axes, image))
