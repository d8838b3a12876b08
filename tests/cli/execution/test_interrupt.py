"""Ctrl-C ends a command cleanly: exit code 130, how to go on, no traceback; the same command continues."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.commanding import ROOT, cmnet, column, command
from tests.phantoms import write_cohort


@pytest.mark.parametrize(("name", "workers"), [("infer", 0), ("run", 2)])
def test_ctrl_c_ends_cleanly(tmp_path: Path, tiny_model: Path, name: str, workers: int) -> None:
    manifest, run = write_cohort(tmp_path, 8, frames=4), tmp_path / "run"
    words = (name, "-m", manifest, "-o", run, "--model", tiny_model)
    started = subprocess.Popen(
        command(*words, "--workers", workers),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # A shell lets its background processes ignore the signal, and these tests may be one of them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while started.poll() is None and not list(run.rglob("*_desc-infer.json")):
        time.sleep(0.02)
    # A terminal sends it to the workers, too.
    os.killpg(started.pid, signal.SIGINT)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 130, output
    assert "Interrupted. Finished subjects are stored; the same command continues from here." in output
    assert "Traceback" not in output
    finished = _proofs(run)
    assert 0 < len(finished) < 8
    assert cmnet("verify", "-r", run).exit_code == 0
    if name == "infer":
        assert cmnet(*words).exit_code == 0
        assert column(run, "status", "state") == ["done"] * 8
        assert finished.items() <= _proofs(run).items()


def _proofs(run: Path) -> dict[str, int]:
    """Return when the sidecar of each finished subject was written."""
    return {path.name: path.stat().st_mtime_ns for path in run.rglob("*_desc-infer.json")}
