"""A tenth method is one file and one line: a copy of the package with both compares it with the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmnet_cli
import cmnet_core
from tests.cli.commanding import rows
from tests.phantoms import write_cohort

FILE = '''"""A displacement of 3 mm down, everywhere."""

import torch
from torch import Tensor

from cmnet_core.types import Spacing


def register(fixed: Tensor, moving: Tensor, spacing: Spacing) -> Tensor:
    """Return the same displacement at every voxel."""
    return torch.tensor([0.0, 3.0, 0.0]).view(3, 1, 1, 1).expand(3, *fixed.shape)
'''

IMPORT = "from cmnet_core.methods import tenth\n"
LINE = '    "tenth": _pairwise("3 mm down", tenth.register),\n'


def _copy_with_a_tenth_method(folder: Path) -> None:
    """Make the package anew of links, but for the list of the methods; nothing else is changed."""
    core = Path(cmnet_core.__file__).parent
    methods = folder / "cmnet_core" / "methods"
    methods.mkdir(parents=True)
    for source, target in ((core, methods.parent), (core / "methods", methods)):
        for path in source.iterdir():
            if path.name not in ("methods", "registry.py"):
                (target / path.name).symlink_to(path)
    (folder / "cmnet_cli").symlink_to(Path(cmnet_cli.__file__).parent)
    before, start, after = (core / "methods" / "registry.py").read_text().partition("METHODS: Mapping")
    opened, brace, entries = after.partition("{\n")
    (methods / "registry.py").write_text(before + IMPORT + start + opened + brace + LINE + entries)
    (methods / "tenth.py").write_text(FILE)


def test_a_tenth_method_is_one_file_and_one_line(tiny_model: Path, tmp_path: Path) -> None:
    _copy_with_a_tenth_method(tmp_path / "package")
    manifest, run = write_cohort(tmp_path, 1), tmp_path / "run"
    command = [sys.executable, "-m", "cmnet_cli", "benchmark", "--manifest", manifest, "--out", run]
    ran = subprocess.run(
        [*map(str, command), "--model", str(tiny_model), "--methods", "none,tenth"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "package")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    overlaps = [row for row in rows(run, "benchmark") if (row["comparison"], row["structure"]) == ("pooled", "myo")]
    dice = {row["method"]: row["dsc_pct"] for row in overlaps}
    assert set(dice) == {"none", "tenth"}
    assert dice["tenth"] < dice["none"] - 1.0
    assert "tenth" in (run / "tables" / "benchmark.md").read_text()
    [shift] = [row for row in rows(run, "benchmark_motions") if row["method"] == "tenth"]
    assert shift["sd_log_j_ed_to_es"] == pytest.approx(0.0, abs=1e-3)
