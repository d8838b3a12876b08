"""The command doctor: facts about this machine and this installation, and what is likely to cause trouble."""

import dataclasses
import importlib.metadata
import json
import locale
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_core import __version__

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "pydicom", "pyarrow", "pandas", "safetensors", "typer", "rich")
_LEAST_GB, _LEAST_FILES, _LEAST_SHM_MB, _LEAST_OPEN_FILES = 10.0, 100_000, 60.0, 256
_SHM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        name: What was checked.
        found: The state of it.
        remedy: What to do; empty if nothing needs to be done.
    """

    name: str
    found: str
    remedy: str = ""


def collect_facts(folder: Path) -> dict[str, str]:
    """Return the facts that a bug report needs by name; none of them is about a subject.

    Args:
        folder: A folder on the disk to which runs are written.
    """
    import torch

    gpus = [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    usage = shutil.disk_usage(folder)
    facts = {
        "cmnet": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cores": f"{_usable_cores()} of {os.cpu_count()} usable",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "disk free here": f"{usage.free / 1e9:.0f} GB of {usage.total / 1e9:.0f} GB",
        "torch threads": str(torch.get_num_threads()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "devices": ", ".join(["cpu", *gpus]),
        "SLURM": shutil.which("sbatch") or "not available",
    }
    return facts | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _usable_cores() -> int:
    """Return the number of cores that this process may use, which a job or a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(folder: Path) -> Finding:
    """Check that there are not more threads than cores."""
    del folder
    text, cores = os.environ.get("OMP_NUM_THREADS", ""), _usable_cores()
    if text and not text.isdecimal():
        return Finding("threads", f"OMP_NUM_THREADS is '{text}'", "Set it to a number: export OMP_NUM_THREADS=1")
    if text and int(text) > cores:
        remedy = f"Threads wait for each other: export OMP_NUM_THREADS={cores}, or 1 with --workers {cores}."
        return Finding("threads", f"{text} threads on {cores} usable cores", remedy)
    return Finding("threads", f"{text or cores} on {cores} usable cores")


def check_cuda(folder: Path) -> Finding:
    """Check that PyTorch uses the GPUs that there are."""
    del folder
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", f"{torch.cuda.device_count()} usable")
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none; the networks run on the CPU")
    if torch.version.cuda is None:
        remedy = "Install a PyTorch with CUDA: https://pytorch.org/get-started/locally"
        return Finding("GPU", "there is a driver, and this PyTorch has no CUDA", remedy)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return Finding("GPU", "hidden by CUDA_VISIBLE_DEVICES", "Remove that variable: unset CUDA_VISIBLE_DEVICES")
    remedy = f"PyTorch was built for CUDA {torch.version.cuda}: compare it with what nvidia-smi prints."
    return Finding("GPU", "there is a driver, and PyTorch cannot use it", remedy)


def check_disk(folder: Path) -> Finding:
    """Check that the folder can be written, and that its disk has room for files and their content."""
    if not os.access(folder, os.W_OK):
        return Finding("disk", f"{folder.absolute()} cannot be written", "Give --out a folder that you may write to.")
    state = os.statvfs(folder)
    free_gb, free_files = state.f_bavail * state.f_frsize / 1e9, state.f_favail
    found = f"{free_gb:.0f} GB and {free_files} files free" if state.f_files else f"{free_gb:.0f} GB free"
    if free_gb < _LEAST_GB:
        remedy = "A subject needs up to 10 MB: make room, give --out another disk, or use --save-motion ed2es or none."
        return Finding("disk", found, remedy)
    if state.f_files and free_files < _LEAST_FILES:
        remedy = "A subject has about ten files: remove small files, or ask for a larger quota of files (inodes)."
        return Finding("disk", found, remedy)
    return Finding("disk", found)


def check_slurm(folder: Path) -> Finding:
    """Check that SLURM answers where it is installed."""
    del folder
    if shutil.which("sbatch") is None:
        return Finding("SLURM", "not installed; cmnet submit needs it, other commands do not")
    try:
        asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Finding("SLURM", "sinfo does not answer", "Run cmnet submit on a login node, or ask who runs SLURM.")
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or [f"sinfo ended with exit code {asked.returncode}"]
        return Finding("SLURM", lines[0], "Run cmnet submit on a login node, or ask who runs SLURM.")
    return Finding("SLURM", f"{len(asked.stdout.splitlines())} partitions and states")


def check_umask(folder: Path) -> Finding:
    """Check that this user can read what this user writes."""
    del folder
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        remedy = "New files cannot be read or written even by you: umask 077, or umask 027 with --group-readable."
        return Finding("umask", f"{mask:03o}", remedy)
    return Finding("umask", f"{mask:03o}; a run can be read by you only, or by its group with --group-readable")


def check_shared_memory(folder: Path) -> Finding:
    """Check the shared memory, which is small in containers by default."""
    del folder
    if not _SHM.is_dir():
        return Finding("/dev/shm", "not there", "Mount it: mount -t tmpfs tmpfs /dev/shm")
    free_mb = shutil.disk_usage(_SHM).free / 1e6
    if free_mb < _LEAST_SHM_MB:
        remedy = "Remove files of ended programs from it; start a container with --shm-size=1g."
        return Finding("/dev/shm", f"{free_mb:.0f} MB free", remedy)
    return Finding("/dev/shm", f"{free_mb:.0f} MB free")


def check_locale(folder: Path) -> Finding:
    """Check that texts are UTF-8."""
    del folder
    encodings = {locale.getpreferredencoding(do_setlocale=False).upper(), sys.getfilesystemencoding().upper()}
    other = sorted(encodings - {"UTF-8", "UTF8"})
    if other:
        return Finding("locale", f"{', '.join(other)}", "Names of files may be misread: export LC_ALL=C.UTF-8")
    return Finding("locale", "UTF-8")


def check_open_files(folder: Path) -> Finding:
    """Check how many files a process may open."""
    del folder
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _LEAST_OPEN_FILES:
        return Finding("open files", f"at most {limit}", f"Raise it before a run with workers: ulimit -n {most}")
    return Finding("open files", f"at most {limit}")


CHECKS: tuple[Callable[[Path], Finding], ...] = (
    *(check_threads, check_cuda, check_disk, check_slurm, check_umask),
    *(check_shared_memory, check_locale, check_open_files),
)


def doctor(folder: Path, messages: Messages, *, as_json: bool = False) -> None:
    """Print the facts, and what the checks found with a remedy for each trouble.

    Args:
        folder: A folder on the disk to which runs are written.
        messages: The console.
        as_json: Whether to print it as JSON.
    """
    facts, findings = collect_facts(folder), [check(folder) for check in CHECKS]
    if as_json:
        messages.data(json.dumps({"facts": facts, "checks": [dataclasses.asdict(item) for item in findings]}, indent=2))
        return
    for name, value in facts.items():
        messages.result(f"{name:<16} {value}")
    messages.result("")
    for item in findings:
        messages.result(f"{'CHECK' if item.remedy else 'ok':<6} {item.name:<11} {item.found}")
        if item.remedy:
            messages.result(f"{'':<18} {item.remedy}")
