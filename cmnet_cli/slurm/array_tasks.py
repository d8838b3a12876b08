"""The state of the tasks of a submission, from their own events first; SLURM's queue and logs fill the gaps."""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from cmnet_cli.runs.paths import RunFolder, SubmissionFolder
from cmnet_cli.runs.run_lock import TASK_LOCK_PREFIX, lock_owner
from cmnet_cli.slurm import sbatch
from cmnet_cli.slurm.submission import (
    StopReason,
    SubmittedJob,
    TaskEvent,
    read_events,
    read_jobs,
    read_submission,
    write_jobs,
)
from cmnet_core.errors import ErrorCode, ManifestError


class TaskState(StrEnum):
    """The state of a task."""

    DONE = "done"
    PENDING = "pending"
    RUNNING = "running"
    REQUEUED = "requeued"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    VANISHED = "vanished"


_IN_QUEUE = "is in the queue"
_LOG_END_BYTES = 4096
_LOG_PATTERNS = (
    (TaskState.TIMED_OUT, re.compile(r"DUE TO TIME LIMIT")),
    (TaskState.OUT_OF_MEMORY, re.compile(r"oom.?kill|out.of.memory|exceeded (job )?memory limit", re.IGNORECASE)),
)
_WAITING_STATES = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


def task_lock_name(submission: str, shard: int) -> str:
    """Return the name of the lock of the task that works on a shard."""
    return f"{TASK_LOCK_PREFIX}{submission}-{shard:05d}"


def find_interrupted_jobs(run: RunFolder, name: str) -> None:
    """Find out which jobs SLURM accepted whose submission was interrupted, and record their ids.

    A job that SLURM does not have was not accepted, or has ended: its finished subjects are not submitted again.

    Raises:
        ManifestError: SLURM does not answer.
    """
    folder = run.submission(name)
    jobs = []
    for job in read_jobs(folder):
        job_id: str | None = job.job_id or sbatch.find_job(job.user, job.name)
        if job_id is None:
            raise ManifestError(
                f"Submission {name} was interrupted, and SLURM does not answer whether it accepted job {job.name}.",
                hint="Submit again when squeue answers.",
                code=ErrorCode.ENGINE,
            )
        if job_id:
            jobs.append(replace(job, job_id=job_id))
    write_jobs(folder, jobs)


def task_states(run: RunFolder, name: str) -> dict[int, tuple[TaskState, str]]:
    """Return state and reason of the task of every shard of a submission."""
    folder = run.submission(name)
    jobs = {
        job.offset + index: (job, index)
        for job in read_jobs(folder)
        if job.kind == "array" and job.job_id
        for index in range(job.tasks)
    }
    queues = {user: sbatch.queue(user) for user in {job.user for job, _ in jobs.values()}}
    states = {}
    for shard in read_submission(folder).shards:
        events = read_events(folder.events(shard.number))
        if events and events[-1]["event"] != TaskEvent.STARTED and events[-1].get("pending") == 0:
            states[shard.number] = (TaskState.DONE, "")
        elif events and lock_owner(run.lock(task_lock_name(name, shard.number))):
            states[shard.number] = (TaskState.RUNNING, f"task {events[-1].get('job')} on {events[-1].get('host')}")
        elif shard.number not in jobs:
            states[shard.number] = (TaskState.PENDING, "not submitted")
        else:
            job, index = jobs[shard.number]
            states[shard.number] = _state_by_slurm(folder, job, index, events, queues[job.user])
    return states


def count_active_tasks(run: RunFolder, name: str) -> int:
    """Count the tasks of a submission that are running or in the queue."""
    active = (TaskState.RUNNING, TaskState.REQUEUED)
    return sum(state in active or _IN_QUEUE in reason for state, reason in task_states(run, name).values())


def _state_by_slurm(
    folder: SubmissionFolder,
    job: SubmittedJob,
    index: int,
    events: list[dict[str, Any]],
    queue: Mapping[tuple[str, int], str] | None,
) -> tuple[TaskState, str]:
    """Return the state of a submitted task that does not hold its lock and has not finished."""
    task = f"task {job.job_id}_{index}"
    in_queue = None if queue is None else queue.get((job.job_id, index))
    if in_queue in _WAITING_STATES:
        return (TaskState.REQUEUED if events else TaskState.PENDING), f"{task} {_IN_QUEUE}"
    if in_queue is not None:
        return TaskState.RUNNING, f"{task} is {in_queue.lower()}"
    if queue is None and not events:
        return TaskState.PENDING, f"{task} was submitted; SLURM does not answer"
    return _state_after_queue(folder, job, index, events)


def _state_after_queue(
    folder: SubmissionFolder, job: SubmittedJob, index: int, events: list[dict[str, Any]]
) -> tuple[TaskState, str]:
    """Return why a task left the queue unfinished, from its last event or from SLURM's lines at the end of its log."""
    task = f"task {job.job_id}_{index}"
    reason = events[-1].get("reason") if events else None
    if reason == StopReason.TIME_LIMIT:
        return TaskState.TIMED_OUT, f"{task} reached its time limit"
    if reason == StopReason.STOPPED:
        return TaskState.PENDING, f"{task} was stopped"
    log_end = _log_end(folder, job, index)
    for state, pattern in _LOG_PATTERNS:
        if pattern.search(log_end):
            return state, f"{task} was ended by SLURM"
    return TaskState.VANISHED, f"{task} left the queue without giving a reason"


def _log_end(folder: SubmissionFolder, job: SubmittedJob, index: int) -> str:
    path = folder.log("array", f"{job.job_id}_{index}")
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LOG_END_BYTES))
        return file.read().decode(errors="replace")
