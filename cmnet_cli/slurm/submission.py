"""A submission: what an array job is to do, the jobs that SLURM was given for it, and what became of them."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmnet_cli.runs.paths import SubmissionFolder
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import read_json, write_json


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of the manifest that one task works on."""

    number: int
    cases: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What the tasks of a submission do.

    Attributes:
        name: Its number in the run folder.
        stage: preprocess, infer or indices.
        settings: The stage's configuration.
        device: Where the networks run, as the user named it.
        on_stale: What to do with outputs made from other inputs, settings or weights.
        workers: Processes a task.
        memory_limit: Of a worker, or None for its share.
        subject_timeout: Seconds after which a subject is given up, or None.
        extra: Columns of the manifest that are carried through.
        shards: The rows of each task, by their digests.
        version: Of cmnet.
        at: When it was made.
    """

    name: str
    stage: str
    settings: dict[str, Any]
    device: str
    on_stale: str
    workers: int
    memory_limit: str | None
    subject_timeout: float | None
    extra: tuple[str, ...]
    shards: tuple[Shard, ...]
    version: str
    at: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job that SLURM was given.

    Attributes:
        job_id: SLURM's number; for an array that of the whole.
        kind: ``array`` or ``merge``.
        offset: Shard of the array's task 0.
        tasks: How many tasks it has.
        user: Who submitted it.
        at: When.
    """

    job_id: str
    kind: str
    offset: int
    tasks: int
    user: str
    at: str


def read_submission(folder: SubmissionFolder) -> Submission:
    """What a submission is to do.

    Raises:
        ManifestError: There is none, or it cannot be understood.
    """
    values = read_json(folder.record)
    if values is None:
        raise ManifestError(
            f"There is no submission {folder.record}.",
            hint="Give --run the folder that cmnet submit wrote.",
            code=ErrorCode.SHARD,
        )
    shards = tuple(Shard(**item) for item in values.pop("shards"))
    return Submission(**{**values, "shards": shards, "extra": tuple(values["extra"])})


def add_job(folder: SubmissionFolder, job: Job) -> None:
    """Write a job down, at once after SLURM has taken it."""
    write_json(folder.jobs, {"jobs": [asdict(item) for item in (*read_jobs(folder), job)]})


def read_jobs(folder: SubmissionFolder) -> tuple[Job, ...]:
    """The jobs of a submission, oldest first."""
    return tuple(Job(**item) for item in (read_json(folder.jobs) or {"jobs": []})["jobs"])


def add_event(path: Path, event: str, **facts: Any) -> None:
    """Note that something happened to a task."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(path: Path) -> list[dict[str, Any]]:
    """What happened to a task, oldest first; a line cut short by a crash is passed over."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
