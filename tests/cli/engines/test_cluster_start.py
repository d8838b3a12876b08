"""Starting and connecting to engines: missing engines are reported, and dead workers are started again."""

import os
import threading
import time
from pathlib import Path

import pytest

from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.dask import cluster
from cmnet_cli.engines.select import open_engine
from cmnet_core.errors import EngineError
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort
from tests.processes import workers_of


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("tcp://127.0.0.1:9", "cannot be reached"),
        ("nowhere.json", "no engine 'nowhere.json'"),
        ("slurm", "no SLURM on this machine"),
    ],
)
def test_missing_engine_is_reported_before_anything_is_written(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, engine: str, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("cmnet_cli.engines.dask.cluster.CONNECT_TIMEOUT_S", 0.5)
    manifest = write_cohort(tmp_path, 1, frames=2)
    options = ("-o", tmp_path / "run", "--model", tiny_model, "--workers", 1)
    ran = cmnet("infer", "-m", manifest, *options, "--engine", engine)
    assert (ran.exit_code, message in ran.output, "engine" in ran.output) == (3, True, True), ran.output
    assert not (tmp_path / "run").exists()


def test_worker_that_dies_during_its_start_is_started_again() -> None:
    killed = threading.Thread(target=_kill_the_first_worker)
    killed.start()
    with open_engine(EngineSpec(workers=2)) as engine:
        killed.join(timeout=60)
        assert not killed.is_alive()
        assert engine.all_workers_see(Path(__file__))


def test_worker_that_dies_during_its_setup_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    register, calls = cluster.Client.register_plugin, list[object]()

    def kill_first(client: cluster.Client, plugin: object) -> None:
        if not calls:
            workers_of(os.getpid())[0].kill()
        calls.append(plugin)
        register(client, plugin)

    monkeypatch.setattr(cluster.Client, "register_plugin", kill_first)
    with open_engine(EngineSpec(workers=2)) as engine:
        assert engine.all_workers_see(Path(__file__))


def _kill_the_first_worker() -> None:
    while not (workers := workers_of(os.getpid())):
        time.sleep(0.01)
    workers[0].kill()


def test_workers_that_never_start_are_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(cluster, "LocalCluster", fail)
    with (
        pytest.raises(EngineError, match="died 3 times while they started") as raised,
        open_engine(EngineSpec(workers=2)),
    ):
        pass
    assert "--workers 0" in raised.value.hint
