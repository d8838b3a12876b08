"""A full or read-only disk ends the command with a message and leaves no partial file."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmnet_cli.engines.base import Failure, HasCaseId, lost_case_outcome, run_case
from cmnet_core.errors import EngineError, ErrorCode
from tests.cli.commanding import ROOT, cmnet, command, finals
from tests.phantoms import write_cohort


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB, which is mounted for one test."""
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
def test_full_disk_ends_the_command_and_leaves_no_partial_file(
    tmp_path: Path, tiny_model: Path, small_disk: Path, workers: int
) -> None:
    manifest, run = write_cohort(tmp_path, 12, frames=4), small_disk / "run"
    arguments = command("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--workers", workers)
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, "The disk is full" in ran.stderr) == (130, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert not [path for path in finals(run / "subjects") if path.name.startswith(".tmp")]
    assert cmnet("verify", "-r", run).exit_code == 0


@pytest.mark.parametrize("arguments", [("infer",), ("infer", "--workers", 1), ("preprocess",)])
def test_read_only_disk_is_reported_at_once(
    tmp_path: Path, tiny_model: Path, small_disk: Path, arguments: tuple[object, ...]
) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    weights = ("--model", tiny_model) if "infer" in arguments else ()
    ran = cmnet(*arguments, "-m", manifest, "-o", small_disk / "run", *weights)
    assert (ran.exit_code, "cannot be written: Read-only file system" in ran.output) == (3, True), ran.output


def test_full_disk_is_no_failure_of_a_subject() -> None:
    def write(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run: Callable[[HasCaseId], None] = write
    with pytest.raises(EngineError, match="disk is full"):
        run_case(run, lost_case_outcome("sub-9900001", Failure(ErrorCode.DEFECT, "", "", "")))
