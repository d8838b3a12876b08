"""The assignment of GPUs to workers. No GPU is needed for these tests."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.dask import cluster
from cmnet_cli.engines.dask.engine import WorkerCount, count_workers
from cmnet_cli.engines.select import open_engine
from tests.cli.engines.stub_stages import Numbered


@dataclass(frozen=True)
class VisibleDevices:
    """Returns the GPUs that CUDA would see in this process."""

    name: str = "visible-devices"

    def open(self) -> Callable[[Numbered], str]:
        return lambda _: os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_worker_uses_one_gpu() -> None:
    with open_engine(EngineSpec(workers=2, gpus=("5", "GPU-7f"))) as engine:
        outcomes = list(engine.map(VisibleDevices(), [Numbered(n) for n in range(30)]))
    assert {outcome.failure for outcome in outcomes} == {None}
    assert {outcome.receipt for outcome in outcomes} == {"5", "GPU-7f"}


@pytest.mark.parametrize(("workers", "uses_dask_cuda"), [(2, True), (3, False)])
def test_dask_cuda_is_used_where_it_is_installed_and_every_worker_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, *, workers: int, uses_dask_cuda: bool
) -> None:
    module: Any = ModuleType("dask_cuda")
    module.__spec__ = ModuleSpec("dask_cuda", None)
    module.LocalCUDACluster = lambda **options: ("dask-cuda", options)
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(cluster, "LocalCluster", lambda **options: ("plain", options))
    kind, options = cluster.local_cluster(EngineSpec(workers=workers, gpus=("0", "3")))
    assert (kind, options["n_workers"], options["resources"]) == (
        "dask-cuda" if uses_dask_cuda else "plain",
        workers,
        {"GPU": 1},
    )
    assert options.get("CUDA_VISIBLE_DEVICES") == (["0", "3"] if uses_dask_cuda else None)


def _client(*gpus: int) -> Any:
    workers = {f"tcp://{n}": {"resources": {"GPU": count} if count else {}} for n, count in enumerate(gpus)}
    return SimpleNamespace(scheduler_info=lambda n_workers: {"workers": workers})


def test_only_the_gpu_workers_of_a_mixed_cluster_are_counted() -> None:
    none = WorkerCount(1, gpu_only=False)
    counted = count_workers(_client(1, 0, 0, 1), none, prefers_gpu=True)
    assert counted == WorkerCount(2, gpu_only=True)
    assert count_workers(_client(1, 0, 0, 1), none, prefers_gpu=False).workers == 4
    assert count_workers(_client(0, 0), none, prefers_gpu=True) == WorkerCount(2, gpu_only=False)
    # While the workers with a GPU are being restarted, the others are still not counted.
    assert count_workers(_client(0, 0), counted, prefers_gpu=True) == WorkerCount(0, gpu_only=True)
