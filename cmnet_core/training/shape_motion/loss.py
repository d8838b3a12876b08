"""The loss of the shape motion network: errors of known motion, and the agreement of warped reference masks.

A velocity is judged in one direction: exp(v) is fixed at the frame and points into ED, exp(−v) the reverse.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models import losses
from cmnet_core.models.shape_motion_net import PIXEL_MM, WARP_SQUARINGS, voxel_mm
from cmnet_core.registration.displacement import exponential, volume_change, warp
from cmnet_core.simulation.label_maps.pair import SimulatedPair
from cmnet_core.training.shape_motion.reference_pair import FINE_MM, PairView
from cmnet_core.training.shape_motion.settings import ShapeMotionLossWeights, ShapeMotionTraining
from cmnet_core.types import Spacing

PYRAMID_LEVELS = 3
LABEL_SMOOTHING = 0.1

MIN_VOLUME_RATIO = 0.05
"""Lower bound of det F before its logarithm is taken."""

NEIGHBOURHOOD_VOXELS = 15
"""In-plane size of the neighbourhood of the heart in which the velocity is not penalised, in voxels of 3 mm."""

MIN_WALL_VOXELS = 5.0

BEYOND_SLICES = 0.25
"""Distance from the last labelled slice from which a label is unknown, in slices."""


def integrate(velocity_mm: Float[Tensor, "3 z y x"], slice_mm: float) -> Float[Tensor, "3 z y x"]:
    """Integrate a velocity and return the displacement, both in mm."""
    size = voxel_mm(slice_mm, velocity_mm)
    return exponential((velocity_mm / size)[None], steps=WARP_SQUARINGS)[0] * size


def simulated_pair_loss(
    velocity_mm: Float[Tensor, "3 z y x"], pair: SimulatedPair, weights: ShapeMotionLossWeights, *, into_ed: bool
) -> dict[str, Tensor]:
    """Compute the weighted terms of a simulated pair, whose motion is known.

    Args:
        velocity_mm: The estimated velocity in mm.
        pair: The simulated pair, on the device of the velocity.
        weights: Weights of the terms.
        into_ed: Whether the motion from the frame into ED is compared, otherwise that from ED into the frame.
    """
    field = integrate(velocity_mm if into_ed else -velocity_mm, pair.slice_mm)
    known = pair.to_ed_mm if into_ed else pair.from_ed_mm
    wall, rv, blood = pair.tissue[int(into_ed)].float().unbind(0)
    error = ((field - known).square().sum(0) + 0.01).sqrt()
    size = voxel_mm(pair.slice_mm, field)
    log_jacobian, known_log_jacobian = (_log_jacobian(values, size) for values in (field, known))
    endpoint = weights.wall * _mean_in(error, wall) + weights.rv * _mean_in(error, rv)
    return {
        "endpoint": endpoint + weights.blood * _mean_in(error, blood),
        "gradient": weights.gradient * gradient_error(field - known, wall, pair.slice_mm),
        "strain": weights.strain * strain_error(field, known, wall, pair.slice_mm),
        "log_jacobian": weights.log_jacobian * _mean_in((log_jacobian - known_log_jacobian).abs(), wall),
        "bending": weights.bending_simulated * _bending_energy(velocity_mm, pair.slice_mm),
        "outside": weights.outside * _velocity_outside(velocity_mm, pair.tissue.any(1).any(0)),
    }


def reference_pair_loss(
    velocity_mm: Float[Tensor, "3 z y x"],
    start_mm: Float[Tensor, "3 z y x"],
    view: PairView,
    settings: ShapeMotionTraining,
    *,
    into_ed: bool,
) -> dict[str, Tensor]:
    """Compute the weighted terms of a pair of reference masks, one of which is warped onto the other.

    Args:
        velocity_mm: The estimated velocity in mm.
        start_mm: The velocity of ThroughPlaneNet in mm.
        view: The masks of ED and of the frame, on the device of the velocity.
        settings: Weights and tolerances.
        into_ed: Whether the mask of ED is warped to the frame, otherwise that of the frame to ED.
    """
    weights, shapes = settings.weights, view.shapes
    field = integrate(velocity_mm if into_ed else -velocity_mm, view.slice_mm)
    moving, fixed = (0, 1) if into_ed else (1, 0)
    warped, beyond = warp_mask(view, field, moving=moving)
    # Tissue from beyond the labelled slices is unknown rather than background.
    unknown = (1.0 - weights.beyond_labels) * beyond.float()
    warped = ((1.0 - unknown) * warped + unknown * view.probabilities[fixed]).movedim(0, 1)
    target = view.probabilities[fixed].movedim(0, 1)
    log_jacobian = _log_jacobian(field, voxel_mm(view.slice_mm, field))
    excess = (log_jacobian.abs() - math.log1p(settings.volume_tolerance)).clamp_min(0.0)
    wall = shapes[:, Label.MYO - 1]
    deviation = _deviation_of_slices(velocity_mm[0] - start_mm[0], wall.amax(0), settings.through_plane_tolerance_mm)
    pyramid = losses.kl_segmentation_pyramid(warped, target, levels=PYRAMID_LEVELS, label_smoothing=LABEL_SMOOTHING)
    terms = {
        "overlap": weights.overlap * losses.dice_loss(warped, target),
        "pyramid": weights.pyramid * pyramid,
        "incompressibility": weights.incompressibility * _mean_in(excess.square() + 0.1 * excess, wall[fixed]),
        "wall_volume": weights.wall_volume * _mean_in(log_jacobian, wall[fixed]).abs(),
        "through_plane": weights.through_plane * deviation,
        "bending": weights.bending_reference * _bending_energy(velocity_mm, view.slice_mm),
        "outside": weights.outside * _velocity_outside(velocity_mm, shapes.sum((0, 1)) > 0.1),
    }
    return {name: weights.reference * term for name, term in terms.items()}


def warp_mask(
    view: PairView, field_mm: Float[Tensor, "3 z y x"], *, moving: int
) -> tuple[Float[Tensor, "4 z y2 x2"], Bool[Tensor, "z y2 x2"]]:
    """Warp the mask of ED (``moving`` 0) or of the frame (1) by a displacement on the other's grid.

    Args:
        view: The masks.
        field_mm: Displacement in mm on the grid of 3 mm.
        moving: Which mask is warped.

    Returns:
        The warped class probabilities, and where they come from beyond the labelled slices.
    """
    mask = view.probabilities[moving]
    fine = functional.interpolate(field_mm.movedim(1, 0), scale_factor=2.0, mode="bilinear").movedim(0, 1)
    fine = fine / fine.new_tensor([view.slice_mm, FINE_MM, FINE_MM]).view(3, 1, 1, 1)
    first, last = view.labelled[moving]
    depth = torch.arange(mask.shape[1], dtype=fine.dtype, device=fine.device).view(-1, 1, 1) + fine[0].detach()
    beyond = (depth > last + BEYOND_SLICES) | (depth < first - BEYOND_SLICES)
    return warp(mask[None], fine[None])[0], beyond


def _mean_in(values: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def _log_jacobian(field_mm: Float[Tensor, "3 z y x"], size: Tensor) -> Float[Tensor, "z y x"]:
    return volume_change((field_mm / size)[None]).clamp_min(MIN_VOLUME_RATIO).log()


def gradient_error(
    error_mm: Float[Tensor, "3 z y x"], wall: Float[Tensor, "z y x"], slice_mm: float
) -> Float[Tensor, ""]:
    """Average the absolute derivatives of a displacement's error between neighbouring voxels of the wall."""
    terms = []
    for axis, mm in enumerate((slice_mm, PIXEL_MM, PIXEL_MM)):
        last = wall.shape[axis] - 1
        both = wall.narrow(axis, 0, last) * wall.narrow(axis, 1, last)
        terms.append(_mean_in((error_mm.diff(dim=axis + 1) / mm).abs().sum(0), both))
    return torch.stack(terms).mean()


def strain_error(
    found_mm: Float[Tensor, "3 z y x"],
    known_mm: Float[Tensor, "3 z y x"],
    wall: Float[Tensor, "z y x"],
    slice_mm: float,
) -> Float[Tensor, ""]:
    """Average the absolute error of the six components of Green-Lagrange strain over the wall."""
    cells = wall[:-1, :-1, :-1] * wall[1:, :-1, :-1] * wall[:-1, 1:, :-1] * wall[:-1, :-1, 1:]
    return _mean_in((_cell_strain(found_mm, slice_mm) - _cell_strain(known_mm, slice_mm)).abs().mean(0), cells)


def _cell_strain(field_mm: Float[Tensor, "3 z y x"], slice_mm: float) -> Float[Tensor, "6 zc yc xc"]:
    """Compute E = ½ (∇u + ∇uᵀ + ∇uᵀ∇u) from each voxel and its next neighbours along the three axes."""
    corner = field_mm[:, :-1, :-1, :-1]
    columns = (
        (field_mm[:, 1:, :-1, :-1] - corner) / slice_mm,
        (field_mm[:, :-1, 1:, :-1] - corner) / PIXEL_MM,
        (field_mm[:, :-1, :-1, 1:] - corner) / PIXEL_MM,
    )
    pairs = ((i, j) for i in range(3) for j in range(i, 3))
    components = [columns[i][j] + columns[j][i] + (columns[i] * columns[j]).sum(0) for i, j in pairs]
    return 0.5 * torch.stack(components)


def _bending_energy(velocity_mm: Float[Tensor, "3 z y x"], slice_mm: float) -> Float[Tensor, ""]:
    spacing = Spacing(slice_mm, PIXEL_MM, PIXEL_MM)
    return losses.bending_energy((velocity_mm / voxel_mm(slice_mm, velocity_mm))[None], spacing)


def _velocity_outside(velocity_mm: Float[Tensor, "3 z y x"], heart: Bool[Tensor, "z y x"]) -> Float[Tensor, ""]:
    """Return the mean squared velocity away from the heart in mm²."""
    size = NEIGHBOURHOOD_VOXELS
    near = functional.max_pool2d(heart.float()[:, None], size, 1, size // 2)[:, 0]
    return (velocity_mm.square().sum(0) * (1.0 - near)).mean()


def _deviation_of_slices(
    difference_mm: Float[Tensor, "z y x"], wall: Float[Tensor, "z y x"], tolerance_mm: float
) -> Float[Tensor, ""]:
    """Return the mean over the slices of |mean difference in the wall| beyond a tolerance, in mm."""
    weight = wall.sum((1, 2))
    mean = (difference_mm * wall).sum((1, 2)) / weight.clamp_min(1.0)
    return _mean_in((mean.abs() - tolerance_mm).clamp_min(0.0), (weight > MIN_WALL_VOXELS).float())
