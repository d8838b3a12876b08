"""One page about this machine and this installation, to paste into a bug report."""

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
    """What a bug report needs to know, and nothing about any subject.

    Args:
        folder: A folder on the disk that runs will be written to.
    """
    import torch

    usage = shutil.disk_usage(folder)
    facts = {
        "cmnet": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "disk free here": f"{usage.free / 1e9:.0f} GB of {usage.total / 1e9:.0f} GB",
        "torch threads": str(torch.get_num_threads()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "devices": _devices(),
        "SLURM": shutil.which("sbatch") or "not on this machine",
    }
    return facts | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{total / 1e9:.0f} GB"


def _devices() -> str:
    import torch

    cards = [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *cards])


def doctor(folder: Path, messages: Messages) -> None:
    """Print the page."""
    for name, value in collect_facts(folder).items():
        messages.result(f"{name:<16} {value}")
