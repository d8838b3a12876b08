"""One cohort, five ways to go over it, five sets of equal tables."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commanding import cmnet
from tests.cluster.conftest import ROOT, jobs_left, until
from tests.phantoms import write_cohort
from tests.tables import require_equal_tables
from tests.tiny_model import write_tiny_model

SUBJECTS = 24


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, weights, and a finished run in one process to compare with."""
    folder = tmp_path_factory.mktemp("study")
    write_cohort(folder, SUBJECTS, frames=2, step_mm=0.5)
    write_tiny_model(folder / "tiny.safetensors")
    _analyse(folder, "here")
    return folder


def _analyse(study: Path, run: str, *options: object) -> None:
    infer = ("infer", "-m", study / "cohort.csv", "-o", study / run, "--model", study / "tiny.safetensors")
    ran = cmnet(*infer, *options)
    assert ran.exit_code == 0, ran.output
    again = cmnet("indices", "-r", study / run, *(options if "--workers" in options[:1] else ()))
    assert again.exit_code == 0, again.output


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Path]:
    """The file of a Dask scheduler with one worker, started by hand as a user would."""
    file = tmp_path / "scheduler.json"
    programs = (
        ("dask_scheduler", "--scheduler-file", file, "--port", "0", "--dashboard-address", "127.0.0.1:0"),
        ("dask_worker", "--scheduler-file", file, "--nthreads", "1", "--local-directory", tmp_path),
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *(str(word) for word in words)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *words in programs
    ]
    until(file.exists)
    yield file
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_two_workers_here(study: Path) -> None:
    _analyse(study, "local", "--workers", 2)
    require_equal_tables(study / "local", study / "here")


def test_a_running_dask_cluster(study: Path, scheduler: Path) -> None:
    _analyse(study, "running", "--engine", scheduler)
    require_equal_tables(study / "running", study / "here")


def test_workers_as_slurm_jobs(study: Path, slurm: None) -> None:
    options = ("--engine", "slurm", "--workers", 2, "--memory-limit", "2GB", "--sbatch=--time=00:10:00")
    _analyse(study, "jobs", *options)
    require_equal_tables(study / "jobs", study / "here")


def test_an_array_of_shards_of_five(study: Path, slurm: None) -> None:
    run = study / "array"
    weights = ("--model", study / "tiny.safetensors")
    sent = cmnet("submit", "infer", "-m", study / "cohort.csv", "-o", run, *weights, "--chunk", 5, "--mem", "1500M")
    assert sent.exit_code == 0, sent.output
    assert "5 tasks" in sent.stdout
    until(lambda: not jobs_left(), within_s=300)
    require_equal_tables(run, study / "here")
    assert cmnet("status", "-r", run).stdout.strip() == f"{SUBJECTS} done"
    assert cmnet("verify", "-r", run).exit_code == 0
