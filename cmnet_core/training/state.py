"""The state of a training on disk: everything that a resumed training needs to give the same weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.models.checkpoint import load_tensors, save_tensors, select_prefix

_MAX_LISTED = 5
"""Number of differing settings that a message lists."""


@dataclass(slots=True, eq=False)
class TrainingState:
    """What changes while a model is trained.

    Attributes:
        model: The model.
        optimiser: The optimiser with its moments.
        average: The moving average of the weights.
        best: Averaged weights of the best epoch so far; empty where no metric is monitored.
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
class TrainingProgress:
    """How far a training has come.

    Attributes:
        epoch: Number of finished epochs, and so the number of the current one, from 0.
        batch: Finished batches of the current epoch.
        totals: Sum of each loss term over these batches.
        seconds: Wall time of the current epoch so far.
        history: Validation metrics of each finished epoch.
    """

    epoch: int = 0
    batch: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, terms: Mapping[str, float]) -> None:
        """Add the loss terms of one more batch."""
        self.totals = {name: self.totals.get(name, 0.0) + value for name, value in terms.items()}
        self.batch += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each loss term over the finished batches."""
        return {name: total / self.batch for name, total in self.totals.items()}

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Record the validation metrics of the current epoch and begin the next one."""
        self.history.append(metrics)
        self.epoch, self.batch, self.totals, self.seconds = self.epoch + 1, 0, {}, 0.0


def save_state(path: Path, state: TrainingState, progress: TrainingProgress, identity: Mapping[str, str]) -> None:
    """Write the state of a training atomically.

    Args:
        path: The state file.
        state: Weights and moments.
        progress: How far the training has come.
        identity: What distinguishes this training from others: its settings, cases and initial weights.
    """
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_tensors(path, tensors, {"progress": asdict(progress), "identity": dict(identity)})


def load_state(path: Path, state: TrainingState, identity: Mapping[str, str]) -> TrainingProgress:
    """Load a saved state into the model and the optimiser, and return how far the training had come.

    Raises:
        CheckpointError: The file is damaged, or belongs to a training with another identity.
    """
    tensors, header = load_tensors(path)
    _require_same_identity(path, header.get("identity", {}), identity)
    state.model.load_state_dict(select_prefix(tensors, "model."))
    state.average.load_state_dict(select_prefix(tensors, "average."))
    device = next(state.model.parameters()).device
    state.best = {name: tensor.to(device) for name, tensor in select_prefix(tensors, "best.").items()}
    optimiser_state = state.optimiser.state_dict()
    for name, tensor in select_prefix(tensors, "optimiser.").items():
        index, moment = name.split(".")
        optimiser_state["state"].setdefault(int(index), {})[moment] = tensor
    state.optimiser.load_state_dict(optimiser_state)
    return TrainingProgress(**header["progress"])


def read_progress(path: Path) -> TrainingProgress:
    """Read how far a saved training has come.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return TrainingProgress(**load_tensors(path)[1]["progress"])


def _require_same_identity(path: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if not names:
        return
    differences = "; ".join(f"{name} was {before.get(name, 'unset')}, is {now.get(name, 'unset')}" for name in names)
    if len(names) > _MAX_LISTED:
        differences = f"{len(names)} settings differ, among them {', '.join(names[:_MAX_LISTED])}"
    raise CheckpointError(
        f"The training saved in {path} was started differently: {differences}.",
        hint="Resume with the same settings, cases and initial weights, or omit --resume to start a new training.",
        code=ErrorCode.RESUME,
    )
