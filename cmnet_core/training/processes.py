"""Training in several processes, one per GPU, by PyTorch's DistributedDataParallel.

In a single process all functions do nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

ValueT = TypeVar("ValueT")


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return the number of this process, from 0; process 0 validates, writes files and prints."""
    return distributed.get_rank() if _is_distributed() else 0


def launched_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started; do nothing where torchrun started none."""
    if not launched_by_torchrun():
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wrap_data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a module so that its backward pass averages the gradients over all processes."""
    if not _is_distributed():
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def broadcast_from_first(value: Callable[[], ValueT]) -> ValueT:
    """Compute a value in process 0 and return it in all processes."""
    if not _is_distributed():
        return value()
    box = [value() if rank() == 0 else None]
    distributed.broadcast_object_list(box)
    found: ValueT = box[0]  # type: ignore[assignment]
    return found


def mean_over_processes(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Average every entry over the processes, all of which have the same entries."""
    if not _is_distributed():
        return values
    sums: Tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / world_size()).tolist(), strict=True))
