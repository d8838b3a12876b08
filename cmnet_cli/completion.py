"""What the shell completes on the Tab key, apart from commands, options and files.

Nothing is imported that is slow, but for the names of methods, whose one list is their registry.
"""

from pathlib import Path

import cmnet_core

_WEIGHTS = Path(cmnet_core.__file__).parent / "weights"


def complete_run(incomplete: str) -> list[str]:
    """Return the run folders whose path begins with a text, and the folders in which there may be some."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and str(path).startswith(incomplete))
    except OSError:
        return []
    runs = [path for path in found if (path / "run.json").is_file()]
    return [str(path) for path in runs] or [f"{path}/" for path in found if not path.name.startswith(".")]


def complete_method(incomplete: str) -> list[str]:
    """Return the methods whose name begins with a text."""
    from cmnet_core.methods.registry import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def complete_methods(incomplete: str) -> list[str]:
    """Return lists of methods, separated by commas, whose last name is completed."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in complete_method(last)]


def complete_model(incomplete: str) -> list[str]:
    """Return the shipped models whose name begins with a text; without any, the shell completes files."""
    return [path.stem for path in sorted(_WEIGHTS.glob("*.safetensors")) if path.stem.startswith(incomplete)]
