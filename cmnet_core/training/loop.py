"""The loop that both stages share.

The order of an epoch follows from the seed and the epoch's number, and all chance around a case from the order: nothing
depends on what was drawn before. The state is saved whole after each epoch and every so often within it, so a run that
was stopped goes on with the same numbers.
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
from cmnet_core.training.state import Learning, Progress, load_state, save_state

GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this: recurrent networks meet some now and then."""

FINAL_SHARE = 0.005
"""Share of the learning rate's peak that is left at the end of a cosine."""

PLATEAU_EPOCHS = 10
"""Epochs without a better figure after which a plateau's learning rate falls."""

PLATEAU_FACTOR = 0.1
"""What it is multiplied with."""

_CPU = torch.device("cpu")


class Decay(StrEnum):
    """How the learning rate falls."""

    COSINE = "cosine"
    PLATEAU = "plateau"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: Passes over the training data, at most.
        learning_rate: Its peak.
        weight_decay: Of AdamW, which with 0 is Adam; both in their AMSGrad form.
        seed: Of every random draw.
        ema_decay: Share that the running average of the weights keeps at each step; the average is what is
            validated and what training gives (Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992). 0 for none.
        decay: ``cosine`` rises over the first epoch and then falls as a cosine; ``plateau`` stays, and falls to a tenth
            when the watched figure has not become better for ten epochs.
        monitored: The validation figure that decides which epoch's weights are kept; the last epoch's where empty.
        patience: Epochs without a better watched figure after which training ends; 0 never ends early.
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
    """What an epoch cost and gave.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean of every term of the loss over the batches.
        validation: Figures on the validation cases.
        seconds: Wall time.
        learning_rate: At its end.
    """

    epoch: int
    loss: dict[str, float]
    validation: dict[str, float]
    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingMonitor:
    """Where a training runs and keeps its state, and whom it tells.

    Attributes:
        state: File with weights and optimiser.
        resume: Go on from that file where it exists.
        on_batch: Told the number of finished batches of the epoch, and of all.
        on_epoch: Told the record of each finished epoch.
        every_s: Seconds between two times the state is saved within an epoch.
        identity: What makes this training another than others; a state with another identity is refused.
        device: Where the model learns.
    """

    state: Path
    resume: bool
    on_batch: Callable[[int, int], None]
    on_epoch: Callable[[EpochRecord], None]
    every_s: float = math.inf
    identity: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = _CPU


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One thing to learn from.

    Attributes:
        number: Which one.
        generator: Draws all chance around it, on the CPU.
    """

    number: int
    generator: torch.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What differs between the stages.

    Attributes:
        count: How many things there are to learn from.
        at_once: How many share one step of the optimiser.
        loss: Terms of the loss over a batch; ``loss`` among them is what is minimised.
        validate: Figures of the model with its averaged weights.
    """

    count: int
    at_once: int
    loss: Callable[[list[Draw]], dict[str, Tensor]]
    validate: Callable[[nn.Module], dict[str, float]]


class _Learner(nn.Module):
    """The model and its loss as one module, whose single forward pass DistributedDataParallel can follow."""

    def __init__(self, model: nn.Module, loss: Callable[[list[Draw]], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: list[Draw]) -> dict[str, Tensor]:
        """Terms of the loss over a batch."""
        return self._loss(batch)


def run(model: nn.Module, stage: Stage, *, schedule: Schedule, watch: TrainingMonitor) -> None:
    """Train the model in place, from the beginning or from the saved state.

    It ends on the CPU, with the averaged weights of the last epoch, or of the best one where a figure is watched.

    Raises:
        CheckpointError: The saved state belongs to another training.
    """
    model.to(watch.device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, amsgrad=True
    )
    average = AveragedModel(model, avg_fn=_running_average(schedule.ema_decay), use_buffers=True)
    learning, progress = Learning(model, optimiser, average), Progress()
    if watch.resume and watch.state.exists():
        progress = load_state(watch.state, learning, watch.identity)
    learner = processes.share_gradients(_Learner(model, stage.loss), watch.device)
    while progress.epoch < schedule.epochs and not out_of_patience(progress.history, schedule):
        _epoch(learning, learner, stage, schedule=schedule, watch=watch, progress=progress)
        learning.averaged.eval()
        figures = processes.from_the_first(lambda: stage.validate(learning.averaged))
        _finish_epoch(learning, progress, figures, schedule=schedule, watch=watch)
    model.load_state_dict(learning.best or learning.averaged.state_dict())
    model.cpu().eval()


def _running_average(share: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential average that keeps ``share``, and less as long as it has seen few steps."""

    def average(before: Tensor, now: Tensor, seen: Tensor | int) -> Tensor:
        keep = min(share, (1.0 + float(seen)) / (10.0 + float(seen)))
        return torch.lerp(before, now, 1.0 - keep) if before.is_floating_point() else now

    return average


def _epoch(
    learning: Learning,
    learner: nn.Module,
    stage: Stage,
    *,
    schedule: Schedule,
    watch: TrainingMonitor,
    progress: Progress,
) -> None:
    """Learn from all batches of the epoch that are not done yet."""
    learning.model.train()
    batches = epoch_batches(stage, schedule.seed, progress.epoch)
    drops = plateau_drops(progress.history, schedule)
    spent, started = progress.seconds, time.monotonic()
    saved = started
    for number in range(progress.batch, len(batches)):
        rate = learning_rate(schedule, progress.epoch + number / len(batches), drops=drops)
        progress.add(_step(learning, learner, batches[number], rate))
        now = time.monotonic()
        progress.seconds = spent + now - started
        if now - saved >= watch.every_s and number + 1 < len(batches):
            _save(learning, progress, watch)
            saved = now
        watch.on_batch(number + 1, len(batches))


def epoch_batches(stage: Stage, seed: int, epoch: int) -> list[list[Draw]]:
    """The batches of an epoch that this process learns from, each draw with a generator of its own.

    Every process takes every so manieth of the shuffled order, which goes round to make all shares equal: a step of n
    processes with one draw each is the step of one process with n draws.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(stage.count, generator=generator)
    seeds = torch.randint(2**62, (stage.count,), generator=generator)
    shares = math.ceil(stage.count / processes.count())
    turns = torch.arange(shares * processes.count()).view(shares, -1)[:, processes.rank()] % stage.count
    draws = [Draw(int(order[turn]), torch.Generator().manual_seed(int(seeds[turn]))) for turn in turns]
    steps = torch.arange(shares).chunk(math.ceil(shares / stage.at_once))
    return [[draws[index] for index in step] for step in steps]


def _step(learning: Learning, learner: nn.Module, batch: list[Draw], rate: float) -> dict[str, float]:
    """One step of the optimiser; the terms of the loss before it.

    A step whose gradient is not finite is left out: taken, it would be the end of all weights.
    """
    for group in learning.optimiser.param_groups:
        group["lr"] = rate
    parts = learner(batch)
    learning.optimiser.zero_grad(set_to_none=True)
    parts["loss"].backward()
    length = nn.utils.clip_grad_norm_(learning.model.parameters(), GRADIENT_NORM)
    if bool(length.isfinite()):
        learning.optimiser.step()
        learning.average.update_parameters(learning.model)
    return {name: float(part.detach()) for name, part in parts.items()}


def _finish_epoch(
    learning: Learning, progress: Progress, figures: dict[str, float], *, schedule: Schedule, watch: TrainingMonitor
) -> None:
    """Keep what is best, save, and tell."""
    rate = float(learning.optimiser.param_groups[0]["lr"])
    means = processes.mean_over_all(progress.means(), watch.device)
    record = EpochRecord(progress.epoch, means, figures, progress.seconds, rate)
    progress.finish_epoch(figures)
    if schedule.monitored and best_epoch(progress.history, schedule.monitored) == record.epoch:
        learning.best = {name: tensor.clone() for name, tensor in learning.averaged.state_dict().items()}
    # Told first: who is told twice can tell so by the epoch's number, who is never told cannot.
    watch.on_epoch(record)
    _save(learning, progress, watch)


def _save(learning: Learning, progress: Progress, watch: TrainingMonitor) -> None:
    if processes.rank() == 0:
        save_state(watch.state, learning, progress, watch.identity)


def _height(figures: Mapping[str, float], monitored: str) -> float:
    """A figure as something that should grow: shares should, distances and counts should not."""
    value = figures.get(monitored, math.nan)
    height = value if monitored.endswith("_pct") else -value
    return -math.inf if math.isnan(height) else height


def best_epoch(history: Sequence[Mapping[str, float]], monitored: str) -> int:
    """The first epoch with the best watched figure; the last one where none is watched."""
    if not monitored:
        return len(history) - 1
    return max(range(len(history)), key=lambda epoch: (_height(history[epoch], monitored), -epoch))


def out_of_patience(history: Sequence[Mapping[str, float]], schedule: Schedule) -> bool:
    """Whether the watched figure has not become better for too many epochs."""
    if not (schedule.patience and schedule.monitored and history):
        return False
    return len(history) - 1 - best_epoch(history, schedule.monitored) >= schedule.patience


def plateau_drops(history: Sequence[Mapping[str, float]], schedule: Schedule) -> int:
    """How often a plateau's learning rate has fallen, as PyTorch's ReduceLROnPlateau counts."""
    best, waited, drops = -math.inf, 0, 0
    for figures in history if schedule.decay == Decay.PLATEAU else ():
        height = _height(figures, schedule.monitored)
        best, waited = (height, 0) if height > best else (best, waited + 1)
        if waited > PLATEAU_EPOCHS:
            drops, waited = drops + 1, 0
    return drops


def learning_rate(schedule: Schedule, epochs_done: float, *, drops: int) -> float:
    """A linear rise over the first epoch, then a cosine (Loshchilov and Hutter, ICLR 2017); or a plateau's."""
    if schedule.decay == Decay.PLATEAU:
        return schedule.learning_rate * PLATEAU_FACTOR**drops
    if epochs_done < 1.0:
        return schedule.learning_rate * max(epochs_done, 0.01)
    angle = math.pi * min((epochs_done - 1.0) / max(schedule.epochs - 1.0, 1.0), 1.0)
    return schedule.learning_rate * (FINAL_SHARE + (1.0 - FINAL_SHARE) * 0.5 * (1.0 + math.cos(angle)))


def mean_of_each(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every entry over the records that have it; empty without records."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: fmean(record[name] for record in records if name in record) for name in names}


def fast_convolutions(device: torch.device) -> torch.autocast:
    """Bfloat16 for convolutions, on GPUs and on processors that have instructions for it."""
    # torch offers no public question for this.
    fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(fast))
