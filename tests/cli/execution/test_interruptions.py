"""A kill or an error at any call to the file system loses nothing: the same command ends with a whole run.

The environment variable ``CMNET_FAULTS`` sets the number of faults.
"""

import errno
import os
import random
from pathlib import Path
from typing import Any

from cmnet_cli.execution.integrity import check_integrity
from cmnet_cli.runs.paths import RunFolder
from tests.cli.commanding import cmnet, column
from tests.phantoms import write_cohort

FAULTS = int(os.environ.get("CMNET_FAULTS", "12"))
_CALLS = ("replace", "fsync", "unlink", "mkdir", "link", "utime", "scandir", "stat")
_KINDS = (None, errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EFBIG)
_KILLED = 9


def _run_with_fault(arguments: tuple[object, ...], kind: int | None, at: int) -> int:
    """Run a command in a child process whose n-th call to the file system kills it or fails; return the exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, calls = 1, 0

    def faulty(call: Any) -> Any:
        def replaced(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at and kind is None:
                os._exit(_KILLED)
            if calls == at and kind is not None:
                raise OSError(kind, os.strerror(kind))
            return call(*given, **named)

        return replaced

    try:
        for name in _CALLS:
            setattr(os, name, faulty(getattr(os, name)))
        code = cmnet(*arguments).exit_code
    finally:
        os._exit(code)


def test_faults_at_calls_to_the_file_system_lose_nothing(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 2, frames=2)
    # In this process, so that its children need not import anything.
    assert cmnet("preprocess", "-m", manifest, "-o", tmp_path / "undisturbed").exit_code == 0
    seed = int(os.environ.get("CMNET_SEED", "1"))
    print(f"seed {seed}")
    chosen, codes = random.Random(seed), []
    for number in range(FAULTS):
        run, kind = tmp_path / f"run-{number}", _KINDS[number % len(_KINDS)]
        arguments = ("preprocess", "-m", manifest, "-o", run)
        code = _run_with_fault(arguments, kind, chosen.randrange(1, 250))
        codes.append((kind, code))
        # Not 1, which would be a traceback.
        assert code in ({0, _KILLED} if kind is None else {0, 3, 4, 130}), (kind, code)
        if (run / "cohort.parquet").exists():
            assert not [damage for damage in check_integrity(RunFolder(run)).damage if damage.problem == "damaged"]
        assert cmnet(*arguments).exit_code == 0
        assert check_integrity(RunFolder(run)).damage == ()
        assert column(run, "status", "state") == ["done", "done"]
        assert not list(run.rglob(".tmp-*"))
    print(codes)
