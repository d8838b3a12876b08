"""The map over cases: every case has one outcome, in this process and in others."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmnet_cli.engines.select import map_cases
from cmnet_core.errors import ErrorCode
from tests.cli.commanding import ROOT
from tests.cli.engines.stub_stages import Doubling, Numbered


@pytest.mark.parametrize(("workers", "numbers"), [(0, (1, 2, 3, 5)), (2, (1, 2, 3, 4, 5, 6))])
def test_failing_case_leaves_the_others_done(workers: int, numbers: tuple[int, ...]) -> None:
    outcomes = {o.case_id: o for o in map_cases(Doubling(), [Numbered(n) for n in numbers], workers=workers)}
    assert {case: outcome.receipt for case, outcome in outcomes.items()} == {
        f"sub-990000{n}": None if n in (2, 3, 4) else 2 * n for n in numbers
    }
    bad, defect = outcomes["sub-9900002"].failure, outcomes["sub-9900003"].failure
    assert bad is not None
    assert defect is not None
    assert (bad.code, bad.hint) == (ErrorCode.IMAGE_VALUES, "Give one.")
    assert defect.code == ErrorCode.DEFECT
    assert "ZeroDivisionError" in defect.traceback
    if workers:
        dead = outcomes["sub-9900004"].failure
        assert dead is not None
        assert dead.code == ErrorCode.WORKER_DIED


def test_cases_are_taken_as_workers_become_free() -> None:
    taken = []

    def endless() -> object:
        number = 10
        while True:
            taken.append(number)
            yield Numbered(number)
            number += 1

    outcomes = map_cases(Doubling(), endless(), workers=0)  # type: ignore[arg-type]
    assert next(outcomes).receipt == 20
    assert taken == [10]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are listed in /proc on Linux alone")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from cmnet_cli.engines.select import map_cases; "
        "from tests.cli.engines.stub_stages import Numbered, Sleeping; "
        f"list(map_cases(Sleeping(Path({str(tmp_path)!r})), [Numbered(1)], workers=1))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    _wait_until(lambda: any(tmp_path.iterdir()))
    [worker] = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    _wait_until(lambda: _has_ended(worker))


def _has_ended(process: int) -> bool:
    try:
        return "zombie" in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not true():
        assert time.monotonic() < ends, "waited for 300 s"
        time.sleep(0.05)
