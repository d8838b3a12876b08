"""Workers and GPUs: one each, and never a worker without one for what wants one. No GPU is needed to see that."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cmnet_cli.engines import dask_engine
from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.select import open_engine
from tests.cli.test_cohort import Numbered


@dataclass(frozen=True)
class Seeing:
    """Tells which GPUs CUDA would see in this process."""

    name: str = "seeing"

    def open(self) -> Callable[[Numbered], str]:
        return lambda _: os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_worker_sees_one_gpu() -> None:
    with open_engine(EngineSpec(workers=2, gpus=("5", "GPU-7f"))) as engine:
        outcomes = list(engine.map(Seeing(), [Numbered(n) for n in range(30)]))
    assert {outcome.failure for outcome in outcomes} == {None}
    assert {outcome.receipt for outcome in outcomes} == {"5", "GPU-7f"}


@pytest.mark.parametrize(("workers", "takes_it"), [(2, True), (3, False)])
def test_dask_cuda_is_taken_where_it_is_and_every_worker_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, *, workers: int, takes_it: bool
) -> None:
    module: Any = ModuleType("dask_cuda")
    module.LocalCUDACluster = lambda **options: ("dask-cuda", options)
    monkeypatch.setitem(sys.modules, "dask_cuda", module)
    monkeypatch.setattr(dask_engine, "_has_dask_cuda", lambda: True)
    monkeypatch.setattr(dask_engine, "LocalCluster", lambda **options: ("plain", options))
    kind, options = dask_engine._local_cluster(EngineSpec(workers=workers, gpus=("0", "3")))
    assert (kind, options["n_workers"], options["resources"]) == (
        "dask-cuda" if takes_it else "plain",
        workers,
        {"GPU": 1},
    )
    assert options.get("CUDA_VISIBLE_DEVICES") == (["0", "3"] if takes_it else None)


def _client(*gpus: int) -> Any:
    workers = {f"tcp://{n}": {"resources": {"GPU": count} if count else {}} for n, count in enumerate(gpus)}
    return SimpleNamespace(scheduler_info=lambda n_workers: {"workers": workers})


def test_of_a_mixed_cluster_the_workers_with_a_gpu_are_meant() -> None:
    none = dask_engine._Workers(1, by_gpu=False)
    seen = dask_engine._workers_of(_client(1, 0, 0, 1), none, wants_gpu=True)
    assert seen == dask_engine._Workers(2, by_gpu=True)
    assert dask_engine._workers_of(_client(1, 0, 0, 1), none, wants_gpu=False).count == 4
    assert dask_engine._workers_of(_client(0, 0), none, wants_gpu=True) == dask_engine._Workers(2, by_gpu=False)
    # While those with a GPU start again, the others still are not meant.
    assert dask_engine._workers_of(_client(0, 0), seen, wants_gpu=True) == dask_engine._Workers(0, by_gpu=True)
