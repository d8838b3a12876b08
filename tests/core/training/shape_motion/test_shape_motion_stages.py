"""The stages that train the shape motion network: they learn, resume exactly, and run on pretended CUDA tensors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes
from cmnet_core.simulation.label_maps.pair import draw_pair
from cmnet_core.training.loop import EpochRecord, Schedule, TrainingMonitor
from cmnet_core.training.shape_motion import posterior_stage, residual_stage, rotation_stage, through_plane_stage
from cmnet_core.training.shape_motion.posterior_stage import (
    draw_posterior_sample,
    posterior_loss,
    train_motion_posterior,
    without_slice_rotation,
)
from cmnet_core.training.shape_motion.reference_pair import ReferencePair
from cmnet_core.training.shape_motion.residual_stage import draw_sample, sample_loss, train_shape_motion
from cmnet_core.training.shape_motion.rotation_stage import draw_rotation_pair, rotation_error, train_rotation
from cmnet_core.training.shape_motion.settings import (
    MotionPosteriorTraining,
    RotationTraining,
    ShapeMotionTraining,
    ThroughPlaneTraining,
)
from cmnet_core.training.shape_motion.through_plane_stage import (
    draw_slice_motions,
    through_plane_loss,
    train_through_plane,
)
from cmnet_core.training.state import read_progress
from tests.fake_cuda import CAN_BACKPROPAGATE, CUDA, fake_cuda
from tests.training_cases import beating_case, monitor

SIZES = ShapeMotionSizes(fine=4, middle=4, coarse=4, blocks=1, stack=8)
THROUGH_PLANE = ThroughPlaneTraining(Schedule(2, 5e-3, 0.0, seed=3), pairs=12, validation_pairs=3, pairs_per_step=4)
SHAPE_MOTION = ShapeMotionTraining(
    Schedule(2, 1e-3, 0.0, seed=3), views_per_epoch=1, validation_pairs=1, window=32, sizes=SIZES
)
ROTATION = RotationTraining(Schedule(2, 1e-3, 0.0, seed=3), window=(48, 48))
POSTERIOR = MotionPosteriorTraining(Schedule(2, 1e-2, 0.0, seed=3), pairs_per_epoch=3, validation_pairs=2, window=32)


def simulated_reference_pair(seed: int, *, size: int = 32) -> ReferencePair:
    """The label maps of a simulated pair as if a reader had contoured them."""
    pair = draw_pair(torch.Generator().manual_seed(seed), size=size)
    background = 1.0 - pair.shapes.sum(1, keepdim=True)
    labels = torch.cat([background, pair.shapes], dim=1).argmax(1).to(torch.uint8)
    return ReferencePair(labels.repeat_interleave(2, 2).repeat_interleave(2, 3), None, pair.slice_mm)


def start_network() -> ShapeMotionNet:
    torch.manual_seed(1)
    return ShapeMotionNet(SIZES)


def run_through_plane(monitor: TrainingMonitor) -> nn.Module:
    return train_through_plane(settings=THROUGH_PLANE, sizes=SIZES, monitor=monitor)


def run_shape_motion(monitor: TrainingMonitor) -> nn.Module:
    pairs = [simulated_reference_pair(seed) for seed in (1, 2, 3)]
    return train_shape_motion(pairs, pairs[:1], settings=SHAPE_MOTION, monitor=monitor, start=start_network())


def run_rotation(monitor: TrainingMonitor) -> nn.Module:
    cases = [beating_case(cavities=(12.0, 8.0))] * 6
    return train_rotation(cases, cases[:1], settings=ROTATION, monitor=monitor, start=start_network())


def run_motion_posterior(monitor: TrainingMonitor) -> nn.Module:
    return train_motion_posterior(settings=POSTERIOR, monitor=monitor, start=start_network())


STAGES = {
    "through-plane": (run_through_plane, through_plane_stage.METRICS, "through_plane."),
    "rotation": (run_rotation, rotation_stage.METRICS, "rotation."),
    "shape-motion": (run_shape_motion, residual_stage.METRICS, "residual."),
    "motion-posterior": (run_motion_posterior, posterior_stage.METRICS, "posterior_head."),
}


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_training_gives_the_same_weights(stage: str, tmp_path: Path) -> None:
    run, metrics, trained = STAGES[stage]

    class Stopped(Exception):  # noqa: N818 - not an error
        pass

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Stopped

    records, resumed_records = list[EpochRecord](), list[EpochRecord]()
    whole = run(monitor(tmp_path / "whole", records)).state_dict()
    stopped = replace(monitor(tmp_path / "stopped", []), save_interval_s=0.0, on_batch=stop)
    with pytest.raises(Stopped):
        run(stopped)
    assert read_progress(stopped.state).batch == 2
    resumed = run(monitor(tmp_path / "stopped", resumed_records, resume=True)).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [record.loss for record in records] == [record.loss for record in resumed_records]
    assert set(records[-1].validation) <= set(metrics)
    if stage != "through-plane":
        before = start_network().state_dict()
        changed = [name for name in whole if not torch.equal(whole[name], before[name])]
        assert changed
        assert all(name.startswith(trained) for name in changed)


def test_through_plane_stage_learns_the_descent_of_the_base(tmp_path: Path) -> None:
    records = list[EpochRecord]()
    settings = replace(THROUGH_PLANE, schedule=Schedule(40, 1e-2, 0.0, seed=3, ema_decay=0.9), pairs=48)
    sizes = replace(SIZES, stack=16)
    train_through_plane(settings=settings, sizes=sizes, monitor=monitor(tmp_path, records))
    assert records[-1].loss["loss"] < 0.5 * records[0].loss["loss"]


def test_training_step_of_every_stage_on_a_pretended_gpu() -> None:
    """The samples are drawn on the CPU, and no operation of the loss mixes their tensors with those of the device."""
    generator = torch.Generator().manual_seed(1)
    motions = draw_slice_motions(3, window=32, seed=1)
    sample = draw_sample(simulated_reference_pair(1), SHAPE_MOTION, generator)
    rotation_pair = draw_rotation_pair(beating_case(cavities=(12.0, 8.0)), ROTATION, generator)
    posterior_sample = draw_posterior_sample(POSTERIOR, generator)
    with fake_cuda():
        with CUDA:
            network = ShapeMotionNet(SIZES).train()
        for loss in (
            through_plane_loss(network.through_plane, motions, CUDA),
            rotation_error(network.rotation, [rotation_pair] * 2, CUDA),
            sample_loss(network, *sample, SHAPE_MOTION, CUDA)["loss"],
            posterior_loss(network, *posterior_sample, POSTERIOR, CUDA),
        ):
            assert loss.device.type == "cuda"
            if CAN_BACKPROPAGATE:
                loss.backward()


def test_a_rotation_of_each_slice_is_no_error_of_the_shapes() -> None:
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij")
    distance = torch.hypot(y - 14.0, x - 16.0)
    wall = ((distance > 6.0) & (distance < 10.0)).float().expand(2, -1, -1)
    angle = torch.tensor([0.1, -0.05]).view(-1, 1, 1)
    stretched = torch.stack([torch.ones(2, 30, 30), 0.02 * (y - 14.0).expand(2, -1, -1), torch.zeros(2, 30, 30)])
    rotated = stretched + torch.stack([torch.zeros(2, 30, 30), angle * (x - 16.0), -angle * (y - 14.0)])
    assert torch.allclose(without_slice_rotation(rotated, wall) * wall, stretched * wall, atol=1e-5)
