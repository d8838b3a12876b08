"""The record of a submission: what its array job does, the jobs that SLURM accepted, and the events of each task."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from cmnet_cli.runs.paths import SubmissionFolder
from cmnet_cli.runs.provenance import OnStale
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.seals import append_line, read_lines, read_sealed_json, sealed_line, write_sealed_json
from cmnet_core.errors import ErrorCode, ManifestError

RecordT = TypeVar("RecordT", "Shard", "FrozenFile", "SubmittedJob")


class TaskEvent(StrEnum):
    """What happens to a task."""

    STARTED = "started"
    FINISHED = "finished"
    MERGED = "merged"


class StopReason(StrEnum):
    """Why a task ended early."""

    TIME_LIMIT = "time limit"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of the manifest that one task works on."""

    number: int
    cases: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FrozenFile:
    """A file that was copied into the folder of a submission."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What the tasks of a submission do.

    Attributes:
        name: The number of the submission in the run folder.
        stage: preprocess, infer or indices.
        settings: The settings of preprocess or infer; empty for indices.
        indices: The settings of the index rows that the tasks of infer and indices write; empty for preprocess.
        reference: The reference ranges of these rows; None for preprocess.
        device: The device that the networks run on, as the user named it.
        on_stale: How to treat outputs made from other inputs, settings or weights.
        workers: Worker processes per task.
        memory_limit: Memory limit of a worker; None divides the memory of the task among its workers.
        subject_timeout: Time limit of a subject in seconds, or None.
        extra: The manifest's additional columns, which are copied into the table of indices.
        shards: The shards, one per task.
        version: The version of cmnet that submitted it.
        at: Time of the submission, in UTC.
    """

    name: str
    stage: str
    settings: dict[str, Any]
    indices: dict[str, Any]
    reference: FrozenFile | None
    device: str
    on_stale: OnStale
    workers: int
    memory_limit: str | None
    subject_timeout: float | None
    extra: tuple[str, ...]
    shards: tuple[Shard, ...]
    version: str
    at: str


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """One job that was sent to SLURM.

    It is recorded before it is sent. After an interruption, its unique name tells whether SLURM has accepted it.

    Attributes:
        job_id: SLURM's number of the job; of an array, that of the whole array; empty until SLURM has accepted it.
        kind: ``array`` or ``merge``.
        offset: Number of the shard of the array's task 0.
        tasks: Number of tasks.
        user: The user who submitted it.
        at: Time of the submission, in UTC.
        name: The name of the job, which no other job has.
    """

    job_id: str
    kind: str
    offset: int
    tasks: int
    user: str
    at: str
    name: str = ""


def read_submission(folder: SubmissionFolder) -> Submission:
    """Read the record of a submission.

    Raises:
        ManifestError: There is none.
    """
    values = read_sealed_json(folder.record) or read_sealed_json(folder.copy_of(folder.record))
    if values is None:
        raise ManifestError(
            f"There is no submission {folder.record}, or it is damaged.",
            hint="Give --run the folder that cmnet submit wrote; if that is right, cmnet verify --repair gives the "
            "damaged submission up, and submitting again sends what is missing.",
            code=ErrorCode.SHARD,
        )
    try:
        values |= {
            "shards": tuple(_record(Shard, item) for item in values["shards"]),
            "reference": _record(FrozenFile, values["reference"]) if values["reference"] else None,
            "extra": tuple(values["extra"]),
            "on_stale": OnStale(values["on_stale"]),
        }
        return Submission(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise _of_another_version(folder.record) from error


def _record(kind: type[RecordT], values: dict[str, Any]) -> RecordT:
    """Make a record of plain fields, each of which has the type of its annotation.

    Raises:
        TypeError: The values are those of another record.
    """
    record = kind(**values)
    if not all(isinstance(values.get(item.name, item.default), item.type) for item in fields(kind)):  # type: ignore[arg-type]
        raise TypeError(f"{values} are not those of a {kind.__name__}.")
    return record


def _of_another_version(path: Path) -> ManifestError:
    return ManifestError(
        f"{path} has another format: another version of cmnet wrote it.",
        hint="Use that version until the submission has ended, or remove the file to give the submission up.",
        code=ErrorCode.SHARD,
    )


def add_job(folder: SubmissionFolder, job: SubmittedJob) -> None:
    """Record a job before it is sent, and again once SLURM has accepted it."""
    others = (item for item in read_jobs(folder) if not job.name or item.name != job.name)
    write_jobs(folder, (*others, job))


def write_jobs(folder: SubmissionFolder, jobs: Iterable[SubmittedJob]) -> None:
    """Write the record of all jobs of a submission, and its copy: without it, jobs might be sent twice."""
    values = {"jobs": [asdict(job) for job in jobs]}
    for path in (folder.jobs, folder.copy_of(folder.jobs)):
        write_sealed_json(path, values)


def read_jobs(folder: SubmissionFolder) -> tuple[SubmittedJob, ...]:
    """Read the jobs of a submission, oldest first.

    Raises:
        ManifestError: Another version of cmnet recorded them.
    """
    values = read_sealed_json(folder.jobs) or read_sealed_json(folder.copy_of(folder.jobs))
    try:
        return tuple(_record(SubmittedJob, item) for item in (values or {"jobs": []})["jobs"])
    except (KeyError, TypeError) as error:
        raise _of_another_version(folder.jobs) from error


def give_up_submission(folder: SubmissionFolder) -> None:
    """Remove the records of a submission, so that none of its tasks starts any more and its subjects can be sent again.

    What its tasks have finished remains.
    """
    for record in (folder.record, folder.jobs):
        record.unlink(missing_ok=True)
        folder.copy_of(record).unlink(missing_ok=True)


def add_event(path: Path, event: TaskEvent, **facts: Any) -> None:
    """Append an event to the file of a task."""
    append_line(path, sealed_line({"event": event, "at": utc_now(), **facts}))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read the events of a task, oldest first; a line that is damaged or was cut short is skipped."""
    return [line for line in read_lines(path)[0] if "event" in line]
