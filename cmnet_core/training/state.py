"""The state of a training on disk: all that a run needs to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.models.checkpoint import load_tensors, save_tensors

_MOST_NAMED = 5


@dataclass(slots=True, eq=False)
class Learning:
    """What changes while a model learns.

    Attributes:
        model: The model.
        optimiser: With its moments.
        average: The running average of the weights.
        best: The averaged weights of the best epoch so far, where a figure is watched.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def averaged(self) -> nn.Module:
        """The model with its averaged weights."""
        averaged: nn.Module = self.average.module
        return averaged


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: The epoch under way, which is the number of finished ones.
        batch: Its finished batches.
        totals: Sum of each term of the loss over these.
        seconds: Wall time spent on this epoch.
        history: Validation figures of each finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, terms: Mapping[str, float]) -> None:
        """Count one more batch."""
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in terms.items()}
        self.batch += 1

    def means(self) -> dict[str, float]:
        """Mean of each term of the loss over the finished batches."""
        return {name: total / self.batch for name, total in self.totals.items()}

    def finish_epoch(self, figures: dict[str, float]) -> None:
        """Turn to the next epoch."""
        self.history.append(figures)
        self.epoch, self.batch, self.totals, self.seconds = self.epoch + 1, 0, {}, 0.0


def save_state(path: Path, learning: Learning, progress: Progress, identity: Mapping[str, str]) -> None:
    """Write the whole state; the file appears under its name only when it is whole.

    Args:
        path: Where to.
        learning: Weights and moments.
        progress: How far it is.
        identity: What makes this training another than others: settings, cases, weights it started from.
    """
    tensors = {f"model.{name}": tensor for name, tensor in learning.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in learning.average.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in learning.best.items()}
    for index, moments in learning.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_tensors(path, tensors, {"progress": asdict(progress), "identity": dict(identity)})


def load_state(path: Path, learning: Learning, identity: Mapping[str, str]) -> Progress:
    """Put a saved state back; how far it was.

    Raises:
        CheckpointError: The file is damaged, or belongs to a training with another identity.
    """
    tensors, header = load_tensors(path)
    _refuse_another(path, header.get("identity", {}), identity)
    learning.model.load_state_dict(_part(tensors, "model."))
    learning.average.load_state_dict(_part(tensors, "average."))
    device = next(learning.model.parameters()).device
    learning.best = {name: tensor.to(device) for name, tensor in _part(tensors, "best.").items()}
    state = learning.optimiser.state_dict()
    for name, tensor in _part(tensors, "optimiser.").items():
        index, moment = name.split(".")
        state["state"].setdefault(int(index), {})[moment] = tensor
    learning.optimiser.load_state_dict(state)
    return Progress(**header["progress"])


def read_progress(path: Path) -> Progress:
    """How far a saved training is.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return Progress(**load_tensors(path)[1]["progress"])


def _refuse_another(path: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if not names:
        return
    told = "; ".join(f"{name} was {before.get(name, 'unset')}, is {now.get(name, 'unset')}" for name in names)
    if len(names) > _MOST_NAMED:
        told = f"{len(names)} settings differ, among them {', '.join(names[:_MOST_NAMED])}"
    raise CheckpointError(
        f"The training saved in {path} was begun with something else: {told}.",
        hint="Resume with the settings, cases and weights that it was begun with, or leave --resume out to begin anew.",
        code=ErrorCode.RESUME,
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
