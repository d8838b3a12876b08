"""Array jobs under limits, requests to stop, kills, two simultaneous copies of a task, and edited shards."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmnet_cli.runs.paths import RunFolder
from tests.cli.commanding import ROOT, cmnet, command, named_in_logs
from tests.cluster.conftest import jobs_left, jobs_of, until
from tests.phantoms import write_cohort
from tests.processes import held, workers_of
from tests.tables import require_equal_tables
from tests.tiny_model import write_tiny_model

SUBJECTS = 6
KILLS = int(os.environ.get("CMNET_KILLS", "0")) // 3


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose subjects take a while, weights, and a finished local run to compare with."""
    folder = tmp_path_factory.mktemp("study")
    write_cohort(folder, SUBJECTS, frames=8)
    write_tiny_model(folder / "tiny.safetensors")
    started = time.monotonic()
    assert cmnet("infer", *_options(folder, "undisturbed")).exit_code == 0
    (folder / "seconds").write_text(str(time.monotonic() - started))
    assert cmnet("indices", "-r", folder / "undisturbed").exit_code == 0
    return folder


def _options(study: Path, run: str) -> tuple[object, ...]:
    return ("-m", study / "cohort.csv", "-o", study / run, "--model", study / "tiny.safetensors")


def _submit(study: Path, run: str, *options: object) -> str:
    sent = cmnet("submit", "infer", *_options(study, run), "--mem", "1500M", *options)
    assert sent.exit_code == 0, sent.output
    jobs = json.loads((study / run / "slurm" / _last(study / run) / "jobs.json").read_text())["jobs"]
    return str(jobs[0]["job_id"])


def _last(run: Path) -> str:
    return RunFolder(run).submissions[-1]


def _states(run: Path) -> dict[str, str]:
    rows = json.loads(cmnet("status", "-r", run, "--json").stdout)
    return {row["subject_id"]: row["state"] for row in rows}


def _proofs(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.rglob("*_desc-infer.json")}


def _processes_of(run: Path) -> list[int]:
    """Return the processes of the tasks of a run."""
    found = subprocess.run(["pgrep", "-f", f"cmnet_cli task --run {run} "], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@contextmanager
def _held_after_the_first(run: Path) -> Iterator[None]:
    """Suspend the task of a run once it has finished one subject."""
    until(lambda: (_proofs(run) and _processes_of(run)) or not jobs_left(run))
    with held([worker for process in _processes_of(run) for worker in workers_of(process)]):
        yield


def _was_asked_to_stop(run: Path) -> bool:
    return any("Asked to stop" in path.read_text() for path in run.glob("logs/slurm/*_array_*.log"))


def _run(*arguments: str) -> int:
    return subprocess.run(arguments, capture_output=True, check=False).returncode


def test_more_shards_than_max_array_size_become_several_arrays(slurm: None, tmp_path: Path) -> None:
    lines = [f"{9900001 + number},{9900001 + number}.nii.gz" for number in range(2500)]
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(["subject_id,image", *lines]) + "\n")
    options = ("-m", manifest, "-o", tmp_path / "run", "--chunk", 1, "--max-parallel", 50, "--time", "02:00:00")
    output = cmnet("submit", "preprocess", *options, "--partition=gpu", "--gres", "gpu:1", "--dry-run").stdout
    arrays = [line.split() for line in output.splitlines() if "--array" in line]
    assert [(line[2], line[-1]) for line in arrays] == [
        ("--array=0-1000%50", "0"),
        ("--array=0-1000%50", "1001"),
        ("--array=0-497%50", "2002"),
    ]
    for option in ("--partition=gpu", "--gres=gpu:1", "--time=02:00:00"):
        assert f"#SBATCH {option}\n" in output
    assert output.count("#SBATCH --gres") == 1, "the merge needs no GPU"
    assert not (tmp_path / "run").exists()


def test_option_that_sbatch_refuses_is_reported_before_anything_is_written(slurm: None, study: Path) -> None:
    refused = cmnet("submit", "infer", *_options(study, "refused"), "--max-paralel", "3")
    assert (refused.exit_code, "max-paralel" in refused.output) == (3, True)
    assert not (study / "refused").exists()


def test_stopped_task_finishes_its_subject_and_a_new_submission_continues(slurm: None, study: Path) -> None:
    run = study / "stopped"
    job = _submit(study, "stopped", "--chunk", SUBJECTS)
    with _held_after_the_first(run):
        subprocess.run(["scancel", "--signal=TERM", "--batch", f"{job}_0"], check=True)
        until(lambda: _was_asked_to_stop(run))
    until(lambda: not jobs_left(run))
    done = _proofs(run)
    assert 1 <= len(done) < SUBJECTS, "it stopped at once, or never"
    assert sorted(_states(run).values()) == ["done"] * len(done) + ["pending"] * (SUBJECTS - len(done))
    _submit(study, "stopped", "--chunk", 2)
    until(lambda: not jobs_left(run))
    assert done.items() <= _proofs(run).items()
    require_equal_tables(run, study / "undisturbed")


def test_killed_task_is_vanished_and_a_new_submission_continues(slurm: None, study: Path) -> None:
    run = study / "killed"
    _submit(study, "killed", "--chunk", SUBJECTS)
    until(lambda: _proofs(run))
    for process in _processes_of(run):
        os.kill(process, signal.SIGKILL)
    until(lambda: not jobs_left(run))
    done = _proofs(run)
    assert set(_states(run).values()) == {"done", "vanished"}
    assert cmnet("verify", "-r", run).exit_code == 0
    _submit(study, "killed", "--chunk", 2)
    until(lambda: not jobs_left(run))
    assert done.items() <= _proofs(run).items()
    require_equal_tables(run, study / "undisturbed")
    assert not named_in_logs(run)


@pytest.mark.skipif(KILLS == 0, reason="takes a minute per kill; CMNET_KILLS sets their number")
def test_tables_after_kills_of_tasks_equal_those_of_an_undisturbed_run(slurm: None, study: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments, kills, runs = random.Random(seed), 0, 0
    while kills < KILLS:
        runs += 1
        name = f"killed-{runs}"
        run = study / name
        while _lacks(run, SUBJECTS):
            before = _proofs(run)
            _submit(study, name, "--chunk", 3)
            until(lambda run=run: _processes_of(run) or not jobs_left(run))
            time.sleep(moments.uniform(0.0, 12.0))
            for process in _processes_of(run)[:1] if kills < KILLS else []:
                os.kill(process, signal.SIGKILL)
                kills += 1
            until(lambda run=run: not jobs_left(run))
            assert before.items() <= _proofs(run).items()
            assert cmnet("verify", "-r", run).exit_code == 0
        require_equal_tables(run, study / "undisturbed")


def _lacks(run: Path, subjects: int) -> bool:
    return len(_proofs(run)) < subjects


def test_task_beyond_its_memory_is_out_of_memory(slurm: None, study: Path) -> None:
    run = study / "hungry"
    _submit(study, "hungry", "--chunk", SUBJECTS, "--mem", "150M")
    until(lambda: not jobs_left(run))
    assert set(_states(run).values()) == {"out of memory"}


def test_task_at_its_time_limit_is_timed_out(slurm: None, study: Path) -> None:
    run = study / "slow"
    # Long enough to start even on a busy machine. SLURM signals up to half a minute early; until then the task is
    # suspended, so that it does not finish.
    minutes = 1 + int(float((study / "seconds").read_text()) / 60)
    _submit(study, "slow", "--chunk", SUBJECTS, "--time", minutes, "--signal", "B:TERM@15")
    with _held_after_the_first(run):
        until(lambda: _was_asked_to_stop(run) or not jobs_left(run))
    until(lambda: not jobs_left(run))
    states = set(_states(run).values())
    assert "timed out" in states
    assert states <= {"timed out", "done"}


def test_requeued_task_continues(slurm: None, study: Path) -> None:
    run = study / "again"
    job = _submit(study, "again", "--chunk", SUBJECTS)
    with _held_after_the_first(run):
        subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)
        until(lambda: not _processes_of(run))
    done = _proofs(run)
    until(lambda: set(_states(run).values()) == {"done", "requeued"})
    # SLURM would wait for two minutes.
    until(lambda: _run("scontrol", "update", f"jobid={job}_0", "starttime=now") == 0)
    until(lambda: not jobs_left(run))
    assert done.items() <= _proofs(run).items()
    require_equal_tables(run, study / "undisturbed")


def test_one_of_two_simultaneous_copies_of_a_task_waits(slurm: None, study: Path) -> None:
    run = study / "twice"
    _submit(study, "twice", "--chunk", SUBJECTS, "--hold")
    again = cmnet("submit", "infer", *_options(study, "twice"))
    assert (again.exit_code, "still active: 1 task(s)" in again.output) == (3, True)
    task = command("task", "--run", run, "--submission", _last(run), "--shard", 0)
    copies = [subprocess.Popen(task, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [copy.communicate(timeout=900)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], outputs
    assert sum("Waiting for task" in output for output in outputs) == 1
    subprocess.run(["scancel", *jobs_of(run)], check=True)
    until(lambda: not jobs_left(run))
    assert cmnet("merge", "-r", run).exit_code == 0
    require_equal_tables(run, study / "undisturbed")


def test_edited_shard_is_refused(slurm: None, study: Path) -> None:
    run = study / "edited"
    _submit(study, "edited", "--chunk", 3, "--hold")
    subprocess.run(["scancel", *jobs_of(run)], check=True)
    submission = RunFolder(run).submission(_last(run))
    submission.shard(0).chmod(0o644)
    submission.shard(0).write_bytes(submission.shard(1).read_bytes())
    submission.shard(1).unlink()
    for shard, message in ((0, "digest differs"), (1, "is missing")):
        ran = cmnet("task", "--run", run, "--submission", _last(run), "--shard", shard)
        assert (ran.exit_code, message in ran.output, "(shard)" in ran.output) == (3, True, True)
    assert not _proofs(run)
