"""Opening a run folder: freezing the manifest into it, and saying what ran there."""

import dataclasses
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest, write_manifest
from cmnet_cli.runs.paths import RunFolder, require_run
from cmnet_cli.runs.run_lock import LockHolder, RunLock, acquire_lock, lock_holder
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import read_json, write_json

RUN_LOCK = "run"
TASK_LOCK = "task-"


@dataclasses.dataclass(frozen=True, slots=True)
class OpenRun:
    """A run folder and the whole cohort that it was made for."""

    folder: RunFolder
    cases: tuple[Case, ...]

    @property
    def order(self) -> dict[str, int]:
        """The place of every case in the cohort."""
        return {case.case_id: place for place, case in enumerate(self.cases)}

    @property
    def extra(self) -> tuple[str, ...]:
        """Columns of the manifest that are carried through."""
        return tuple(sorted({name for case in self.cases for name in case.extra}))


def open_run(root: Path) -> OpenRun:
    """Open a run folder that infer or preprocess made.

    Raises:
        ManifestError: There is none.
    """
    folder = require_run(root)
    return OpenRun(folder, read_manifest(folder.cohort).cases)


@contextmanager
def locked_run(folder: RunFolder, command: str, *, wait: bool = False) -> Iterator[RunLock]:
    """Take a run folder for one command alone.

    Args:
        folder: The run folder.
        command: What is about to run.
        wait: Wait for whoever works on it.

    Raises:
        ManifestError: Another command, or a task of an array job, works on it; or it cannot be written.
    """

    def refuse(holder: LockHolder) -> None:
        if wait:
            return
        raise ManifestError(
            f"The run folder {folder.root} is in use: {holder}.",
            hint="Wait until that has ended. If it was killed on another machine, wait two minutes.",
            code=ErrorCode.RUN,
        )

    with report_disk_errors(folder.root):
        lock = acquire_lock(
            folder.lock(RUN_LOCK), f"cmnet {command}", busy=lambda: _task_at_work(folder), refuse=refuse
        )
    try:
        yield lock
    finally:
        lock.release()


def _task_at_work(folder: RunFolder) -> LockHolder | None:
    """A task of an array job that works on a run."""
    locks = folder.lock(RUN_LOCK).parent.glob(f"{TASK_LOCK}*")
    names = {path.name.rpartition(".")[0] for path in locks}
    return next((holder for name in sorted(names) if (holder := lock_holder(folder.lock(name)))), None)


@contextmanager
def report_disk_errors(root: Path) -> Iterator[None]:
    """Say what is wrong with a disk in words."""
    try:
        yield
    except OSError as error:
        raise ManifestError(
            f"The run folder {root} cannot be written: {error.strerror}.",
            hint="Give --out a folder that you may write to, on a disk with room.",
            code=ErrorCode.RUN,
        ) from error


def start_run(root: Path, manifest: Manifest, command: str, facts: dict[str, Any]) -> OpenRun:
    """Make a run folder for a manifest, or open it again for the same one.

    A manifest that has grown is welcome; one that lacks subjects of the run is another manifest.

    Args:
        root: The run folder.
        manifest: The cohort.
        command: What is about to run.
        facts: What ``run.json`` says of it.

    Raises:
        ManifestError: The folder was made for another manifest, or cannot be written.
    """
    folder = RunFolder(root)
    require_same_manifest(folder, manifest)
    with report_disk_errors(root):
        write_manifest(folder.cohort, manifest.cases)
        write_json(folder.description, _description())
        record_command(folder, command, manifest_digest=manifest.digest, **facts)
    return OpenRun(folder, manifest.cases)


def require_same_manifest(folder: RunFolder, manifest: Manifest) -> None:
    """Make sure that a run folder is new, or was made for this manifest.

    Raises:
        ManifestError: It was made for another one.
    """
    if not folder.cohort.exists():
        return
    before = {case.case_id for case in read_manifest(folder.cohort).cases}
    missing = before - {case.case_id for case in manifest.cases}
    if missing:
        raise ManifestError(
            f"{folder.root} was made for another manifest: {len(missing)} of its {len(before)} subjects "
            "are not in this one.",
            hint="Give another --out. To work on some subjects only, use --participant-label with the whole manifest.",
            code=ErrorCode.RUN,
        )


def record_command(folder: RunFolder, command: str, **facts: Any) -> None:
    """Note in ``run.json`` what a command was run with, in place of its last time."""
    record = read_json(folder.record) or {"commands": {}}
    record |= {"cmnet_version": __version__, "python": platform.python_version(), "platform": platform.platform()}
    record["commands"][command] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
    write_json(folder.record, record)


def _description() -> dict[str, Any]:
    return {
        "Name": "cmnet derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cmnet", "Version": __version__}],
    }
