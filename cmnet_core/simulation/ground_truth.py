"""What is true of a made cine: the strain of its wall, from the motion that made it."""

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
    """Mean Green-Lagrange strain of the LV's wall in every frame, reference ED.

    The directions are those of the LV's axis at ED: away from it, around it and along it. Means over the wall's volume
    at ED.

    Attributes:
        err: Radial.
        ecc: Circumferential.
        ell: Longitudinal.
    """

    err: Float[Tensor, " t"]
    ecc: Float[Tensor, " t"]
    ell: Float[Tensor, " t"]


def wall_strain(simulated: SimulatedCine) -> WallStrain:
    """The strain of every frame."""
    axis = fit_voxel_axis(simulated.labels[0])
    frames = zip(simulated.to_ed, simulated.labels, strict=True)
    means = torch.stack([_mean_strain(field, labels, axis) for field, labels in frames], dim=1)
    return WallStrain(means[0], means[1], means[2])


def _mean_strain(to_ed: MotionField, labels: UInt8[Tensor, "z y x"], axis: VoxelAxis) -> Float[Tensor, "3"]:
    """Radial, circumferential and longitudinal strain, mean over the wall.

    The pull-back x → X has the gradient G; that of the motion is F = G⁻¹, and a voxel of the frame stands for det G of
    its volume at ED. No field needs to be inverted.
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
    """Unit vectors away from the axis, around it and along it, where the wall's voxels were at ED."""
    size = torch.tensor(to_ed.spacing.zyx, dtype=torch.float64)
    at_ed = wall.nonzero().double() + (to_ed.displacement_mm[:, wall].T.double() / size)
    origin = torch.tensor([0.0, *axis.origin], dtype=torch.float64)
    along = size * torch.tensor([1.0, *axis.slope], dtype=torch.float64)
    along = (along / along.norm()).expand_as(at_ed)
    away = size * (at_ed - origin)
    away = away - (away * along).sum(-1, keepdim=True) * along
    away = away / away.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return away, torch.linalg.cross(along, away, dim=-1), along
