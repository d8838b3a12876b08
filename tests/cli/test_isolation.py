"""What a bad subject, a second command or a lost machine costs: one subject, a word, nothing."""

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmnet_cli.commands import process as cohort_commands
from cmnet_cli.config import InferConfig
from cmnet_cli.engines import base as cohort
from cmnet_cli.engines import dask_engine
from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.select import open_engine
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_lock import acquire_lock
from cmnet_core.errors import EngineError, ErrorCode
from tests.cli.commanding import ROOT, cmnet, column, command, finals, named_in_logs, rows, traceback_of
from tests.cli.deadly import TreacherousStage
from tests.cli.test_bad_input import BAD_IMAGES
from tests.phantoms import write_cohort
from tests.processes import workers_of

CRASH, HOG, HANG = "9900020", "9900021", "9900022"


def test_twenty_of_sixty_are_bad_in_eleven_ways(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, run = write_cohort(tmp_path, 60, frames=2, step_mm=0.2), tmp_path / "run"
    wrong = {CRASH: ErrorCode.WORKER_DIED, HOG: ErrorCode.OUT_OF_MEMORY, HANG: ErrorCode.TIMEOUT}
    for number in range(17):
        spoil, code = list(BAD_IMAGES.values())[number % len(BAD_IMAGES)]
        subject = str(9900030 + number)
        spoil(tmp_path / f"{subject}.nii.gz")
        wrong[subject] = code
    plain = cohort_commands.infer_stage_of

    def treacherous(root: Path, config: InferConfig, device: str) -> TreacherousStage:
        return TreacherousStage(plain(root, config, device), crash=CRASH, hog=HOG, hang=HANG)

    monkeypatch.setattr(cohort_commands, "infer_stage_of", treacherous)
    # Time enough for the good ones while the machine is busy with other work.
    limits = ("--subject-timeout", 40, "--memory-limit", "1500MB")
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--workers", 2, *limits)
    assert (ran.exit_code, "40 done, 20 failed" in ran.output) == (4, True), ran.output
    found = {row["subject_id"]: row["error_code"] for row in rows(run, "status") if row["state"] == "failed"}
    assert found == {subject: str(code) for subject, code in wrong.items()}
    assert column(run, "status", "state").count("done") == 40
    logs = [row["log"] for row in rows(run, "status") if row["state"] == "failed"]
    assert len({log for log in logs if (run / "logs" / log).stat().st_size}) == 20
    assert "_decode" in traceback_of(run, HANG), "where it hung"
    assert not named_in_logs(run)
    assert cmnet("verify", "-r", run).exit_code == 0


def test_a_second_command_on_a_run_folder_says_who_works_there(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    lock = acquire_lock(RunFolder(run).lock("run"), "cmnet infer", busy=lambda: None, refuse=_fail)
    again = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert again.exit_code == 3
    assert "in use: cmnet infer, process" in again.output
    lock.release()
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0


def test_of_two_commands_at_once_one_works_and_the_other_says_so(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=2), tmp_path / "run"
    image, gate, real = (tmp_path / name for name in ("9900001.nii.gz", "gate", "real.nii.gz"))
    image.rename(real)
    # Whoever reads it waits until the gate is opened: so both commands are there at the same time.
    os.mkfifo(image)
    os.link(image, gate)
    words = command("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    both = [subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    _until(lambda: any(process.poll() is not None for process in both))
    [loser] = [process for process in both if process.poll() is not None]
    [winner] = [process for process in both if process is not loser]
    assert (loser.returncode, "in use: cmnet infer, process" in loser.communicate()[1]) == (3, True)
    real.replace(image)
    gate.open("wb").close()
    assert "2 done, 0 failed" in winner.communicate()[1]
    assert winner.returncode == 0
    assert cmnet("verify", "-r", run).exit_code == 0


def test_a_command_leaves_a_task_of_an_array_alone(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    lock = acquire_lock(RunFolder(run).lock("task-00001-00000"), "task 7_0", busy=lambda: None, refuse=_fail)
    refused = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model)
    assert (refused.exit_code, "in use: task 7_0" in refused.output) == (3, True)
    lock.release()


def _until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def _fail(holder: object) -> None:
    raise AssertionError(holder)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("tcp://127.0.0.1:9", "cannot be reached"),
        ("nowhere.json", "no engine 'nowhere.json'"),
        ("slurm", "no SLURM on this machine"),
    ],
)
def test_an_engine_that_is_not_there_is_said_before_anything_is_written(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, engine: str, told: str
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("cmnet_cli.engines.dask_engine._CONNECT_S", 0.5)
    manifest = write_cohort(tmp_path, 1, frames=2)
    options = ("-o", tmp_path / "run", "--model", tiny_model, "--workers", 1)
    ran = cmnet("infer", "-m", manifest, *options, "--engine", engine)
    assert (ran.exit_code, told in ran.output, "engine" in ran.output) == (3, True, True), ran.output
    assert not (tmp_path / "run").exists()


def test_submit_says_that_there_is_no_slurm(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    manifest = write_cohort(tmp_path, 1, frames=2)
    ran = cmnet("submit", "infer", "-m", manifest, "-o", tmp_path / "run", "--model", tiny_model)
    assert (ran.exit_code, "no SLURM on this machine" in ran.output) == (3, True)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_said_at_once_and_leaves_nothing_half_written(
    tmp_path: Path, tiny_model: Path, small_disk: Path, workers: int
) -> None:
    manifest, run = write_cohort(tmp_path, 12, frames=4), small_disk / "run"
    words = command("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--workers", workers)
    ran = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, "The disk is full" in ran.stderr) == (130, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not [path for path in finals(run / "subjects") if path.name.startswith(".tmp")]
    assert cmnet("verify", "-r", run).exit_code == 0


@pytest.mark.parametrize("ask", [("infer",), ("infer", "--workers", 1), ("preprocess",)])
def test_a_disk_that_may_not_be_written_is_said_at_once(
    tmp_path: Path, tiny_model: Path, small_disk: Path, ask: tuple[object, ...]
) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    weights = ("--model", tiny_model) if "infer" in ask else ()
    ran = cmnet(*ask, "-m", manifest, "-o", small_disk / "run", *weights)
    assert (ran.exit_code, "cannot be written: Read-only file system" in ran.output) == (3, True), ran.output


def test_a_full_disk_is_no_subjects_fault() -> None:
    def write(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run: Callable[[cohort.HasCaseId], None] = write
    with pytest.raises(EngineError, match="disk is full"):
        cohort.attempt(run, cohort.given_up("sub-9900001", cohort.Failure(ErrorCode.DEFECT, "", "", "")))


def test_a_worker_that_dies_while_it_starts_is_started_again() -> None:
    killed = threading.Thread(target=_kill_the_first_worker)
    killed.start()
    with open_engine(EngineSpec(workers=2)) as engine:
        killed.join(timeout=60)
        assert not killed.is_alive()
        assert engine.sees(Path(__file__))


def test_a_worker_that_dies_while_it_is_set_up_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    register, calls = dask_engine.Client.register_plugin, list[object]()

    def kill_first(client: dask_engine.Client, plugin: object) -> None:
        if not calls:
            workers_of(os.getpid())[0].kill()
        calls.append(plugin)
        register(client, plugin)

    monkeypatch.setattr(dask_engine.Client, "register_plugin", kill_first)
    with open_engine(EngineSpec(workers=2)) as engine:
        assert engine.sees(Path(__file__))


def _kill_the_first_worker() -> None:
    while not (workers := workers_of(os.getpid())):
        time.sleep(0.01)
    workers[0].kill()


def test_workers_that_never_start_are_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(dask_engine, "LocalCluster", fail)
    with (
        pytest.raises(EngineError, match="died 3 times while they started") as raised,
        open_engine(EngineSpec(workers=2)),
    ):
        pass
    assert "--workers 0" in raised.value.hint
