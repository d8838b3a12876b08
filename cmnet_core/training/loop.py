"""The loop that both stages share.

Every epoch draws from a generator seeded by the seed and the epoch's number, and the state is saved whole after each
epoch: a run that was stopped goes on with the same numbers.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cmnet_core.models.checkpoint import load_tensors, save_tensors

GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this: recurrent networks meet some now and then."""

FINAL_SHARE = 0.005
"""Share of the learning rate's peak that is left at the end."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: Passes over the training data.
        learning_rate: Its peak; it rises over the first epoch and then falls as a cosine.
        weight_decay: Of AdamW.
        seed: Of every random draw.
        averaging: Share that the running average of the weights keeps at each step; the average is what is
            validated and what training gives (Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992).
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    averaging: float = 0.998


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What an epoch cost and gave.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean of every term of the loss over the batches.
        validation: Figures on the validation cases.
        seconds: Wall time.
    """

    epoch: int
    loss: dict[str, float]
    validation: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Where a training keeps its state and whom it tells.

    Attributes:
        state: File with weights and optimiser after the last whole epoch.
        resume: Go on from that file where it exists.
        on_batch: Told the number of finished batches of the epoch, and of all.
        on_epoch: Told the record of each finished epoch.
    """

    state: Path
    resume: bool
    on_batch: Callable[[int, int], None]
    on_epoch: Callable[[EpochRecord], None]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What differs between the stages.

    Attributes:
        loss: Terms of the loss of the cases with these numbers; ``loss`` among them is what is minimised.
        batches: Numbers of the cases of each batch of an epoch.
        validate: Figures of the model with its averaged weights.
    """

    loss: Callable[[list[int], torch.Generator], dict[str, Tensor]]
    batches: Callable[[torch.Generator], Sequence[list[int]]]
    validate: Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Learning:
    """What changes while a model learns: its weights, the optimiser's moments and the average of the weights."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel


def run(model: nn.Module, stage: Stage, *, schedule: Schedule, watch: Watch) -> None:
    """Train the model in place, from the beginning or from the saved state; it ends with its averaged weights."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, amsgrad=True
    )
    average = AveragedModel(model, avg_fn=_running_average(schedule.averaging), use_buffers=True)
    learning = Learning(model, optimiser, average)
    finished = _load_state(watch.state, learning) if watch.resume and watch.state.exists() else 0
    for epoch in range(finished, schedule.epochs):
        started = time.monotonic()
        terms = _epoch(learning, stage, epoch, schedule, watch.on_batch)
        average.module.eval()
        figures = stage.validate(average.module)
        _save_state(watch.state, learning, finished_epochs=epoch + 1)
        watch.on_epoch(EpochRecord(epoch, terms, figures, time.monotonic() - started))
    model.load_state_dict(average.module.state_dict())
    model.eval()


def _running_average(share: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential average that keeps ``share``, and less as long as it has seen few steps."""

    def average(before: Tensor, now: Tensor, seen: Tensor | int) -> Tensor:
        keep = min(share, (1.0 + float(seen)) / (10.0 + float(seen)))
        return torch.lerp(before, now, 1.0 - keep) if before.is_floating_point() else now

    return average


def _epoch(
    learning: Learning,
    stage: Stage,
    epoch: int,
    schedule: Schedule,
    on_batch: Callable[[int, int], None],
) -> dict[str, float]:
    model, optimiser = learning.model, learning.optimiser
    model.train()
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)
    batches = stage.batches(generator)
    terms = []
    for number, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, epoch + number / len(batches))
        parts = stage.loss(batch, generator)
        optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimiser.step()
        learning.average.update_parameters(model)
        terms.append({name: float(part.detach()) for name, part in parts.items()})
        on_batch(number + 1, len(batches))
    return mean_of_each(terms)


def learning_rate(schedule: Schedule, epochs_done: float) -> float:
    """A linear rise over the first epoch, then a cosine (Loshchilov and Hutter, ICLR 2017)."""
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


def _save_state(path: Path, learning: Learning, *, finished_epochs: int) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in learning.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in learning.average.state_dict().items()}
    for index, moments in learning.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_tensors(path, tensors, {"finished_epochs": finished_epochs})


def _load_state(path: Path, learning: Learning) -> int:
    """Put a saved state back; return the number of finished epochs."""
    tensors, header = load_tensors(path)
    learning.model.load_state_dict(_part(tensors, "model."))
    learning.average.load_state_dict(_part(tensors, "average."))
    state = learning.optimiser.state_dict()
    for name, tensor in _part(tensors, "optimiser.").items():
        index, moment = name.split(".")
        state["state"].setdefault(int(index), {})[moment] = tensor
    learning.optimiser.load_state_dict(state)
    return int(header["finished_epochs"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
