"""The number of threads changes results by rounding only, as docs/dask.md states."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.commanding import ROOT, cmnet, command, rows
from tests.phantoms import write_cohort

TOLERANCE = {"_pct": 0.01, "_deg": 0.01, "_ml": 1e-6, "_g": 1e-6, "_mm": 0.01}
"""The differences by unit that docs/dask.md states; bounds of intervals have five times these."""


def test_results_with_one_and_two_threads_agree(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, found = write_cohort(tmp_path, 1, frames=2), []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run = tmp_path / f"run-{threads}"
        subprocess.run(command("infer", "-m", manifest, "-o", run, "--model", tiny_model), cwd=ROOT, check=True)
        assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 0
        found.append(rows(run, "indices")[0])
    one, two = found
    for name, value in one.items():
        unit = next((unit for unit in TOLERANCE if name.endswith(unit)), None)
        if isinstance(value, float) and unit is not None:
            assert two[name] == pytest.approx(value, abs=TOLERANCE[unit], rel=1e-4), name
        elif not isinstance(value, float | list):
            assert two[name] == value, name
