"""The number of threads changes results by rounding only, as docs/dask.md states."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

TOLERANCE = {"_pct": 0.01, "_deg": 0.01, "_ml": 1e-6, "_g": 1e-6, "_mm": 0.01}
"""The differences by unit that docs/dask.md states; bounds of intervals have five times these."""


@pytest.fixture
def thread_count() -> Iterator[None]:
    """Leave the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_results_with_one_and_two_threads_agree(tmp_path: Path, tiny_model: Path, thread_count: None) -> None:
    manifest, found = write_cohort(tmp_path, 1, frames=2), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        run = tmp_path / f"run-{threads}"
        assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0
        assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 0
        found.append(rows(run, "indices")[0])
    one, two = found
    for name, value in one.items():
        unit = next((unit for unit in TOLERANCE if name.endswith(unit)), None)
        if isinstance(value, float) and unit is not None:
            assert two[name] == pytest.approx(value, abs=TOLERANCE[unit], rel=1e-4), name
        elif not isinstance(value, float | list):
            assert two[name] == value, name
