"""A lock has one owner at a time, and the lock of a dead owner is free."""

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from cmnet_cli.runs import run_lock
from cmnet_cli.runs.run_lock import LockOwner, RunLock, acquire_lock, lock_owner
from cmnet_core.errors import EngineError
from tests.cli.commanding import ROOT


class RefusedError(Exception):
    """Another process owns the lock."""


def _refuse(owner: LockOwner) -> None:
    raise RefusedError(str(owner))


def _acquire(path: Path) -> RunLock:
    return acquire_lock(path, "a test", find_conflict=lambda: None, on_conflict=_refuse)


def test_one_of_many_processes_acquires_the_lock(tmp_path: Path) -> None:
    def attempt(_: int) -> RunLock | None:
        try:
            return _acquire(tmp_path / "run")
        except RefusedError:
            return None

    with ThreadPoolExecutor(16) as pool:
        got = [lock for lock in pool.map(attempt, range(64)) if lock]
    assert len(got) == 1
    got[0].release()


def test_released_lock_is_free_and_its_generation_is_not_reused(tmp_path: Path) -> None:
    for _ in range(3):
        lock = _acquire(tmp_path / "run")
        assert lock_owner(tmp_path / "run") is not None
        with pytest.raises(RefusedError, match="a test, process"):
            _acquire(tmp_path / "run")
        lock.release()
        assert lock_owner(tmp_path / "run") is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.3"]


def test_lock_of_a_killed_process_on_this_machine_is_free(tmp_path: Path) -> None:
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from cmnet_cli.runs.run_lock import acquire_lock
        acquire_lock(Path({str(tmp_path / "run")!r}), "killed", find_conflict=lambda: None, on_conflict=print)
        os.kill(os.getpid(), signal.SIGKILL)"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert (tmp_path / "run.1").exists()
    _acquire(tmp_path / "run").release()


@pytest.mark.parametrize("moment", ["before the link", "after it"])
def test_process_killed_while_it_acquires_the_lock_leaves_it_free_at_once(tmp_path: Path, moment: str) -> None:
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from cmnet_cli.runs import run_lock
        if {moment!r} == "before the link":
            run_lock.os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        else:
            link = run_lock.os.link
            run_lock.os.link = lambda *paths: (link(*paths), os.kill(os.getpid(), signal.SIGKILL))
        run_lock.acquire_lock(
            Path({str(tmp_path / "run")!r}), "killed", find_conflict=lambda: None, on_conflict=print)"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.suffix == ".draft" for path in tmp_path.iterdir())
    lock = _acquire(tmp_path / "run")
    assert len(list(tmp_path.iterdir())) == 1
    lock.release()


def test_lock_is_acquired_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    monkeypatch.setattr(run_lock.os, "link", refuse)
    test_released_lock_is_free_and_its_generation_is_not_reused(tmp_path)


def test_suspended_owner_on_another_machine_loses_the_lock_and_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "RENEW_INTERVAL_S", 0.05)
    monkeypatch.setattr(run_lock.platform, "node", lambda: "elsewhere")
    theirs = _acquire(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(RefusedError, match="elsewhere"):
        _acquire(tmp_path / "run")
    monkeypatch.setattr(run_lock, "STALE_AFTER_S", -1.0)
    ours = _acquire(tmp_path / "run")
    assert theirs.wait_until_lost(10)
    with pytest.raises(EngineError, match="another process took over"):
        theirs.require_owned()
    ours.require_owned()
    theirs.release()
    assert lock_owner(tmp_path / "run") is None or os.stat(tmp_path / "run.2").st_mtime > 1
    ours.release()


def test_conflicts_are_checked_after_the_lock_is_acquired(tmp_path: Path) -> None:
    owners = []

    def conflict() -> LockOwner | None:
        owners.append(lock_owner(tmp_path / "run"))
        return LockOwner("another", "here", 1, "", "now")

    with pytest.raises(RefusedError, match="another"):
        acquire_lock(tmp_path / "run", "a test", find_conflict=conflict, on_conflict=_refuse)
    assert owners[0] is not None
    assert lock_owner(tmp_path / "run") is None


@pytest.mark.parametrize("content", ['{"pid": 1}', "[1]", '{"owner": {}}', '{"command": 1, "host": 2, "pid": "x"}'])
def test_malformed_lock_counts_by_its_age_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.4").write_text(content)
    assert lock_owner(tmp_path / "run") is not None
    os.utime(tmp_path / "run.4", (2, 2))
    _acquire(tmp_path / "run").release()


def test_lock_of_another_machine_with_a_time_in_the_future_is_stale(tmp_path: Path) -> None:
    owner = LockOwner("infer", "another-machine", 1, "", "long ago")
    (tmp_path / "run.1").write_text(json.dumps(asdict(owner)))
    assert lock_owner(tmp_path / "run") == owner
    os.utime(tmp_path / "run.1", (4e9, 4e9))
    _acquire(tmp_path / "run").release()


def test_process_that_stood_still_does_not_acquire_an_outdated_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    read, held = run_lock._read_lock, list[RunLock]()

    def stand_still(of: Path) -> tuple[int, LockOwner | None]:
        before = read(of)
        if not held:
            monkeypatch.setattr(run_lock, "_read_lock", read)
            _acquire(path).release()
            held.append(_acquire(path))
        return before

    monkeypatch.setattr(run_lock, "_read_lock", stand_still)
    with pytest.raises(RefusedError):
        _acquire(path)
    held[0].release()
    assert [item.name for item in tmp_path.iterdir()] == ["run.2"]
