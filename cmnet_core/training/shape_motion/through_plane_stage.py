"""The stage ``through-plane``: ThroughPlaneNet is trained on the areas of simulated label maps."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cmnet_core.labels import Label
from cmnet_core.models.shape_motion_net import MIN_AREA_VOXELS, ShapeMotionNet, ShapeMotionSizes, lv_areas
from cmnet_core.registration.displacement import exponential
from cmnet_core.simulation.label_maps.pair import SimulatedPair, draw_pair
from cmnet_core.training.loop import TrainingMonitor, TrainingSample, TrainingTask, mean_metrics, run_training
from cmnet_core.training.shape_motion.settings import ThroughPlaneTraining

METRICS = ("through_plane_error_mm", "basal_error_mm", "basal_bias_mm")
"""The metrics that can be monitored in this stage."""

SQUARINGS = 5

ERROR_SOFTNESS_MM2 = 0.05
"""Squared error in mm² below which the loss is quadratic instead of linear."""

_VALIDATION_SEED_OFFSET = 500_009


@dataclass(frozen=True, slots=True, eq=False)
class SliceMotion:
    """Areas of each slice and the mean through-plane motion of the wall in it.

    Attributes:
        areas: Areas of LV and myocardium at ED, then at the frame, in 10 cm².
        displacement_mm: Mean displacement of the wall through each slice from ED into the frame, and back.
        known: Where there is a wall, at ED and at the frame.
        slice_mm: Distance between slices in mm.
    """

    areas: Float[Tensor, "4 z"]
    displacement_mm: Float[Tensor, "2 z"]
    known: Bool[Tensor, "2 z"]
    slice_mm: float


def slice_motion(pair: SimulatedPair) -> SliceMotion:
    """Average the through-plane motion of a simulated pair over the wall of each slice, true or contoured."""
    wall = (pair.tissue[:, 0] | (pair.shapes[:, Label.MYO - 1] > 0.5)).float()
    voxels = wall.sum((2, 3))
    through = torch.stack([pair.from_ed_mm[0], pair.to_ed_mm[0]])
    displacement = (through * wall).sum((2, 3)) / voxels.clamp_min(1.0)
    return SliceMotion(lv_areas(pair.shapes), displacement, voxels > MIN_AREA_VOXELS, pair.slice_mm)


def train_through_plane(
    *,
    settings: ThroughPlaneTraining,
    sizes: ShapeMotionSizes,
    monitor: TrainingMonitor,
    start: ShapeMotionNet | None = None,
) -> ShapeMotionNet:
    """Train ThroughPlaneNet on simulated pairs, and return a shape motion network that has it.

    Args:
        settings: Settings of the stage.
        sizes: Sizes of the shape motion network.
        monitor: Device, state file and callbacks.
        start: The shape motion network to start from; None starts from random weights.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    seed = settings.schedule.seed
    torch.manual_seed(seed)
    model = start or ShapeMotionNet(sizes)
    network = model.through_plane
    motions = draw_slice_motions(settings.pairs, window=settings.window, seed=seed)
    validation = draw_slice_motions(
        settings.validation_pairs, window=settings.window, seed=seed + _VALIDATION_SEED_OFFSET
    )

    def loss(batch: list[TrainingSample]) -> dict[str, Tensor]:
        varied = [vary_areas(motions[sample.index], settings, sample.generator) for sample in batch]
        return {"loss": through_plane_loss(network, varied, monitor.device)}

    def validate(average: nn.Module) -> dict[str, float]:
        return validate_through_plane(average, validation)

    task = TrainingTask(len(motions), settings.pairs_per_step, loss, validate)
    run_training(network, task, schedule=settings.schedule, monitor=monitor)
    return model.eval()


def draw_slice_motions(count: int, *, window: int, seed: int) -> list[SliceMotion]:
    """Draw simulated pairs, each with its own generator, and keep the motion of their slices.

    Args:
        count: Number of pairs.
        window: Size of their label maps along y and x, in voxels of 3 mm.
        seed: Seed of the first pair.
    """
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + number) for number in range(count))
    return [slice_motion(draw_pair(generator, size=window)) for generator in generators]


def vary_areas(motion: SliceMotion, settings: ThroughPlaneTraining, generator: torch.Generator) -> SliceMotion:
    """Vary the areas as readers and segmentation networks do: independent errors, and a bias of the myocardium."""
    bias = 1.0 + settings.myocardium_bias * (2.0 * torch.rand(2, 1, generator=generator) - 1.0)
    factor = torch.stack([torch.ones_like(bias), bias], dim=1).flatten(0, 1)
    noise = 1.0 + settings.area_noise * torch.randn(motion.areas.shape, generator=generator)
    return SliceMotion(motion.areas * factor * noise, motion.displacement_mm, motion.known, motion.slice_mm)


def through_plane_loss(network: nn.Module, motions: Sequence[SliceMotion], device: torch.device) -> Float[Tensor, ""]:
    """Compute the mean error of the through-plane motion in both directions in mm, slightly softened at 0."""
    errors, weights = [], []
    for group in _by_depth(motions):
        error, known = _errors(network, group, device)
        errors.append(((error.square() + ERROR_SOFTNESS_MM2).sqrt() * known).sum())
        weights.append(known.sum())
    return torch.stack(errors).sum() / torch.stack(weights).sum().clamp_min(1.0)


def _by_depth(motions: Sequence[SliceMotion]) -> list[list[SliceMotion]]:
    """Group motions by the number of their slices, since the network knows no padding of a stack."""
    groups = defaultdict[int, list[SliceMotion]](list)
    for motion in motions:
        groups[motion.areas.shape[1]].append(motion)
    return list(groups.values())


def _errors(
    network: nn.Module, motions: Sequence[SliceMotion], device: torch.device
) -> tuple[Float[Tensor, "b 2 z"], Float[Tensor, "b 2 z"]]:
    """Return the error of the motion from ED and into ED in mm, and where the motion is known."""
    areas = torch.stack([motion.areas for motion in motions]).to(device)
    slice_mm = torch.tensor([motion.slice_mm for motion in motions], device=device)
    known = torch.stack([motion.known for motion in motions]).to(device).float()
    truth = torch.stack([motion.displacement_mm for motion in motions]).to(device)
    velocity = network(areas, slice_mm) / slice_mm[:, None]
    found = torch.stack([integrate_slices(-velocity), integrate_slices(velocity)], dim=1) * slice_mm[:, None, None]
    return found - truth, known


def integrate_slices(velocity: Float[Tensor, "b z"]) -> Float[Tensor, "b z"]:
    """Integrate the through-plane velocity of whole slices over unit time, in units of the slice distance."""
    field = torch.stack([velocity, torch.zeros_like(velocity), torch.zeros_like(velocity)], dim=1)
    return exponential(field[..., None, None], steps=SQUARINGS)[:, 0, :, 0, 0]


@torch.no_grad()
def validate_through_plane(network: nn.Module, motions: Sequence[SliceMotion]) -> dict[str, float]:
    """Compute the mean error of the motion into ED over all slices, and its error and bias in the most basal one."""
    device = next(network.parameters()).device
    records, basal = [], []
    for group in _by_depth(motions):
        error, known = (values[:, 1].cpu() for values in _errors(network, group, device))
        for item, mask in zip(error, known > 0, strict=True):
            if bool(mask.any()):
                records.append({"through_plane_error_mm": float(item[mask].abs().mean())})
                basal.append(float(item[mask][-1]))
    if not basal:
        return {}
    basal_error = torch.tensor(basal)
    return mean_metrics(records) | {
        "basal_error_mm": float(basal_error.square().mean().sqrt()),
        "basal_bias_mm": float(basal_error.mean()),
    }
