"""The training loop: resuming, selecting the best epoch, the learning rate, and non-finite gradients."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.models.build import build_segnet
from cmnet_core.training.loop import (
    Decay,
    EpochRecord,
    Schedule,
    TrainingSample,
    TrainingTask,
    run_training,
)
from cmnet_core.training.motion_stage import train_motion
from cmnet_core.training.state import read_progress
from tests.training_cases import SMALL_SEGNET, beating_case, monitor, motion_settings


def test_a_training_resumed_within_an_epoch_gives_the_same_weights(tmp_path: Path) -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0, 12.0))
    segnet = build_segnet(SMALL_SEGNET).eval()

    class Stopped(Exception):  # noqa: N818 - not an error
        pass

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Stopped

    def train(folder: Path, *, resume: bool, stop_early: bool) -> tuple[dict[str, Tensor], list[EpochRecord]]:
        records = list[EpochRecord]()
        watching = replace(monitor(folder, records, resume=resume), save_interval_s=0.0)
        watching = replace(watching, on_batch=stop) if stop_early else watching
        settings = motion_settings(2)
        model = train_motion([case] * 3, [case], segnet=segnet, settings=settings, monitor=watching, start=None)
        return model.state_dict(), records

    whole, records_without_stop = train(tmp_path / "whole", resume=False, stop_early=False)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", resume=False, stop_early=True)
    progress = read_progress(tmp_path / "stopped" / "state.safetensors")
    assert (progress.epoch, progress.batch) == (0, 2)
    resumed, resumed_records = train(tmp_path / "stopped", resume=True, stop_early=False)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [record.loss for record in records_without_stop] == [record.loss for record in resumed_records]


def train_one_weight(schedule: Schedule, metrics: list[float], folder: Path) -> tuple[nn.Linear, list[EpochRecord]]:
    """Train one weight, which grows with every step, with given validation metrics."""
    model, records = nn.Linear(1, 1, bias=False), list[EpochRecord]()
    nn.init.zeros_(model.weight)

    def loss(_: list[TrainingSample]) -> dict[str, Tensor]:
        return {"loss": -model.weight.sum()}

    def validate(_: nn.Module) -> dict[str, float]:
        return {"dice_pct": metrics[len(records)]}

    run_training(model, TrainingTask(1, 1, loss, validate), schedule=schedule, monitor=monitor(folder, records))
    return model, records


def test_patience_ends_training_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    plain = Schedule(9, 0.1, 0.0, seed=1, ema_decay=0.0, decay=Decay.PLATEAU)
    monitored = replace(plain, monitored="dice_pct", patience=3)
    model, records = train_one_weight(monitored, [50.0, 70.0, 69.0, 70.0, 60.0, 90.0], tmp_path / "monitored")
    assert len(records) == 5
    best, _ = train_one_weight(replace(plain, epochs=2), [0.0] * 2, tmp_path / "two")
    last, _ = train_one_weight(replace(plain, epochs=5), [0.0] * 5, tmp_path / "five")
    assert model.weight.item() == best.weight.item() != last.weight.item()


def test_a_step_with_a_non_finite_gradient_is_skipped(tmp_path: Path) -> None:
    model, factors = nn.Linear(1, 1, bias=False), iter([1.0, math.inf, 1.0])
    nn.init.zeros_(model.weight)
    schedule = Schedule(3, 0.1, 0.0, seed=1, ema_decay=0.0, decay=Decay.PLATEAU)

    def loss(_: list[TrainingSample]) -> dict[str, Tensor]:
        return {"loss": -model.weight.sum() * next(factors)}

    run_training(model, TrainingTask(1, 1, loss, lambda _: {}), schedule=schedule, monitor=monitor(tmp_path, []))
    assert 0.0 < model.weight.item() <= 0.2


def test_plateau_schedule_equals_that_of_pytorch(tmp_path: Path) -> None:
    metrics = [50.0, *[40.0] * 12, 60.0, *[55.0] * 12]
    schedule = Schedule(len(metrics), 0.1, 0.0, seed=1, decay=Decay.PLATEAU, monitored="dice_pct")
    _, records = train_one_weight(schedule, metrics, tmp_path)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "max", threshold=0.0)
    for record, metric in zip(records, metrics, strict=True):
        assert record.learning_rate == pytest.approx(optimiser.param_groups[0]["lr"])
        scheduler.step(metric)
