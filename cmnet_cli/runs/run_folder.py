"""Opening and locking a run folder, freezing the manifest into it, and recording the commands that ran."""

import dataclasses
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest, write_manifest
from cmnet_cli.runs.paths import RunFolder, require_run
from cmnet_cli.runs.run_lock import RUN_LOCK, TASK_LOCK_PREFIX, LockOwner, RunLock, acquire_lock, lock_owner
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.seals import copy_file, is_whole_parquet, read_sealed_json, record_logs, write_sealed_json
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError

_PRIVATE, _GROUP_READABLE = 0o700, 0o750


@dataclasses.dataclass(frozen=True, slots=True)
class OpenRun:
    """A run folder and the whole cohort that it was made for."""

    folder: RunFolder
    cases: tuple[Case, ...]

    @property
    def order(self) -> dict[str, int]:
        """The position of every case in the cohort, by case id."""
        return {case.case_id: position for position, case in enumerate(self.cases)}

    @property
    def extra(self) -> tuple[str, ...]:
        """The manifest's additional columns, which are copied into the table of indices."""
        return tuple(sorted({name for case in self.cases for name in case.extra}))


def open_run(root: Path) -> OpenRun:
    """Open a run folder that infer or preprocess has made.

    Raises:
        ManifestError: ``root`` is no run folder.
    """
    folder = require_run(root)
    if not is_whole_parquet(folder.cohort):
        raise ManifestError(
            f"{folder.cohort} is damaged, or cmnet 0.1.0 wrote it.",
            hint=f"cmnet verify --repair --run {root} restores it.",
            code=ErrorCode.RUN,
        )
    return OpenRun(folder, read_manifest(folder.cohort).cases)


@contextmanager
def locked_run(folder: RunFolder, command: str, *, wait: bool = False) -> Iterator[RunLock]:
    """Lock a run folder, so that no other command and no task of an array job works on it.

    Args:
        folder: The run folder.
        command: The command that is about to run.
        wait: Wait until the lock is free instead of raising an error.

    Raises:
        ManifestError: Another command or a task works on the folder, or the folder cannot be written.
    """

    def refuse(owner: LockOwner) -> None:
        if wait:
            return
        raise ManifestError(
            f"The run folder {folder.root} is in use: {owner}.",
            hint="Wait until that has ended. If it was killed on another machine, wait two minutes.",
            code=ErrorCode.RUN,
        )

    def task_owner() -> LockOwner | None:
        files = folder.lock(RUN_LOCK).parent.glob(f"{TASK_LOCK_PREFIX}*")
        names = sorted({path.name.rpartition(".")[0] for path in files})
        return next((owner for name in names if (owner := lock_owner(folder.lock(name)))), None)

    with report_disk_errors(folder.root):
        if not folder.root.exists():
            make_private(folder.root)
        lock = acquire_lock(folder.lock(RUN_LOCK), f"cmnet {command}", find_conflict=task_owner, on_conflict=refuse)
    # Everything but the folders of subjects, which their stages clean, and reports, which need no lock.
    for place in ("", "tables/", "tables/_parts/*/", "logs/", ".copies/", ".copies/slurm/*/", "slurm/*/", "slurm/*/*/"):
        for leftover in folder.root.glob(f"{place}.tmp-*"):
            leftover.unlink(missing_ok=True)
    try:
        yield lock
    finally:
        # On a full disk, the next command records them.
        with suppress(OSError):
            record_logs(folder.logs)
            for file in folder.copied:
                if file.exists() and not folder.copy_of(file).exists():
                    copy_file(file, folder.copy_of(file))
            _let_group_read_new_files(folder)
        lock.release()


@contextmanager
def report_disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into one that names the folder and a remedy.

    Raises:
        ManifestError: The folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        hint = "Use a run folder that you may write to, on a disk with room."
        if isinstance(error, PermissionError):
            hint = (
                "Work as the user who began the run, or in a run folder of your own; --group-readable lets your group "
                "read a run, but not change it."
            )
        raise ManifestError(
            f"The folder {folder} cannot be written: {error.strerror}.",
            hint=hint,
            code=ErrorCode.RUN,
        ) from error


def make_private(root: Path) -> None:
    """Create a run folder that only this user can enter, since its tables and file names contain ids."""
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(_PRIVATE)


def let_group_read(folder: RunFolder) -> None:
    """Let the group of a run folder read it, with the key that resolves the pseudonyms in its logs."""
    folder.root.chmod(_GROUP_READABLE)
    for key in (folder.share_key, folder.copy_of(folder.share_key)):
        if key.exists():
            key.chmod(0o640)


def _let_group_read_new_files(folder: RunFolder) -> None:
    """Let the group read what this command has written, if it may read the run and the umask has kept it from that."""
    mask = os.umask(0)
    os.umask(mask)
    if not (mask & 0o050 and folder.root.stat().st_mode & 0o040):
        return
    for path in folder.root.rglob("*"):
        # Among the output of workers are their certificates.
        if folder.worker_logs in (path, *path.parents):
            continue
        mode = path.stat().st_mode
        with suppress(PermissionError):
            path.chmod(mode | (0o050 if path.is_dir() else 0o040))


def start_run(root: Path, manifest: Manifest, command: str, facts: dict[str, Any]) -> OpenRun:
    """Make a run folder for a manifest, or open it again for the same manifest.

    The manifest may have grown since. One that lacks subjects of the run is another manifest.

    Args:
        root: The run folder.
        manifest: The cohort.
        command: The command that is about to run.
        facts: What ``run.json`` records of it.

    Raises:
        ManifestError: The folder was made for another manifest, or cannot be written.
    """
    folder = RunFolder(root)
    require_same_manifest(folder, manifest)
    with report_disk_errors(root):
        write_manifest(folder.cohort, manifest.cases)
        copy_file(folder.cohort, folder.copy_of(folder.cohort))
        write_description(folder)
        record_command(folder, command, manifest_digest=manifest.digest, **facts)
    return OpenRun(folder, manifest.cases)


def write_description(folder: RunFolder) -> None:
    """Write the description of the data set that BIDS requires."""
    write_sealed_json(folder.description, description_of_derivatives())


def description_of_derivatives() -> dict[str, object]:
    """Return the description of a data set of results, as BIDS has it."""
    return {
        "Name": "cmnet derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cmnet", "Version": __version__}],
    }


def require_same_manifest(folder: RunFolder, manifest: Manifest) -> None:
    """Make sure that a run folder is new, or was made for this manifest.

    Raises:
        ManifestError: It was made for another one.
    """
    if not folder.cohort.exists() or not is_whole_parquet(folder.cohort):
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
    """Record in ``run.json`` what a command is run with, in place of its previous record.

    Tables that it has written before remain required, also if it is interrupted now.
    """
    before = read_record(folder)["commands"].get(command, {})
    _update_record(folder, command, {"at": utc_now(), **facts, **{k: v for k, v in before.items() if k == "ended"}})


def record_end(folder: RunFolder, command: str) -> None:
    """Record in ``run.json`` that a command has written all of its tables: none of them may be missing then."""
    _update_record(folder, command, read_record(folder)["commands"].get(command, {}) | {"ended": utc_now()})


def _update_record(folder: RunFolder, command: str, facts: dict[str, Any]) -> None:
    record = read_record(folder)
    record |= {"cmnet_version": __version__, "python": platform.python_version(), "platform": platform.platform()}
    record["commands"][command] = facts
    write_sealed_json(folder.record, record)
    copy_file(folder.record, folder.copy_of(folder.record))


def read_record(folder: RunFolder) -> dict[str, Any]:
    """Read ``run.json``, or its copy where it is damaged; without either, no command is recorded."""
    for file in (folder.record, folder.copy_of(folder.record)):
        record = read_sealed_json(file)
        if record is not None and isinstance(record.get("commands"), dict):
            return record
    return {"commands": {}}
