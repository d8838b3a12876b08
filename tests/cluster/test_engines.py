"""One cohort on five engines gives five equal sets of tables."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client

from tests.cli.commanding import ROOT, cmnet, command, finals, named_in_logs
from tests.cluster.conftest import jobs_left, until
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


@dataclass(frozen=True)
class Running:
    """A Dask cluster that was started by hand.

    Attributes:
        file: The scheduler file.
        scheduler: The scheduler.
    """

    file: Path
    scheduler: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A Dask scheduler with one worker, started as a user would."""
    file = tmp_path / "scheduler.json"
    programs = (
        ("dask_scheduler", "--scheduler-file", file, "--port", "0", "--dashboard-address", "127.0.0.1:0"),
        ("dask_worker", "--scheduler-file", file, "--nthreads", "1", "--local-directory", tmp_path),
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *(str(argument) for argument in arguments)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *arguments in programs
    ]
    until(file.exists)
    yield Running(file, started[0])
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_local_workers(study: Path) -> None:
    _analyse(study, "local", "--workers", 2)
    require_equal_tables(study / "local", study / "here")


def test_running_dask_cluster(study: Path, running: Running) -> None:
    until(lambda: _has_a_worker(running))
    _analyse(study, "running", "--engine", running.address)
    require_equal_tables(study / "running", study / "here")


def test_run_resumes_after_a_lost_scheduler(study: Path, running: Running) -> None:
    until(lambda: _has_a_worker(running))
    run = study / "lost"
    infer = ("infer", "-m", study / "cohort.csv", "-o", run, "--model", study / "tiny.safetensors")
    arguments = command(*infer, "--engine", running.file)
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: list(run.rglob("*_desc-infer.json")))
    running.scheduler.kill()
    output = process.communicate(timeout=900)[1]
    reported = "The Dask scheduler was lost" in output
    assert (process.returncode, reported, "Traceback" in output) == (130, True, False), output
    assert cmnet("verify", "-r", run).exit_code == 0
    assert cmnet(*infer).exit_code == 0
    assert cmnet("indices", "-r", run).exit_code == 0
    require_equal_tables(run, study / "here")


def _has_a_worker(running: Running) -> bool:
    with Client(running.address, timeout=60) as client:
        return bool(client.nthreads())


def test_workers_as_slurm_jobs(study: Path, slurm: None) -> None:
    options = ("--engine", "slurm", "--workers", 2, "--memory-limit", "2GB", "--sbatch=--time=00:20:00")
    _analyse(study, "jobs", *options)
    require_equal_tables(study / "jobs", study / "here")
    assert finals(study / "jobs" / "logs" / "workers"), "the output of the workers is stored in the run folder"
    assert not named_in_logs(study / "jobs")


def test_refused_jobs_are_reported_at_once(study: Path, slurm: None) -> None:
    infer = ("infer", "-m", study / "cohort.csv", "-o", study / "refused", "--model", study / "tiny.safetensors")
    ran = cmnet(*infer, "--engine", "slurm", "--workers", 2, "--sbatch=--partition=nowhere")
    assert (ran.exit_code, "invalid partition" in ran.output) == (3, True), ran.output
    assert not (study / "refused").exists()


def test_array_job_with_shards_of_five(study: Path, slurm: None) -> None:
    run = study / "array"
    weights = ("--model", study / "tiny.safetensors")
    sent = cmnet("submit", "infer", "-m", study / "cohort.csv", "-o", run, *weights, "--chunk", 5, "--mem", "1500M")
    assert sent.exit_code == 0, sent.output
    assert "5 tasks" in sent.stdout
    until(lambda: not jobs_left(run))
    require_equal_tables(run, study / "here")
    assert cmnet("status", "-r", run).stdout.strip() == f"{SUBJECTS} done"
    assert cmnet("verify", "-r", run).exit_code == 0
    assert not named_in_logs(run)
