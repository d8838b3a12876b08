"""Errors of a motion field against a known one: endpoint error and strain error; regularity of a field."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.registration.displacement import deformation_gradient, green_lagrange
from cmnet_core.types import MotionField

_LEAST_DETERMINANT = 1e-3
"""Determinants are bounded below by this value before the logarithm; folded voxels have none."""


def mean_endpoint_error_mm(field: MotionField, truth: MotionField, within: Bool[Tensor, "z y x"]) -> float | None:
    """Return the mean length of the difference of two displacements in a mask, in mm; None for an empty mask."""
    error = (field.displacement_mm - truth.displacement_mm).norm(dim=0)[within]
    return float(error.mean()) if error.numel() else None


def sd_log_jacobian(jacobian: Float[Tensor, "z y x"]) -> float:
    """Return the standard deviation of log det F (SDlogJ); det F is bounded below by 0.001."""
    return float(jacobian.clamp_min(_LEAST_DETERMINANT).log().std())


def in_plane_strain(
    field: MotionField, labels: UInt8[Tensor, "z y x"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the radial and the circumferential Green-Lagrange strain at each voxel of the myocardium.

    The directions are in-plane, with respect to the centre of the cavity of each slice; slices without a cavity are
    left out.

    Args:
        field: Displacement that is fixed at ED.
        labels: Label map at ED on the same grid.
    """
    strain = green_lagrange(deformation_gradient(field))
    radial, circumferential = [], []
    for number, plane in enumerate(labels):
        cavity, wall = (plane == Label.LV).nonzero().float(), (plane == Label.MYO).nonzero()
        if not (len(cavity) and len(wall)):
            continue
        from_centre = (wall - cavity.mean(0)) * torch.tensor(field.spacing.zyx[1:])
        y, x = (from_centre / from_centre.norm(dim=1, keepdim=True).clamp_min(1e-6)).unbind(1)
        e = strain[1:, 1:, number, wall[:, 0], wall[:, 1]]
        radial.append(e[0, 0] * y * y + 2 * e[0, 1] * y * x + e[1, 1] * x * x)
        circumferential.append(e[0, 0] * x * x - 2 * e[0, 1] * y * x + e[1, 1] * y * y)
    empty = [strain.new_zeros(0)]
    return torch.cat(radial or empty), torch.cat(circumferential or empty)


def in_plane_strain_errors_pct(
    field: MotionField, truth: MotionField, labels: UInt8[Tensor, "z y x"]
) -> tuple[float | None, float | None]:
    """Return the mean absolute errors of radial and circumferential strain in the myocardium, in percentage points.

    Args:
        field: Estimated displacement that is fixed at ED.
        truth: True displacement, on the same grid.
        labels: Label map at ED on the same grid.
    """
    pairs = zip(in_plane_strain(field, labels), in_plane_strain(truth, labels), strict=True)
    errors = [100.0 * (found - known).abs() for found, known in pairs]
    radial, circumferential = (float(error.mean()) if error.numel() else None for error in errors)
    return radial, circumferential
