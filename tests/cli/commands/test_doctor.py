"""The command doctor finds the usual causes of trouble, each with a remedy."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmnet_cli.commands import doctor
from cmnet_cli.commands.doctor import CHECKS
from tests.cli.commanding import cmnet


def _healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine one without trouble, whatever it is."""
    monkeypatch.setattr(doctor, "_usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(os, "statvfs", lambda _: _disk())
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_, **__: "UTF-8")


def _disk(**changes: int) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "f_bavail": 10**8,
            "f_frsize": 4096,
            "f_blocks": 10**9,
            "f_bfree": 10**8,
            "f_files": 10**9,
            "f_favail": 10**8,
        }
        | changes
    )


def _installed(*names: str) -> Any:
    return lambda name: f"/usr/bin/{name}" if name in names else None


def test_a_machine_without_trouble_needs_no_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _healthy(monkeypatch)
    printed = json.loads(cmnet("doctor", tmp_path, "--json").stdout)
    assert len(printed["checks"]) == len(CHECKS)
    assert not [item for item in printed["checks"] if item["remedy"]]
    assert printed["facts"]["cores"] == f"4 of {os.cpu_count()} usable"
    assert printed["facts"]["torch"] == torch.__version__


def _no_partition(*_: object, **__: object) -> Any:
    return SimpleNamespace(returncode=1, stdout="", stderr="sinfo: error: Unable to contact slurm controller")


def _no_answer(*_: object, **__: object) -> Any:
    raise subprocess.TimeoutExpired("sinfo", 20)


@pytest.mark.parametrize(
    ("target", "value", "name", "words"),
    [
        ("OMP_NUM_THREADS", "64", "threads", ("64 threads on 4 usable cores", "export OMP_NUM_THREADS=4")),
        ("OMP_NUM_THREADS", "all", "threads", ("'all'", "export OMP_NUM_THREADS=1")),
        (
            "os.statvfs",
            lambda path: _disk(f_bavail=10**9 if path == doctor._SHM else 1000),
            "disk",
            ("0 GB", "--save-motion ed2es"),
        ),
        ("os.statvfs", lambda _: _disk(f_favail=50), "disk", ("50 files free", "inodes")),
        ("os.access", lambda _, mode: mode != os.W_OK, "disk", ("cannot be written", "Give --out a folder")),
        ("cmnet_cli.commands.doctor._SHM", Path("/nowhere"), "/dev/shm", ("not there", "mount -t tmpfs")),
        ("cmnet_cli.commands.doctor._LEAST_SHM_MB", 1e12, "/dev/shm", ("MB free", "--shm-size=1g")),
        ("cmnet_cli.commands.doctor._LEAST_OPEN_FILES", 10**12, "open files", ("at most", "ulimit -n")),
        ("locale.getpreferredencoding", lambda *_, **__: "ANSI_X3.4-1968", "locale", ("ANSI", "LC_ALL=C.UTF-8")),
        ("subprocess.run", _no_partition, "SLURM", ("Unable to contact", "login node")),
        ("subprocess.run", _no_answer, "SLURM", ("does not answer", "login node")),
        ("torch.version.cuda", None, "GPU", ("no CUDA", "Install a PyTorch with CUDA")),
        ("torch.version.cuda", "12.4", "GPU", ("cannot use it", "CUDA 12.4")),
    ],
)
def test_a_usual_cause_is_found_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, value: Any, name: str, words: tuple[str, ...]
) -> None:
    _healthy(monkeypatch)
    if target.isupper():
        monkeypatch.setenv(target, value)
    else:
        monkeypatch.setattr(target, value)
    monkeypatch.setattr("shutil.which", _installed({"SLURM": "sbatch", "GPU": "nvidia-smi"}.get(name, "")))
    [found] = [check(tmp_path) for check in CHECKS if check(tmp_path).remedy]
    assert found.name == name
    assert all(word in f"{found.found} {found.remedy}" for word in words)
    assert f"CHECK  {name}" in cmnet("doctor", tmp_path).output


def test_hidden_gpus_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _healthy(monkeypatch)
    monkeypatch.setattr("shutil.which", _installed("nvidia-smi"))
    monkeypatch.setattr("torch.version.cuda", "12.4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset CUDA_VISIBLE_DEVICES" in doctor.check_cuda(tmp_path).remedy


def test_a_umask_that_hides_files_from_their_owner_is_found(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        assert "umask 077" in doctor.check_umask(tmp_path).remedy
        assert os.umask(0o777) == 0o777
    finally:
        os.umask(before)
