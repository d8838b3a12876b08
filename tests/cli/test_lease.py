"""A lease has one holder at a time, and outlives nobody."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmnet_cli.runs import run_lock as locks
from cmnet_cli.runs.run_lock import LockHolder, RunLock, acquire_lock, lock_holder

ROOT = Path(__file__).parents[2]


class RefusedError(Exception):
    """Somebody else holds the lease."""


def _refuse(holder: LockHolder) -> None:
    raise RefusedError(str(holder))


def _take(path: Path) -> RunLock:
    return acquire_lock(path, "a test", busy=lambda: None, refuse=_refuse)


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    def attempt(_: int) -> RunLock | None:
        try:
            return _take(tmp_path / "run")
        except RefusedError:
            return None

    with ThreadPoolExecutor(16) as pool:
        got = [lock for lock in pool.map(attempt, range(64)) if lock]
    assert len(got) == 1
    got[0].release()


def test_given_back_it_is_free_and_its_name_never_comes_back(tmp_path: Path) -> None:
    for _ in range(3):
        lock = _take(tmp_path / "run")
        assert lock_holder(tmp_path / "run") is not None
        with pytest.raises(RefusedError, match="a test, process"):
            _take(tmp_path / "run")
        lock.release()
        assert lock_holder(tmp_path / "run") is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.3"]


def test_a_holder_that_was_killed_on_this_machine_holds_nothing(tmp_path: Path) -> None:
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from cmnet_cli.runs.run_lock import take_lease
        take_lease(Path({str(tmp_path / "run")!r}), "gone", busy=lambda: None, refuse=print)
        os.kill(os.getpid(), signal.SIGKILL)"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert (tmp_path / "run.1").exists()
    _take(tmp_path / "run").release()


def test_a_holder_elsewhere_that_stands_still_loses_it_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    monkeypatch.setattr(locks.platform, "node", lambda: "elsewhere")
    theirs = _take(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(RefusedError, match="elsewhere"):
        _take(tmp_path / "run")
    monkeypatch.setattr(locks, "EXPIRES_S", -1.0)
    ours = _take(tmp_path / "run")
    theirs._beating.join(timeout=10)
    with pytest.raises(locks.EngineError, match="another took over"):
        theirs.require()
    ours.require()
    theirs.release()
    assert lock_holder(tmp_path / "run") is None or os.stat(tmp_path / "run.2").st_mtime > 1
    ours.release()


def test_who_excludes_each_other_is_asked_after_the_lease_is_taken(tmp_path: Path) -> None:
    held = []

    def busy() -> LockHolder | None:
        held.append(lock_holder(tmp_path / "run"))
        return LockHolder("another", "here", 1, "", "now")

    with pytest.raises(RefusedError, match="another"):
        acquire_lock(tmp_path / "run", "a test", busy=busy, refuse=_refuse)
    assert held[0] is not None
    assert lock_holder(tmp_path / "run") is None
