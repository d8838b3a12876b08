"""Ground truth of a simulated cine: the strain of its wall, from the motion by which it was simulated.

The long axis and the strain are computed here independently of :mod:`cmnet_core.geometry` and
:mod:`cmnet_core.mechanics`, so that these can be validated against them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.registration.displacement import deformation_gradient
from cmnet_core.simulation.cine import SimulatedCine, VoxelAxis, fit_voxel_axis
from cmnet_core.types import MotionField


@dataclass(frozen=True, slots=True, eq=False)
class WallStrain:
    """Mean Green-Lagrange strain of the LV's wall in every frame, with ED as the reference.

    The means are over the wall's volume at ED. The directions are radial, circumferential and longitudinal to the long
    axis at ED.

    Attributes:
        err: Radial strain.
        ecc: Circumferential strain.
        ell: Longitudinal strain.
    """

    err: Float[Tensor, " t"]
    ecc: Float[Tensor, " t"]
    ell: Float[Tensor, " t"]


def wall_strain(simulated: SimulatedCine) -> WallStrain:
    """Compute the strain of the wall in every frame."""
    axis = fit_voxel_axis(simulated.labels[0])
    frames = zip(simulated.to_ed, simulated.labels, strict=True)
    means = torch.stack([_mean_strain(field, labels, axis) for field, labels in frames], dim=1)
    return WallStrain(means[0], means[1], means[2])


def _mean_strain(to_ed: MotionField, labels: UInt8[Tensor, "z y x"], axis: VoxelAxis) -> Float[Tensor, "3"]:
    """Return the mean radial, circumferential and longitudinal strain of the wall.

    The pull-back x → X has the gradient G. The deformation gradient is F = G⁻¹, and a voxel of the frame has det G
    times its volume at ED, so that no field needs to be inverted.
    """
    wall = labels == Label.MYO
    pull_back = deformation_gradient(to_ed)[:, :, wall].movedim(-1, 0).double()
    volume = torch.linalg.det(pull_back)
    gradient = torch.linalg.inv(pull_back)
    strains = [0.5 * ((gradient @ n[..., None])[..., 0].square().sum(-1) - 1.0) for n in _directions(to_ed, wall, axis)]
    return torch.stack([(strain * volume).sum() / volume.sum() for strain in strains]).float()


def _directions(
    to_ed: MotionField, wall: Bool[Tensor, "z y x"], axis: VoxelAxis
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Return the radial, circumferential and longitudinal unit vectors at the ED positions of the wall's voxels."""
    size = torch.tensor(to_ed.spacing.zyx, dtype=torch.float64)
    at_ed = wall.nonzero().double() + (to_ed.displacement_mm[:, wall].T.double() / size)
    origin = torch.tensor([0.0, *axis.origin], dtype=torch.float64)
    longitudinal = size * torch.tensor([1.0, *axis.slope], dtype=torch.float64)
    longitudinal = (longitudinal / longitudinal.norm()).expand_as(at_ed)
    radial = size * (at_ed - origin)
    radial = radial - (radial * longitudinal).sum(-1, keepdim=True) * longitudinal
    radial = radial / radial.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return radial, torch.linalg.cross(longitudinal, radial, dim=-1), longitudinal
