"""The command doctor: facts about this machine and this installation, for a bug report."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_core import __version__

_PACKAGES = ("torch", "numpy", "scipy", "nibabel", "pydicom", "pyarrow", "pandas", "safetensors", "typer", "rich")


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
        "cores": str(os.cpu_count()),
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


def doctor(folder: Path, messages: Messages) -> None:
    """Print the facts, one per line."""
    for name, value in collect_facts(folder).items():
        messages.result(f"{name:<16} {value}")
