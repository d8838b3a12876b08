"""Completion by the Tab key in bash, as the installed script asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmnet_cli.completion import complete_method, complete_methods
from tests.cli.commanding import ROOT

# What cmnet's own start does not import either: completion must not be slower than a keystroke.
_CODE = """
import sys
from cmnet_cli.app import app
try:
    app(prog_name="cmnet")
finally:
    slow = [name for name in ("torch", "pandas", "pyarrow", "numpy", "dask") if name in sys.modules]
    print(*slow, file=sys.stderr)
"""


def _completed(words: str, folder: Path) -> list[str]:
    asked = {"_CMNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    assert ran.stderr.strip() == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("cmnet in", ["infer", "indices"]),
        ("cmnet infer --save-m", ["--save-motion"]),
        ("cmnet infer --on-stale re", ["rerun"]),
        ("cmnet infer --model d", ["default"]),
        ("cmnet status --run r", ["run-a"]),
        ("cmnet models info d", ["default"]),
        ("cmnet infer --manifest c", []),
    ],
)
def test_tab_completes(tmp_path: Path, words: str, found: list[str]) -> None:
    for name in ("run-a", "raw"):
        (tmp_path / name).mkdir()
    (tmp_path / "run-a" / "run.json").touch()
    assert _completed(words, tmp_path) == found


def test_methods_are_completed() -> None:
    assert complete_method("syn") == ["syn", "syn-mattes"]


def test_lists_of_methods_are_completed_by_their_last_name() -> None:
    assert complete_methods("syn,gre") == ["syn,greedy"]
