"""The stage ``shape-motion``: ResidualNet is trained on simulated label maps and on reference masks of ED and ES.

Simulated pairs teach what masks do not show: motion along the wall and through the plane. Reference masks teach how
real contours look and how readers label the ends of a stack. Both directions are trained: ED is warped to the frame
and the frame to ED, by one velocity and its negative.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.models.shape_motion_net import ShapeMotionNet, voxel_mm
from cmnet_core.registration.displacement import volume_change
from cmnet_core.simulation.label_maps.pair import SimulatedPair, draw_pair
from cmnet_core.training.loop import TrainingMonitor, TrainingSample, TrainingTask, mean_metrics, run_training
from cmnet_core.training.shape_motion.loss import integrate, reference_pair_loss, simulated_pair_loss, warp_mask
from cmnet_core.training.shape_motion.reference_pair import (
    FINE_MM,
    PairView,
    ReferencePair,
    draw_pair_view,
    imitate_segmentation_errors,
    straight_view,
)
from cmnet_core.training.shape_motion.settings import ShapeMotionTraining
from cmnet_core.training.training_case import dice_metrics, metric_names, surface_metrics
from cmnet_core.types import Spacing

METRICS = (
    *metric_names("ed2es"),
    *metric_names("es2ed"),
    "folded_voxels",
    "sd_log_jacobian",
    "endpoint_in_plane_mm",
    "endpoint_through_plane_mm",
)
"""The metrics that can be monitored in this stage."""

_VALIDATION_SEED = 1_500_019


def train_shape_motion(
    pairs: Sequence[ReferencePair],
    validation: Sequence[ReferencePair],
    *,
    settings: ShapeMotionTraining,
    monitor: TrainingMonitor,
    start: ShapeMotionNet,
) -> ShapeMotionNet:
    """Train ResidualNet; all other parts of the network remain as they are.

    Args:
        pairs: Reference masks to train on.
        validation: Reference masks to validate on.
        settings: Settings of the stage.
        monitor: Device, state file and callbacks.
        start: The network to start from, with a trained ThroughPlaneNet.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    torch.manual_seed(settings.schedule.seed)
    start.requires_grad_(False)
    start.residual.requires_grad_(True)

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        samples = [draw_sample(pairs[sample.index % len(pairs)], settings, sample.generator) for sample in batch]
        terms = [sample_loss(start, *sample, settings, monitor.device) for sample in samples]
        return {name: torch.stack([each[name] for each in terms]).mean() for name in terms[0]}

    def validate(average: nn.Module) -> dict[str, float]:
        assert isinstance(average, ShapeMotionNet)
        return validate_shape_motion(average, validation, settings)

    task = TrainingTask(len(pairs) * settings.views_per_epoch, settings.samples_per_step, loss, validate)
    run_training(start, task, schedule=settings.schedule, monitor=monitor)
    return start.requires_grad_(True)


Sample = tuple[SimulatedPair, Tensor, PairView, Tensor, bool]
"""A simulated pair and a view of a reference pair, each with the label maps that the network takes, and whether the
first iteration of the cascade is judged by the motion into ED."""


def draw_sample(pair: ReferencePair, settings: ShapeMotionTraining, generator: torch.Generator) -> Sample:
    """Draw one simulated pair and one view of a reference pair.

    Args:
        pair: The reference pair.
        settings: Settings of the stage.
        generator: Draws everything, on the CPU.
    """
    simulated = draw_pair(generator, size=settings.window)
    view = draw_pair_view(pair, generator)
    by_segnet = float(torch.rand((), generator=generator)) < settings.segnet_probability
    shapes = imitate_segmentation_errors(
        view.segmented_shapes if by_segnet else view.shapes,
        generator,
        probability=settings.segmentation_error_probability,
    )
    into_ed_first = float(torch.rand((), generator=generator)) < 0.5
    return simulated, simulated.shapes, view, shapes, into_ed_first


def on_device(pair: SimulatedPair, device: torch.device) -> SimulatedPair:
    """Copy a simulated pair to a device."""
    return SimulatedPair(
        pair.shapes.to(device),
        pair.to_ed_mm.to(device),
        pair.from_ed_mm.to(device),
        pair.tissue.to(device),
        pair.slice_mm,
    )


def sample_loss(
    model: ShapeMotionNet,
    simulated: SimulatedPair,
    simulated_shapes: Float[Tensor, "2 3 z y x"],
    view: PairView,
    view_shapes: Float[Tensor, "2 3 z2 y x"],
    into_ed_first: bool,  # noqa: FBT001 - the last entry of a sample
    settings: ShapeMotionTraining,
    device: torch.device,
) -> dict[str, Tensor]:
    """Compute the loss terms of a sample over the cascade; the directions alternate between its iterations.

    Returns:
        The terms of the last iteration, and as ``loss`` the sum over all iterations.
    """
    simulated, view = on_device(simulated, device), view.to(device)
    last, totals = model.sizes.iterations - 1, []
    terms: dict[str, Tensor] = {}
    start_mm = model.start(simulated_shapes.to(device), simulated.slice_mm).detach()
    for k, (velocity, _) in enumerate(model.iterate(start_mm, simulated_shapes.to(device), simulated.slice_mm)):
        into_ed = into_ed_first == (k % 2 == 0)
        found = simulated_pair_loss(velocity, simulated, settings.weights, into_ed=into_ed)
        totals.append(_sum(found) * (1.0 if k == last else settings.weights.early_iterations))
        terms |= {f"simulated_{name}": value for name, value in found.items()}
    start_mm = model.start(view_shapes.to(device), view.slice_mm).detach()
    for k, (velocity, _) in enumerate(model.iterate(start_mm, view_shapes.to(device), view.slice_mm)):
        into_ed = into_ed_first == (k % 2 == 0)
        found = reference_pair_loss(velocity, start_mm, view, settings, into_ed=into_ed)
        totals.append(_sum(found) * (1.0 if k == last else settings.weights.early_iterations))
        terms |= {f"reference_{name}": value for name, value in found.items()}
    return terms | {"loss": torch.stack(totals).sum()}


def _sum(terms: dict[str, Tensor]) -> Float[Tensor, ""]:
    return torch.stack(list(terms.values())).sum()


@torch.no_grad()
def estimate_velocity(
    model: ShapeMotionNet, shapes: Float[Tensor, "2 3 z y x"], slice_mm: float
) -> Float[Tensor, "3 z y x"]:
    """Return the velocity after the last iteration of the cascade, in mm and on the CPU."""
    shapes = shapes.to(next(model.parameters()).device)
    *_, (velocity, _) = model.iterate(model.start(shapes, slice_mm), shapes, slice_mm)
    return velocity.cpu()


def validate_shape_motion(
    model: ShapeMotionNet, validation: Sequence[ReferencePair], settings: ShapeMotionTraining
) -> dict[str, float]:
    """Compute the mean metrics of warped reference masks in both directions, and of the motion of simulated pairs."""
    seeds = range(_VALIDATION_SEED, _VALIDATION_SEED + settings.validation_pairs)
    simulated = (draw_pair(torch.Generator().manual_seed(seed), size=settings.window) for seed in seeds)
    return mean_metrics(
        [_reference_metrics(model, pair) for pair in validation] + [_endpoint_errors(model, pair) for pair in simulated]
    )


def _reference_metrics(model: ShapeMotionNet, pair: ReferencePair) -> dict[str, float]:
    view = straight_view(pair)
    velocity = estimate_velocity(model, view.segmented_shapes, view.slice_mm)
    spacing = Spacing(view.slice_mm, FINE_MM, FINE_MM)
    metrics: dict[str, float] = {}
    for moving, phase in ((0, "ed2es"), (1, "es2ed")):
        field = integrate(velocity if moving == 0 else -velocity, view.slice_mm)
        warped = warp_mask(view, field, moving=moving)[0].movedim(0, 1)
        reference = view.probabilities[1 - moving].movedim(0, 1)
        metrics |= surface_metrics(warped, reference, spacing, phase=phase)
        metrics |= dice_metrics(warped, reference, phase=phase)
        jacobian = volume_change((field / voxel_mm(view.slice_mm, field))[None])
        metrics["folded_voxels"] = metrics.get("folded_voxels", 0.0) + float((jacobian <= 0).sum())
        metrics["sd_log_jacobian"] = float(jacobian.clamp_min(1e-3).log()[view.shapes[1 - moving].sum(0) > 0.5].std())
    return metrics


def _endpoint_errors(model: ShapeMotionNet, pair: SimulatedPair) -> dict[str, float]:
    """Return the mean in-plane and through-plane error of the motion into ED in the wall, in mm."""
    field = integrate(estimate_velocity(model, pair.shapes, pair.slice_mm), pair.slice_mm)
    z, y, x = (field - pair.to_ed_mm)[:, pair.tissue[1, 0]]
    return {
        "endpoint_in_plane_mm": float(torch.hypot(y, x).mean()),
        "endpoint_through_plane_mm": float(z.abs().mean()),
    }
