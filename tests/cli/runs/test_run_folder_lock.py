"""The lock of a run folder excludes other commands, and tasks of array jobs exclude commands."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_lock import acquire_lock, lock_owner
from tests.cli.commanding import ROOT, cmnet, command
from tests.phantoms import write_cohort
from tests.processes import held


def test_second_command_on_a_locked_run_folder_is_refused_with_the_owner(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    lock = acquire_lock(RunFolder(run).lock("run"), "cmnet infer", find_conflict=lambda: None, on_conflict=_fail)
    again = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert again.exit_code == 3
    assert "in use: cmnet infer, process" in again.output
    lock.release()
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0


def test_one_of_two_simultaneous_commands_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=2), tmp_path / "run"
    arguments = command("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    both = [subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    # The owner of the lock does not end before the other command has tried to acquire it.
    lock = RunFolder(run).lock("run")
    _until(lambda: any(getattr(lock_owner(lock), "pid", None) == process.pid for process in both))
    [owner] = [process for process in both if getattr(lock_owner(lock), "pid", None) == process.pid]
    with held([psutil.Process(owner.pid)]):
        _until(lambda: any(process.poll() is not None for process in both))
    [refused_process] = [process for process in both if process.poll() is not None]
    [working_process] = [process for process in both if process is not refused_process]
    assert (refused_process.returncode, "in use: cmnet infer, process" in refused_process.communicate()[1]) == (3, True)
    assert "2 done, 0 failed" in working_process.communicate()[1]
    assert working_process.returncode == 0
    assert cmnet("verify", "-r", run).exit_code == 0


def test_command_is_refused_while_an_array_task_runs(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    lock = acquire_lock(
        RunFolder(run).lock("task-00001-00000"), "task 7_0", find_conflict=lambda: None, on_conflict=_fail
    )
    refused = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert (refused.exit_code, "in use: task 7_0" in refused.output) == (3, True)
    lock.release()


def test_leftovers_of_killed_commands_are_removed(tmp_path: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    for place in ("", "tables/_parts/00001", "logs", ".copies/slurm/00001", "slurm/00001/shards"):
        (run / place).mkdir(parents=True, exist_ok=True)
        (run / place / ".tmp-0123456789ab.parquet").write_bytes(b"cut short")
    assert cmnet("preprocess", "-m", manifest, "-o", run).exit_code == 0
    assert not list(run.rglob(".tmp-*"))


def _until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def _fail(holder: object) -> None:
    raise AssertionError(holder)
