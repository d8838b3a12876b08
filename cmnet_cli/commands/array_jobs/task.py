"""The command task: one task of an array job runs a stage on its shard, and writes the rows of the shard's subjects."""

import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.devices import gpus_for_workers
from cmnet_cli.engines.select import open_engine
from cmnet_cli.execution.build_stage import build_submitted_indices, build_submitted_stage
from cmnet_cli.execution.indices_parts import write_shard_part
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings, plan_stage
from cmnet_cli.execution.runner import ExecutionContext, StageResult, run_stage
from cmnet_cli.execution.summary import print_plan
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import OpenRun
from cmnet_cli.runs.run_lock import RUN_LOCK, LockOwner, RunLock, acquire_lock, lock_owner
from cmnet_cli.slurm import sbatch
from cmnet_cli.slurm.array_tasks import task_lock_name
from cmnet_cli.slurm.shards import read_shard
from cmnet_cli.slurm.submission import StopReason, Submission, TaskEvent, add_event, read_submission
from cmnet_cli.stages import infer

_NEAR_TIME_LIMIT_S = 600.0
_DRIVER_MEMORY_MB = 700
_STOP_MESSAGE = b"Asked to stop: no further subject is begun.\n"


def run_task(run: Path, name: str, shard: int, messages: Messages) -> ExitCode:
    """Run one shard of a submission.

    Args:
        run: The run folder.
        name: The number of the submission.
        shard: The number of the shard.
        messages: The console.

    Returns:
        Success, that some subjects failed, or that the task was asked to stop before its end.

    Raises:
        ManifestError: The shard or the frozen reference ranges are missing or were changed.
    """
    folder = RunFolder(run.absolute())
    submitted = folder.submission(name)
    submission = read_submission(submitted)
    opened = OpenRun(folder, read_shard(submitted, submission, shard))
    stage = build_submitted_stage(folder, submission)
    indices = build_submitted_indices(folder, submission)
    task = _task_id()
    stop = threading.Event()
    with (
        _stop_on_sigterm(stop),
        _locked_shard(folder, name, shard, task, messages) as lock,
        open_engine(_engine_spec(submission, folder)) as engine,
    ):
        add_event(submitted.events(shard), TaskEvent.STARTED, job=task, host=platform.node())
        attempt_log = folder.task_outcomes(name, shard)
        context = ExecutionContext(engine, lock, attempt_log, None, messages, is_task=True, stop=stop)
        plan, result = CasePlan((), {}), StageResult()
        if stage is not None:
            settings = ExecutionSettings(on_stale=submission.on_stale)
            plan = plan_stage(stage, opened.cases, folder, settings)
            print_plan(plan, messages, dry_run=False)
            result = run_stage(stage, plan, opened, context)
        pending = len(plan.to_run) - len(result.done) - len(result.failed)
        if indices is not None and not stop.is_set():
            write_shard_part(indices, submission, opened, context, shard)
        reason = _stop_reason() if stop.is_set() else ""
        add_event(submitted.events(shard), TaskEvent.FINISHED, job=task, pending=pending, reason=reason)
    messages.note(f"{submission.stage}: {len(result.done)} done, {len(result.failed)} failed, {pending} left")
    if reason:
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if result.failed else ExitCode.SUCCESS


def _engine_spec(submission: Submission, folder: RunFolder) -> EngineSpec:
    """Describe the workers of a task: they divide the memory and the GPUs of the job among themselves."""
    return EngineSpec(
        workers=submission.workers,
        memory_limit=submission.memory_limit or _worker_memory_limit(submission.workers),
        subject_timeout_s=submission.subject_timeout,
        gpus=gpus_for_workers(submission.device) if submission.stage == infer.NAME else (),
        worker_folder=folder.worker_logs,
    )


def _worker_memory_limit(workers: int) -> str | None:
    """Divide the job's memory among the workers, so that cmnet ends one worker before SLURM ends the whole task."""
    job_mb = os.environ.get("SLURM_MEM_PER_NODE")
    core_mb = os.environ.get("SLURM_MEM_PER_CPU")
    if job_mb is None and core_mb is not None:
        job_mb = str(int(core_mb) * int(os.environ.get("SLURM_CPUS_ON_NODE", "1")))
    if not job_mb or int(job_mb) <= _DRIVER_MEMORY_MB:
        return None
    return f"{(int(job_mb) - _DRIVER_MEMORY_MB) // workers}MB"


def _task_id() -> str:
    """Return SLURM's id of this task."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", f"process {os.getpid()}")


@contextmanager
def _locked_shard(folder: RunFolder, name: str, shard: int, task: str, messages: Messages) -> Iterator[RunLock]:
    """Lock the shard. A requeued task waits for its first copy, if that still runs."""
    reported: set[LockOwner] = set()

    def wait(owner: LockOwner) -> None:
        if owner not in reported:
            messages.note(f"Waiting for {owner}.")
            reported.add(owner)

    lock = acquire_lock(
        folder.lock(task_lock_name(name, shard)),
        f"task {task}",
        find_conflict=lambda: lock_owner(folder.lock(RUN_LOCK)),
        on_conflict=wait,
    )
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def _stop_on_sigterm(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM end the work after the running subjects; a second one ends it at once."""

    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Unbuffered, since the signal may arrive while another line is being written.
        os.write(2, _STOP_MESSAGE)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_reason() -> StopReason:
    """Find out why the task was asked to stop: SLURM sends the same signal near the time limit and for scancel."""
    left_s = sbatch.seconds_left(os.environ.get("SLURM_JOB_ID", "none"))
    return StopReason.TIME_LIMIT if left_s is not None and left_s < _NEAR_TIME_LIMIT_S else StopReason.STOPPED
