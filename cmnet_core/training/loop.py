"""The training loop of all stages.

The order of the cases in an epoch depends only on the seed and on the number of the epoch, and all random draws of a
case only on its place in this order, not on any draw before. The state is saved after each epoch and at intervals
within it, so that a resumed training gives the same weights as one that was not interrupted.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cmnet_core.training import processes
from cmnet_core.training.state import TrainingProgress, TrainingState, load_state, save_state

MAX_GRADIENT_NORM = 1.0
"""Norm to which longer gradients are clipped; recurrent networks have single gradients that are very long."""

FINAL_LEARNING_RATE_FRACTION = 0.005
"""Fraction of the peak learning rate that is left at the end of the cosine schedule."""

PLATEAU_EPOCHS = 10
"""Number of epochs without an improvement after which the plateau schedule reduces the learning rate."""

PLATEAU_FACTOR = 0.1
"""Factor by which the plateau schedule reduces the learning rate."""

_CPU = torch.device("cpu")


class Decay(StrEnum):
    """How the learning rate decreases."""

    COSINE = "cosine"
    PLATEAU = "plateau"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Duration and learning rate of a training.

    Attributes:
        epochs: Largest number of passes over the training data.
        learning_rate: Peak of the learning rate.
        weight_decay: Weight decay of AdamW in its AMSGrad form; with 0 it is Adam.
        seed: Seed of all random draws.
        ema_decay: Decay per step of the exponential moving average of the weights, which is validated and returned
            (Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992); 0 for no average.
        decay: ``cosine`` is a linear warm-up over the first epoch and then a cosine; ``plateau`` divides the learning
            rate by 10 when the monitored metric has not improved for ten epochs.
        monitored: Validation metric by which the best epoch is selected; the last epoch is selected where it is empty.
        patience: Number of epochs without an improvement of the monitored metric after which training ends; 0 for
            never.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    ema_decay: float = 0.998
    decay: Decay = Decay.COSINE
    monitored: str = ""
    patience: int = 0


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Record of one epoch.

    Attributes:
        epoch: Number of the epoch, from 0.
        loss: Mean of every loss term over the batches.
        validation: Validation metrics.
        seconds: Wall time in seconds.
        learning_rate: Learning rate at the end of the epoch.
    """

    epoch: int
    loss: dict[str, float]
    validation: dict[str, float]
    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingMonitor:
    """Where a training runs, where it saves its state, and which functions it calls with its progress.

    Attributes:
        state: File of the training state.
        resume: Whether to continue from that file where it exists.
        on_batch: Called after each batch with the number of finished batches of the epoch and the number of all.
        on_epoch: Called after each epoch with its record.
        save_interval_s: Interval in seconds at which the state is saved within an epoch.
        identity: What distinguishes this training from others; a state with another identity is refused.
        device: Device on which the model is trained.
    """

    state: Path
    resume: bool
    on_batch: Callable[[int, int], None]
    on_epoch: Callable[[EpochRecord], None]
    save_interval_s: float = math.inf
    identity: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = _CPU


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """One sample of a batch.

    Attributes:
        index: Index of the training item.
        generator: Draws everything random about the sample, on the CPU.
        epoch: Number of the epoch, from 0.
    """

    index: int
    generator: torch.Generator
    epoch: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTask:
    """What a training stage gives to the training loop.

    Attributes:
        size: Number of training items.
        batch_size: Number of samples per step of the optimiser, in each process.
        loss: Computes the loss terms of a batch; the term ``loss`` is minimised.
        validate: Computes the validation metrics of the model with its averaged weights.
    """

    size: int
    batch_size: int
    loss: Callable[[list[TrainingSample]], dict[str, Tensor]]
    validate: Callable[[nn.Module], dict[str, float]]


class _LossModule(nn.Module):
    """The model and its loss as one module with one forward pass, as DistributedDataParallel needs it."""

    def __init__(self, model: nn.Module, loss: Callable[[list[TrainingSample]], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: list[TrainingSample]) -> dict[str, Tensor]:
        """Return the loss terms of a batch."""
        return self._loss(batch)


def run_training(model: nn.Module, task: TrainingTask, *, schedule: Schedule, monitor: TrainingMonitor) -> None:
    """Train a model in place, from the beginning or from a saved state.

    At the end the model is on the CPU and has the averaged weights of the best epoch where a metric is monitored,
    otherwise those of the last epoch.

    Args:
        model: The model.
        task: Loss and validation of the training stage.
        schedule: Duration and learning rate.
        monitor: Device, state file and callbacks.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    model.to(monitor.device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, amsgrad=True
    )
    average = AveragedModel(model, avg_fn=_moving_average(schedule.ema_decay), use_buffers=True)
    state, progress = TrainingState(model, optimiser, average), TrainingProgress()
    if monitor.resume and monitor.state.exists():
        progress = load_state(monitor.state, state, monitor.identity)
    loss_module = processes.wrap_data_parallel(_LossModule(model, task.loss), monitor.device)
    while progress.epoch < schedule.epochs and not out_of_patience(progress.history, schedule):
        _train_epoch(state, loss_module, task, schedule=schedule, monitor=monitor, progress=progress)
        state.averaged.eval()
        metrics = processes.broadcast_from_first(lambda: task.validate(state.averaged))
        _finish_epoch(state, progress, metrics, schedule=schedule, monitor=monitor)
    model.load_state_dict(state.best or state.averaged.state_dict())
    model.cpu().eval()


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return an exponential moving average whose decay is smaller during the first steps."""

    def average(before: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        kept = min(decay, (1.0 + float(steps)) / (10.0 + float(steps)))
        return torch.lerp(before, now, 1.0 - kept) if before.is_floating_point() else now

    return average


def _train_epoch(
    state: TrainingState,
    loss_module: nn.Module,
    task: TrainingTask,
    *,
    schedule: Schedule,
    monitor: TrainingMonitor,
    progress: TrainingProgress,
) -> None:
    """Train on all batches of the current epoch that are not finished."""
    state.model.train()
    batches = epoch_batches(task, schedule.seed, progress.epoch)
    drops = plateau_drops(progress.history, schedule)
    seconds_before, started = progress.seconds, time.monotonic()
    saved = started
    for number in range(progress.batch, len(batches)):
        rate = learning_rate(schedule, progress.epoch + number / len(batches), drops=drops)
        progress.add(_optimiser_step(state, loss_module, batches[number], rate))
        now = time.monotonic()
        progress.seconds = seconds_before + now - started
        if now - saved >= monitor.save_interval_s and number + 1 < len(batches):
            _save(state, progress, monitor)
            saved = now
        monitor.on_batch(number + 1, len(batches))


def epoch_batches(task: TrainingTask, seed: int, epoch: int) -> list[list[TrainingSample]]:
    """Return the batches of an epoch for this process, each sample with its own generator.

    Of n processes, each takes every n-th sample of the shuffled order, which is repeated from its start until all have
    the same number. A step of n processes with one sample each is the same as a step of one process with n samples.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(task.size, generator=generator)
    seeds = torch.randint(2**62, (task.size,), generator=generator)
    count = math.ceil(task.size / processes.world_size())
    places = torch.arange(count * processes.world_size()).view(count, -1)[:, processes.rank()] % task.size
    samples = [TrainingSample(int(order[k]), torch.Generator().manual_seed(int(seeds[k])), epoch) for k in places]
    steps = torch.arange(count).chunk(math.ceil(count / task.batch_size))
    return [[samples[index] for index in step] for step in steps]


def _optimiser_step(
    state: TrainingState, loss_module: nn.Module, batch: list[TrainingSample], rate: float
) -> dict[str, float]:
    """Take one step of the optimiser and return the loss terms before it.

    A step whose gradient is not finite is skipped, because it would make all weights non-finite.
    """
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    terms = loss_module(batch)
    state.optimiser.zero_grad(set_to_none=True)
    terms["loss"].backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)
    if bool(norm.isfinite()):
        state.optimiser.step()
        state.average.update_parameters(state.model)
    return {name: float(term.detach()) for name, term in terms.items()}


def _finish_epoch(
    state: TrainingState,
    progress: TrainingProgress,
    metrics: dict[str, float],
    *,
    schedule: Schedule,
    monitor: TrainingMonitor,
) -> None:
    """Keep the weights of the best epoch, report the epoch and save the state."""
    rate = float(state.optimiser.param_groups[0]["lr"])
    means = processes.mean_over_processes(progress.means(), monitor.device)
    record = EpochRecord(progress.epoch, means, metrics, progress.seconds, rate)
    progress.finish_epoch(metrics)
    if schedule.monitored and best_epoch(progress.history, schedule.monitored) == record.epoch:
        state.best = {name: tensor.clone() for name, tensor in state.averaged.state_dict().items()}
    # The epoch is reported before the state is saved: a training that stops in between repeats the end of the epoch and
    # reports it twice, with the same number. In the other order it would never be reported.
    monitor.on_epoch(record)
    _save(state, progress, monitor)


def _save(state: TrainingState, progress: TrainingProgress, monitor: TrainingMonitor) -> None:
    if processes.rank() == 0:
        save_state(monitor.state, state, progress, monitor.identity)


def _score(metrics: Mapping[str, float], monitored: str) -> float:
    """Return a metric such that larger is better: percentages as they are, distances and counts negated."""
    value = metrics.get(monitored, math.nan)
    score = value if monitored.endswith("_pct") else -value
    return -math.inf if math.isnan(score) else score


def best_epoch(history: Sequence[Mapping[str, float]], monitored: str) -> int:
    """Return the first epoch with the best monitored metric, or the last epoch where no metric is monitored."""
    if not monitored:
        return len(history) - 1
    return max(range(len(history)), key=lambda epoch: (_score(history[epoch], monitored), -epoch))


def out_of_patience(history: Sequence[Mapping[str, float]], schedule: Schedule) -> bool:
    """Return whether the monitored metric has not improved for ``schedule.patience`` epochs."""
    if not (schedule.patience and schedule.monitored and history):
        return False
    return len(history) - 1 - best_epoch(history, schedule.monitored) >= schedule.patience


def plateau_drops(history: Sequence[Mapping[str, float]], schedule: Schedule) -> int:
    """Return how often the plateau schedule has reduced the learning rate, as PyTorch's ReduceLROnPlateau does."""
    best, waited, drops = -math.inf, 0, 0
    for metrics in history if schedule.decay == Decay.PLATEAU else ():
        score = _score(metrics, schedule.monitored)
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited > PLATEAU_EPOCHS:
            drops, waited = drops + 1, 0
    return drops


def learning_rate(schedule: Schedule, epochs_done: float, *, drops: int) -> float:
    """Return the learning rate at a time in epochs.

    The cosine schedule has a linear warm-up over the first epoch (Loshchilov and Hutter, ICLR 2017).
    """
    if schedule.decay == Decay.PLATEAU:
        return schedule.learning_rate * PLATEAU_FACTOR**drops
    if epochs_done < 1.0:
        return schedule.learning_rate * max(epochs_done, 0.01)
    angle = math.pi * min((epochs_done - 1.0) / max(schedule.epochs - 1.0, 1.0), 1.0)
    final = FINAL_LEARNING_RATE_FRACTION
    return schedule.learning_rate * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(angle)))


def mean_metrics(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average each metric over the cases that have it; empty without cases."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: fmean(record[name] for record in records if name in record) for name in names}


def bfloat16_autocast(device: torch.device) -> torch.autocast:
    """Return the context in which convolutions run in bfloat16, on GPUs and on CPUs with instructions for it."""
    # PyTorch has no public function for this.
    supported = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(supported))
