"""One task of an array job: its shard through the stage, and the rows of its subjects into a part."""

import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmnet_cli.commands.process import infer_stage_of
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig, load_config
from cmnet_cli.console import Messages
from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.devices import gpus_to_share
from cmnet_cli.engines.select import open_engine
from cmnet_cli.execution.runner import Plan, Site, StoredStage, Tally, go, make_plan, plan_after, tell_plan
from cmnet_cli.options import ExecutionOptions
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import OnStale
from cmnet_cli.runs.run_folder import RUN_LOCK, OpenRun
from cmnet_cli.runs.run_lock import LockHolder, RunLock, acquire_lock, lock_holder
from cmnet_cli.slurm import sbatch as slurm
from cmnet_cli.slurm.array_tasks import FINISHED, STARTED, STOPPED, TIME, lock_name
from cmnet_cli.slurm.shards import read_shard
from cmnet_cli.slurm.submission import Submission, add_event, read_submission
from cmnet_cli.stages import infer, preprocess
from cmnet_cli.stages.indices import TABLES_OF_INDICES, IndicesStage
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.parts import PartWriter
from cmnet_core.function.reference_ranges import SHIPPED, read_reference

_NEAR_THE_LIMIT_S = 600.0
_OF_THE_DRIVER_MB = 700
_TOLD_TO_STOP = b"Told to stop: no further subject is begun.\n"


def run_task(run: Path, name: str, shard: int, messages: Messages) -> int:
    """Work on one shard of a submission.

    Returns:
        0, 4 where some subjects failed, or 130 where it was told to stop before the end.

    Raises:
        ManifestError: The shard is missing or was changed.
    """
    folder = RunFolder(run.absolute())
    submitted = folder.submission(name)
    submission = read_submission(submitted)
    opened = OpenRun(folder, read_shard(submitted, submission, shard))
    job = job_name()
    stop = threading.Event()
    with (
        stopping_on_signals(stop),
        _leased(folder, name, shard, job, messages) as lock,
        open_engine(engine_spec(submission, folder)) as engine,
    ):
        add_event(submitted.events(shard), STARTED, job=job, host=platform.node())
        site = Site(engine, lock, folder.task_outcomes(name, shard), None, messages, is_task=True, stop=stop)
        plan, tally = _stage(submission, opened, site)
        pending = len(plan.todo) - len(tally.done) - len(tally.failed)
        if not stop.is_set() and submission.stage != preprocess.NAME:
            write_part(folder, submission, opened, site, f"{shard:05d}")
        reason = _reason(stop)
        add_event(submitted.events(shard), FINISHED, job=job, pending=pending, reason=reason)
    messages.note(f"{submission.stage}: {len(tally.done)} done, {len(tally.failed)} failed, {pending} left")
    return 130 if reason else 4 if tally.failed else 0


def _stage(submission: Submission, opened: OpenRun, site: Site) -> tuple[Plan, Tally]:
    """Do the stage for the cases of the shard that still need it."""
    how = ExecutionOptions(on_stale=OnStale(submission.on_stale))
    stage = stage_of(submission, opened.folder.root)
    if stage is None:
        return Plan((), {}), Tally()
    plan = make_plan(stage, opened.cases, opened.folder, how)
    tell_plan(plan, site.messages, dry_run=False)
    return plan, go(stage, plan, opened, site)


def stage_of(submission: Submission, root: Path) -> StoredStage[Any] | None:
    """The stage of a submission that stores files, if it has one."""
    if submission.stage == infer.NAME:
        return infer_stage_of(root, load_config(InferConfig, None, **submission.settings), submission.device)
    if submission.stage == preprocess.NAME:
        return PreprocessStage(root, load_config(PreprocessConfig, None, **submission.settings))
    return None


def write_part(folder: RunFolder, submission: Submission, opened: OpenRun, site: Site, part: str) -> Tally:
    """Compute the rows of every case that infer has finished with, and write them as one part."""
    rows = PartWriter(folder.parts / submission.name, part, extra=submission.extra)
    rows.add(dict.fromkeys(TABLES_OF_INDICES, ()))
    plan = plan_after(infer.NAME, opened, opened.cases)
    usual = IndicesConfig()
    tally = go(
        IndicesStage(folder.root, read_reference(SHIPPED), SamplingSettings(usual.samples, usual.seed)),
        plan,
        opened,
        site,
        keep=lambda found: rows.add(found.tables()),
    )
    rows.close()
    return tally


def engine_spec(submission: Submission, folder: RunFolder) -> EngineSpec:
    """Workers of a task: they share the memory and the GPUs that SLURM gave it."""
    return EngineSpec(
        workers=submission.workers,
        memory_limit=submission.memory_limit or _share_of_the_job(submission.workers),
        subject_timeout_s=submission.subject_timeout,
        gpus=gpus_to_share(submission.device) if submission.stage == infer.NAME else (),
        folder=folder.worker_logs,
    )


def _share_of_the_job(workers: int) -> str | None:
    """What each worker may use of the job's memory, so that a hog is ended here and not the whole task by SLURM."""
    whole = os.environ.get("SLURM_MEM_PER_NODE")
    by_core = os.environ.get("SLURM_MEM_PER_CPU")
    if whole is None and by_core is not None:
        whole = str(int(by_core) * int(os.environ.get("SLURM_CPUS_ON_NODE", "1")))
    if not whole or int(whole) <= _OF_THE_DRIVER_MB:
        return None
    return f"{(int(whole) - _OF_THE_DRIVER_MB) // workers}MB"


def job_name() -> str:
    """The task as SLURM calls it."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", f"process {os.getpid()}")


@contextmanager
def _leased(folder: RunFolder, name: str, shard: int, job: str, messages: Messages) -> Iterator[RunLock]:
    """Hold the shard: a requeued task may find that its first copy still runs, and waits for it."""
    told: set[str] = set()

    def wait(holder: LockHolder) -> None:
        if str(holder) not in told:
            messages.note(f"Waiting for {holder}.")
            told.add(str(holder))

    path = folder.lock(lock_name(name, shard))
    lock = acquire_lock(path, f"task {job}", busy=lambda: lock_holder(folder.lock(RUN_LOCK)), refuse=wait)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM end the work after the subjects in hand; a second one ends it at once."""

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Unbuffered: the signal may have come in the middle of another line's writing.
        os.write(2, _TOLD_TO_STOP)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(stop: threading.Event) -> str:
    """Why the task ends early: SLURM sends the same signal before the time limit and when somebody cancels it."""
    if not stop.is_set():
        return ""
    left_s = slurm.seconds_left(os.environ.get("SLURM_JOB_ID", "none"))
    return TIME if left_s is not None and left_s < _NEAR_THE_LIMIT_S else STOPPED
