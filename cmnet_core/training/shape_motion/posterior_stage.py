"""The stage ``motion-posterior``: the covariance of the motion is trained on simulated label maps.

The mean remains as it is. The covariance σ² I + V Vᵀ of each voxel maximises the Gaussian likelihood of the difference
between the true and the estimated displacement into ED, in voxels of the velocity's grid. To first order it is also
the covariance of the velocity. The rotation of each slice about the long axis is no part of that difference: shapes do
not show it, and at inference RotationNet estimates it from the images.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.models.gaussian import negative_log_density, squared_mahalanobis
from cmnet_core.models.shape_motion_net import ShapeMotionNet, voxel_mm
from cmnet_core.simulation.label_maps.pair import SimulatedPair, draw_pair
from cmnet_core.training.loop import TrainingMonitor, TrainingSample, TrainingTask, mean_metrics, run_training
from cmnet_core.training.shape_motion.loss import integrate
from cmnet_core.training.shape_motion.reference_pair import imitate_segmentation_errors
from cmnet_core.training.shape_motion.residual_stage import on_device
from cmnet_core.training.shape_motion.settings import MotionPosteriorTraining

METRICS = ("nll_nats", "mahalanobis_ratio", "coverage_pct")
"""The metrics that can be monitored in this stage."""

CHI2_3_95 = 7.815
"""95th percentile of the χ² distribution with three degrees of freedom."""

_VALIDATION_SEED = 2_500_009


def train_motion_posterior(
    *, settings: MotionPosteriorTraining, monitor: TrainingMonitor, start: ShapeMotionNet
) -> ShapeMotionNet:
    """Train the head of the posterior; all other parts of the network remain as they are.

    Args:
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The trained network.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    start.requires_grad_(False)
    start.posterior_head.requires_grad_(True)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        drawn = [draw_posterior_sample(settings, sample.generator) for sample in batch]
        terms = [posterior_loss(start, pair, shapes, settings, monitor.device) for pair, shapes in drawn]
        return {"loss": torch.stack(terms).mean()}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, ShapeMotionNet)
        return validate_motion_posterior(average, settings)

    task = TrainingTask(settings.pairs_per_epoch, settings.pairs_per_step, loss, validate)
    run_training(start, task, schedule=settings.schedule, monitor=monitor)
    return start.requires_grad_(True)


def draw_posterior_sample(
    settings: MotionPosteriorTraining, generator: torch.Generator
) -> tuple[SimulatedPair, Float[Tensor, "2 3 z y x"]]:
    """Draw a simulated pair and the label maps that the network takes, possibly with segmentation errors."""
    pair = draw_pair(generator, size=settings.window)
    probability = settings.segmentation_error_probability
    return pair, imitate_segmentation_errors(pair.shapes, generator, probability=probability)


def posterior_loss(
    model: ShapeMotionNet,
    pair: SimulatedPair,
    shapes: Float[Tensor, "2 3 z y x"],
    settings: MotionPosteriorTraining,
    device: torch.device,
) -> Float[Tensor, ""]:
    """Compute the mean negative log density of the error in nats over the wall and, with less weight, the blood."""
    pair = on_device(pair, device)
    error, variance, factor = _error_and_covariance(model, pair, shapes.to(device))
    wall, rv, blood = pair.tissue[1].float().unbind(0)
    weight = wall + settings.rv * rv + settings.blood * blood
    return (negative_log_density(error, variance, factor) * weight).sum() / weight.sum().clamp_min(1.0)


def _error_and_covariance(
    model: ShapeMotionNet, pair: SimulatedPair, shapes: Float[Tensor, "2 3 z y x"]
) -> tuple[Float[Tensor, "3 z y x"], Float[Tensor, "1 z y x"], Float[Tensor, "3 r z y x"]]:
    """Return the error of the displacement into ED in voxels, σ² and V."""
    with torch.no_grad():
        *_, (velocity, features) = model.iterate(model.start(shapes, pair.slice_mm), shapes, pair.slice_mm)
        error = (pair.to_ed_mm - integrate(velocity, pair.slice_mm)) / voxel_mm(pair.slice_mm, velocity)
        error = without_slice_rotation(error, pair.tissue[1, 0].float())
    log_variance, factor = model.posterior_head(features)
    return error, log_variance.movedim(1, 0).exp(), factor.movedim(0, 2)


def without_slice_rotation(error: Float[Tensor, "3 z y x"], wall: Float[Tensor, "z y x"]) -> Float[Tensor, "3 z y x"]:
    """Subtract from each slice the small rotation about the wall's centre that explains the error best.

    The angle is the least-squares solution Σ (x e_y − y e_x) / Σ (x² + y²) over the wall, from axis x towards axis y.

    Args:
        error: Difference of two displacements, in voxels.
        wall: 1 in the wall of the left ventricle.
    """
    area = wall.sum((1, 2)).clamp_min(1.0).view(-1, 1, 1)
    rows, columns = (torch.arange(count, device=wall.device, dtype=wall.dtype) for count in wall.shape[1:])
    y, x = (
        position - (wall * position).sum((1, 2), keepdim=True) / area for position in (rows[:, None], columns[None])
    )
    e_y, e_x = (error[axis] - (wall * error[axis]).sum((1, 2), keepdim=True) / area for axis in (1, 2))
    power = (wall * (x.square() + y.square())).sum((1, 2), keepdim=True).clamp_min(1.0)
    angle = (wall * (x * e_y - y * e_x)).sum((1, 2), keepdim=True) / power
    return torch.stack([error[0], error[1] - angle * x, error[2] + angle * y])


@torch.no_grad()
def validate_motion_posterior(model: ShapeMotionNet, settings: MotionPosteriorTraining) -> dict[str, float]:
    """Compute the mean over simulated pairs, in the wall, of three metrics of the posterior.

    They are the negative log density in nats, the mean of eᵀ C⁻¹ e relative to its expectation 3, and the fraction of
    voxels in the ellipsoid of 95 % in %.
    """
    device = next(model.parameters()).device
    records = []
    for seed in range(_VALIDATION_SEED, _VALIDATION_SEED + settings.validation_pairs):
        pair, shapes = draw_posterior_sample(settings, torch.Generator().manual_seed(seed))
        pair = on_device(pair, device)
        error, variance, factor = _error_and_covariance(model, pair, shapes.to(device))
        wall = pair.tissue[1, 0]
        distance = squared_mahalanobis(error, variance, factor)[wall]
        records.append(
            {
                "nll_nats": float(negative_log_density(error, variance, factor)[wall].mean()),
                "mahalanobis_ratio": float(distance.mean()) / 3.0,
                "coverage_pct": 100.0 * float((distance < CHI2_3_95).float().mean()),
            }
        )
    return mean_metrics(records)
