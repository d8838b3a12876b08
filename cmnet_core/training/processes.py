"""Training in several processes, one a GPU, by PyTorch's own DistributedDataParallel; alone, all of it does nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

ValueT = TypeVar("ValueT")


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def count() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process, from 0. The first one validates, writes and speaks for all."""
    return distributed.get_rank() if _together() else 0


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Train together with the other processes that torchrun started; alone where it started none."""
    if not launched():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def share_gradients(learner: nn.Module, device: torch.device) -> nn.Module:
    """The module whose backward pass leaves every process with the mean of all gradients."""
    if not _together():
        return learner
    return DistributedDataParallel(learner, device_ids=[device] if device.type == "cuda" else None)


def from_the_first(value: Callable[[], ValueT]) -> ValueT:
    """What the first process finds, in all of them."""
    if not _together():
        return value()
    box = [value() if rank() == 0 else None]
    distributed.broadcast_object_list(box)
    found: ValueT = box[0]  # type: ignore[assignment]
    return found


def mean_over_all(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Mean of every entry over the processes, all of which have the same entries."""
    if not _together():
        return values
    sums: Tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / count()).tolist(), strict=True))
