"""The command submit: the cohort in frozen shards, one task of an array job each, and a merge after all."""

import getpass
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest
from cmnet_cli.commands.process import infer_stage_of
from cmnet_cli.config import InferConfig, PreprocessConfig
from cmnet_cli.console import Messages
from cmnet_cli.execution.runner import Job, Plan, make_plan, plan_after, select_cases, tell_plan
from cmnet_cli.runs.paths import RunFolder, SubmissionFolder
from cmnet_cli.runs.run_folder import OpenRun, locked_run, report_disk_errors, require_same_manifest, start_run
from cmnet_cli.slurm import sbatch as slurm
from cmnet_cli.slurm.array_tasks import at_work
from cmnet_cli.slurm.shards import cut, freeze
from cmnet_cli.slurm.submission import Job as SlurmJob
from cmnet_cli.slurm.submission import Submission, add_job
from cmnet_cli.stages import indices, infer, preprocess
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.parts import new_part_folder
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError

STAGES = (preprocess.NAME, infer.NAME, indices.NAME)
_SIGNAL = "--signal=B:TERM@120"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be submitted.

    Attributes:
        stage: preprocess, infer or indices.
        manifest: The cohort.
        out: The run folder.
        config: The stage's settings.
        device: Where the networks run.
        chunk: Subjects a task.
        max_parallel: Tasks that may run at once, or None.
        sbatch: Options for sbatch.
    """

    stage: str
    manifest: Path
    out: Path
    config: InferConfig | PreprocessConfig
    device: str
    chunk: int
    max_parallel: int | None
    sbatch: tuple[str, ...]


def submit(order: Order, job: Job) -> None:
    """Freeze what is missing into shards and submit an array job for them, and a merge after it.

    Raises:
        ManifestError: The manifest, the options or the run folder cannot be used, or an earlier submission still works.
        CheckpointError: The weights cannot be used.
        EngineError: SLURM took some of the jobs only.
    """
    folder = RunFolder(order.out.absolute())
    manifest = read_manifest(order.manifest.absolute())
    chosen = select_cases(manifest.cases, job.who)
    require_same_manifest(folder, manifest)
    plan = _plan(order, OpenRun(folder, manifest.cases), chosen, job)
    tell_plan(plan, job.messages, dry_run=False)
    if not plan.todo:
        job.messages.note("Nothing is missing: nothing is submitted.")
        return
    if job.how.dry_run:
        _tell_dry_run(order, folder, plan, job.messages)
        return
    slurm.require_slurm()
    _refuse_while_working(folder)
    _check(order, folder)
    with locked_run(folder, "submit"), report_disk_errors(folder.root):
        frozen = _freeze(order, manifest, plan, job)
    _send(order, folder, frozen, job.messages)


def _plan(order: Order, opened: OpenRun, chosen: Sequence[Case], job: Job) -> Plan:
    if order.stage == indices.NAME:
        return plan_after(infer.NAME, opened, chosen)
    root = opened.folder.root
    if isinstance(order.config, InferConfig):
        stage: Any = infer_stage_of(root, order.config, order.device)
    else:
        stage = PreprocessStage(root, order.config)
    return make_plan(stage, chosen, opened.folder, job.how)


def _refuse_while_working(folder: RunFolder) -> None:
    """One subject must not be in two tasks at once."""
    for name in folder.submissions:
        working = at_work(folder, name)
        if working:
            raise ManifestError(
                f"Submission {name} of {folder.root} still works: {working} task(s) are in the queue or running.",
                hint="Wait for them, or end them with scancel, and submit again: only what is missing is sent.",
                code=ErrorCode.RUN,
            )


def _freeze(order: Order, manifest: Manifest, plan: Plan, job: Job) -> Submission:
    opened = start_run(order.out.absolute(), manifest, f"submit {order.stage}", {"settings": asdict(order.config)})
    submission = Submission(
        name=new_part_folder(opened.folder).name,
        stage=order.stage,
        settings=asdict(order.config),
        device=order.device,
        on_stale=str(job.how.on_stale),
        workers=max(1, job.how.workers),
        memory_limit=job.engine.memory_limit,
        subject_timeout=job.engine.subject_timeout,
        extra=opened.extra,
        shards=(),
        version=__version__,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    folder = opened.folder.submission(submission.name)
    folder.logs.mkdir(parents=True, exist_ok=True)
    frozen = freeze(folder, submission, cut(plan.todo, order.chunk))
    for kind, script in _scripts(order, opened.folder, folder).items():
        folder.script(kind).write_text(script.text(), encoding="utf-8")
    return frozen


def _scripts(order: Order, run: RunFolder, folder: SubmissionFolder) -> dict[str, slurm.Script]:
    """What the jobs of a submission do, by kind."""
    cmnet = (sys.executable, "-m", "cmnet_cli")
    kept = ("--open-mode=append", "--requeue", _SIGNAL)
    name = folder.folder.name
    return {
        "array": slurm.Script(
            f"cmnet {__version__}: {order.stage} of submission {name}, {order.chunk} subjects a task.",
            (
                f"--job-name=cmnet-{order.stage}",
                f"--output={slurm.in_log_name(folder.logs)}/{name}_array_%A_%a.log",
                *kept,
                *order.sbatch,
            ),
            (*cmnet, "task", "--run", str(run.root), "--submission", name, "--shard", slurm.SHARD),
        ),
        "merge": slurm.Script(
            f"cmnet {__version__}: the tables of submission {name}, after all of its tasks, whatever became of them.",
            (
                "--job-name=cmnet-merge",
                f"--output={slurm.in_log_name(folder.logs)}/{name}_merge_%j.log",
                *slurm.for_merge((*kept, *order.sbatch)),
            ),
            (*cmnet, "merge", "--run", str(run.root)),
        ),
    }


def _check(order: Order, folder: RunFolder) -> None:
    for script in _scripts(order, folder, folder.submission("00000")).values():
        slurm.check(script.text())


def _send(order: Order, run: RunFolder, submission: Submission, messages: Messages) -> None:
    """Submit the arrays and the merge. Each job's id is written down before the next is sent."""
    folder, user = run.submission(submission.name), getpass.getuser()
    sent: list[str] = []
    for offset, tasks in slurm.arrays(len(submission.shards), slurm.max_array_size()):
        options = [*slurm.array_options(tasks, order.max_parallel), *_after(sent[-1:] if order.max_parallel else [])]
        job_id = slurm.send(folder.script("array"), options, [str(offset)])
        add_job(folder, SlurmJob(job_id, "array", offset, tasks, user, _now()))
        sent.append(job_id)
    # A task that failed must not keep the others' rows out of the tables.
    merge_id = slurm.send(folder.script("merge"), _after(sent), [])
    add_job(folder, SlurmJob(merge_id, "merge", 0, 1, user, _now()))
    messages.result(
        f"Submission {submission.name}: {len(submission.shards)} tasks in job {', '.join(sent)}; "
        f"the tables in job {merge_id}. How it goes: cmnet status --run {run.root}"
    )


def _after(jobs: Sequence[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(jobs)}"] if jobs else []


def _tell_dry_run(order: Order, run: RunFolder, plan: Plan, messages: Messages) -> None:
    """Print everything that would be written and sent; SLURM need not be here."""
    shards = cut(plan.todo, order.chunk)
    folder = run.submission("NNNNN")
    for kind, script in _scripts(order, run, folder).items():
        messages.result(f"--- {folder.script(kind)}")
        messages.result(script.text())
    limit = slurm.max_array_size()
    messages.result(f"--- {len(shards)} shards of up to {order.chunk} subjects; arrays of up to {limit} tasks")
    for number, (offset, tasks) in enumerate(slurm.arrays(len(shards), limit)):
        before = ["--dependency=afterany:PREVIOUS"] if order.max_parallel and number else []
        options = [*slurm.array_options(tasks, order.max_parallel), *before]
        messages.result(" ".join(["sbatch --parsable", *options, str(folder.script("array")), str(offset)]))
    messages.result(f"sbatch --parsable --dependency=afterany:ALL {folder.script('merge')}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
