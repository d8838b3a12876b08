"""Coordinates of a phantom: voxels, coordinates of the heart, scanner coordinates, and time."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cmnet_core.phantom.shape import Points
from cmnet_core.phantom.spec import ScanSpec
from cmnet_core.types import Spacing


def spacing_of(scan: ScanSpec) -> Spacing:
    """Distance between voxel centres."""
    return Spacing(scan.slice_mm, scan.pixel_mm, scan.pixel_mm)


def frame_phase(scan: ScanSpec, frame: int) -> float:
    """Phase of the cycle at a frame, 0 at ED."""
    return ((frame - scan.ed) % scan.frames) / scan.frames


def heart_axes(scan: ScanSpec) -> Float64[Tensor, "3 3"]:
    """The heart's s, y and x axes as rows, in the image's (z, y, x); a reflection if slice 0 is the most basal one.

    Displayed with y down, the RV is on the left and the anterior wall at the top if ``rv_deg`` is 0.
    """
    turn, tilt_y, tilt_x = (math.radians(d) for d in (scan.rv_deg, scan.tilt_y_deg, scan.tilt_x_deg))
    up = 1.0 if scan.apex_first else -1.0
    c, n = math.cos(turn), math.sin(turn)
    flat = torch.tensor([[up, 0, 0], [0, -c, n], [0, -n, -c]], dtype=torch.float64)
    about_x = [[math.cos(tilt_y), -math.sin(tilt_y), 0], [math.sin(tilt_y), math.cos(tilt_y), 0], [0, 0, 1]]
    about_y = [[math.cos(tilt_x), 0, -math.sin(tilt_x)], [0, 1, 0], [math.sin(tilt_x), 0, math.cos(tilt_x)]]
    return flat @ torch.tensor(about_x, dtype=torch.float64) @ torch.tensor(about_y, dtype=torch.float64)


def _valve_plane_mm(scan: ScanSpec) -> Float64[Tensor, "3"]:
    """The heart's origin in the image's (z, y, x) mm, from the centre of voxel (0, 0, 0)."""
    last = (scan.slices - 1) * scan.slice_mm
    z = last - scan.base_mm if scan.apex_first else scan.base_mm
    y = 0.5 * (scan.rows - 1) * scan.pixel_mm + scan.centre_y_mm
    x = 0.5 * (scan.columns - 1) * scan.pixel_mm + scan.centre_x_mm
    return torch.tensor([z, y, x], dtype=torch.float64)


def to_heart(scan: ScanSpec, z: Tensor, y: Tensor, x: Tensor) -> Points:
    """Convert image mm (from the centre of voxel 0, 0, 0) to coordinates of the heart."""
    axes, origin = heart_axes(scan).tolist(), _valve_plane_mm(scan).tolist()
    z, y, x = z - origin[0], y - origin[1], x - origin[2]
    return Points(*(row[0] * z + row[1] * y + row[2] * x for row in axes))


def to_image(scan: ScanSpec, points: Points) -> tuple[Tensor, Tensor, Tensor]:
    """Convert coordinates of the heart to image mm: the inverse of :func:`to_heart`."""
    axes, origin = heart_axes(scan).tolist(), _valve_plane_mm(scan).tolist()
    z, y, x = (sum((axes[i][j] * points[i] for i in range(1, 3)), axes[0][j] * points[0]) + origin[j] for j in range(3))
    return z, y, x


def grid_points(scan: ScanSpec, depths_mm: Tensor) -> Points:
    """All voxel centres of the planes at these depths (mm along z), in coordinates of the heart."""
    y = torch.arange(scan.rows, dtype=depths_mm.dtype) * scan.pixel_mm
    x = torch.arange(scan.columns, dtype=depths_mm.dtype) * scan.pixel_mm
    return to_heart(scan, depths_mm[:, None, None], y[None, :, None], x[None, None, :])


def slice_depths(scan: ScanSpec, dtype: torch.dtype = torch.float64) -> Float[Tensor, " z"]:
    """Depths of the slices' centres in mm."""
    return torch.arange(scan.slices, dtype=dtype) * scan.slice_mm


def affine_of(scan: ScanSpec) -> Float64[Tensor, "4 4"]:
    """Affine, voxel (z, y, x, 1) to RAS mm, of a heart in its normal position in the chest.

    The LV's axis points left, anterior and inferior; the RV is anterior and right of it. ``rv_deg`` rotates the image
    plane, not the heart.
    """
    yaw, pitch = math.radians(scan.yaw_deg), math.radians(scan.pitch_deg)
    to_apex = torch.tensor([-0.62, 0.55, -0.56], dtype=torch.float64)
    c, n, cp, np_ = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    to_apex = torch.tensor([[c, -n, 0], [n, c, 0], [0, 0, 1]], dtype=torch.float64) @ to_apex
    to_apex = torch.tensor([[1, 0, 0], [0, cp, -np_], [0, np_, cp]], dtype=torch.float64) @ to_apex
    to_apex = to_apex / to_apex.norm()
    lateral = torch.tensor([-0.75, -0.66, 0.0], dtype=torch.float64)
    lateral = lateral - (lateral @ to_apex) * to_apex
    lateral = lateral / lateral.norm()
    inferior = torch.linalg.cross(lateral, to_apex)
    turn = math.radians(scan.rv_deg)
    x = lateral * math.cos(turn) - inferior * math.sin(turn)
    y = inferior * math.cos(turn) + lateral * math.sin(turn)
    z = -to_apex if scan.apex_first else to_apex
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.stack([z * scan.slice_mm, y * scan.pixel_mm, x * scan.pixel_mm], dim=1)
    middle = torch.tensor([scan.slices - 1, scan.rows - 1, scan.columns - 1], dtype=torch.float64) / 2.0
    affine[:3, 3] = torch.tensor([-25.0, 15.0, 10.0], dtype=torch.float64) - affine[:3, :3] @ middle
    return affine
