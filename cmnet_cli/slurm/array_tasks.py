"""How the tasks of a submission fare: from their own files first, with SLURM's queue and last words as a hint."""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from cmnet_cli.runs.paths import RunFolder, SubmissionFolder
from cmnet_cli.runs.run_lock import lock_holder
from cmnet_cli.slurm import sbatch as slurm
from cmnet_cli.slurm.submission import Job, read_events, read_jobs, read_submission


class TaskState(StrEnum):
    """Where a task stands."""

    DONE = "done"
    PENDING = "pending"
    RUNNING = "running"
    REQUEUED = "requeued"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    VANISHED = "vanished"


TIME, STOPPED = "time limit", "stopped"
"""Why a task ended early, as its last event says."""

STARTED, FINISHED, MERGED = "started", "finished", "merged"

IN_QUEUE = "is in the queue"

_LAST_WORDS = 4096
_BY_LAST_WORDS = (
    (TaskState.TIMED_OUT, re.compile(r"DUE TO TIME LIMIT")),
    (TaskState.OUT_OF_MEMORY, re.compile(r"oom.?kill|out.of.memory|exceeded (job )?memory limit", re.IGNORECASE)),
)
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


def lock_name(submission: str, shard: int) -> str:
    """The lease of the task that works on a shard."""
    return f"task-{submission}-{shard:05d}"


def task_states(run: RunFolder, name: str) -> dict[int, tuple[TaskState, str]]:
    """State and reason of the task of every shard of a submission."""
    folder = run.submission(name)
    jobs = {shard: (job, index) for job, shard, index in _tasks(folder)}
    queues = {user: slurm.queue(user) for user in {job.user for job, _ in jobs.values()}}
    states = {}
    for shard in read_submission(folder).shards:
        events = read_events(folder.events(shard.number))
        given = jobs.get(shard.number)
        if events and events[-1]["event"] != STARTED and events[-1].get("pending") == 0:
            states[shard.number] = (TaskState.DONE, "")
        elif events and lock_holder(run.lock(lock_name(name, shard.number))):
            states[shard.number] = (TaskState.RUNNING, f"task {events[-1].get('job')} on {events[-1].get('host')}")
        else:
            states[shard.number] = _by_slurm(folder, given, events, queues)
    return states


def at_work(run: RunFolder, name: str) -> int:
    """How many tasks of a submission are running or in the queue."""
    active = (TaskState.RUNNING, TaskState.REQUEUED)
    return sum(state in active or IN_QUEUE in reason for state, reason in task_states(run, name).values())


def _tasks(folder: SubmissionFolder) -> Iterator[tuple[Job, int, int]]:
    """Every task that was submitted: its job, its shard and its index in the array."""
    for job in read_jobs(folder):
        if job.kind == "array":
            for index in range(job.tasks):
                yield job, job.offset + index, index


def _by_slurm(
    folder: SubmissionFolder,
    given: tuple[Job, int] | None,
    events: list[dict[str, Any]],
    queues: Mapping[str, Mapping[tuple[str, int], str] | None],
) -> tuple[TaskState, str]:
    """The state of a task that does not work at present and has not finished."""
    if given is None:
        return TaskState.PENDING, "not submitted"
    job, index = given
    named = f"task {job.job_id}_{index}"
    queued = queues[job.user]
    in_queue = None if queued is None else queued.get((job.job_id, index))
    if in_queue in _WAITING:
        return (TaskState.REQUEUED if events else TaskState.PENDING), f"{named} {IN_QUEUE}"
    if in_queue is not None:
        return TaskState.RUNNING, f"{named} is {in_queue.lower()}"
    if queued is None and not events:
        return TaskState.PENDING, f"{named} was submitted; SLURM does not answer"
    return _how_it_ended(folder, job, index, events)


def _how_it_ended(
    folder: SubmissionFolder, job: Job, index: int, events: list[dict[str, Any]]
) -> tuple[TaskState, str]:
    """Why a task that has left the queue is not done: in its own words, in SLURM's, or nobody knows."""
    named = f"task {job.job_id}_{index}"
    last = events[-1] if events else {}
    if last.get("reason") == TIME:
        return TaskState.TIMED_OUT, f"{named} reached its time limit"
    if last.get("reason") == STOPPED:
        return TaskState.PENDING, f"{named} was stopped"
    words = _last_words(folder, job, index)
    for state, told in _BY_LAST_WORDS:
        if told.search(words):
            return state, f"{named} was ended by SLURM"
    return TaskState.VANISHED, f"{named} left the queue without a word"


def _last_words(folder: SubmissionFolder, job: Job, index: int) -> str:
    path = folder.log("array", f"{job.job_id}_{index}")
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST_WORDS))
        return file.read().decode(errors="replace")
