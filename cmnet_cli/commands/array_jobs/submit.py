"""The command submit: it freezes the cohort into shards, and submits an array job, one task per shard, and a merge."""

import getpass
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig, load_config
from cmnet_cli.console import Messages
from cmnet_cli.execution.build_stage import (
    build_indices_stage,
    build_infer_stage,
    indices_facts,
    reference_path,
    stage_facts,
)
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings, plan_after_stage, plan_stage, select_cases
from cmnet_cli.execution.summary import print_plan, print_unusable_rows
from cmnet_cli.runs.paths import CohortStage, RunFolder, SubmissionFolder
from cmnet_cli.runs.run_folder import (
    OpenRun,
    let_group_read,
    locked_run,
    record_command,
    report_disk_errors,
    require_same_manifest,
    start_run,
)
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.seals import recording
from cmnet_cli.slurm import sbatch
from cmnet_cli.slurm.array_tasks import count_active_tasks, find_interrupted_jobs
from cmnet_cli.slurm.shards import freeze_reference, freeze_submission, split_into_shards
from cmnet_cli.slurm.submission import Submission, SubmittedJob, add_job
from cmnet_cli.stages import infer
from cmnet_cli.stages.indices import IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.parts import new_part_folder
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_text

_SIGNAL = "--signal=B:TERM@120"


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """What the user submits.

    Attributes:
        manifest: The cohort.
        out: The run folder.
        config: The settings of preprocess or infer; None for a submission of indices.
        indices: The settings of the index rows that the tasks of infer and indices write; None for preprocess.
        device: The device that the networks run on.
        chunk: Number of subjects per task.
        max_parallel: Number of tasks that may run at once, or None.
        sbatch: sbatch options.
    """

    manifest: Path
    out: Path
    config: PreprocessConfig | InferConfig | None
    indices: IndicesConfig | None
    device: str
    chunk: int
    max_parallel: int | None
    sbatch: tuple[str, ...]

    @property
    def stage(self) -> CohortStage:
        """The stage that the tasks run."""
        if self.config is None:
            return CohortStage.INDICES
        return CohortStage.INFER if isinstance(self.config, InferConfig) else CohortStage.PREPROCESS


def load_submission_settings(
    stage: CohortStage,
    config: Path | None,
    indices_config: Path | None,
    *,
    infer_options: Mapping[str, object],
    indices_options: Mapping[str, object],
) -> tuple[PreprocessConfig | InferConfig | None, IndicesConfig | None]:
    """Load the settings of a stage, and those of the index rows that its tasks write, as the local commands do.

    Args:
        stage: The stage.
        config: The TOML file of the stage, or None.
        indices_config: For infer, the TOML file of the index rows, or None.
        infer_options: Settings of infer from the command line; None means not given.
        indices_options: Settings of indices from the command line; None means not given.

    Raises:
        ManifestError: A file cannot be used, or a given option belongs to another stage.
    """
    foreign = {
        CohortStage.PREPROCESS: {**infer_options, **indices_options, "indices_config": indices_config},
        CohortStage.INFER: {},
        CohortStage.INDICES: {**infer_options, "indices_config": indices_config},
    }[stage]
    unusable = [f"--{name.replace('_', '-')}" for name, value in foreign.items() if value is not None]
    if unusable:
        raise ManifestError(
            f"cmnet submit {stage} does not use {', '.join(unusable)}.",
            hint="Leave it out, or submit the stage that it belongs to.",
            code=ErrorCode.CONFIG,
        )
    if stage == CohortStage.PREPROCESS:
        return load_config(PreprocessConfig, config), None
    if stage == CohortStage.INDICES:
        return None, load_config(IndicesConfig, config, **indices_options)
    return (
        load_config(InferConfig, config, **infer_options),
        load_config(IndicesConfig, indices_config, **indices_options),
    )


def submit(request: SubmissionRequest, settings: ExecutionSettings, messages: Messages) -> None:
    """Freeze the unfinished cases into shards, and submit an array job for them and a merge after it.

    Args:
        request: What to submit.
        settings: Which cases to run, and the workers of each task.
        messages: The console.

    Raises:
        ManifestError: The manifest, the options or the run folder cannot be used, or an earlier submission is active.
        CheckpointError: The weights cannot be used.
        EngineError: SLURM accepted only some of the jobs.
    """
    folder = RunFolder(request.out.absolute())
    manifest = read_manifest(request.manifest.absolute())
    print_unusable_rows(manifest.left_out, messages)
    selected = select_cases(manifest.cases, settings)
    require_same_manifest(folder, manifest)
    stage: PreprocessStage | InferStage | None = None
    if isinstance(request.config, InferConfig):
        stage = build_infer_stage(folder.root, request.config, request.device)
    elif request.config is not None:
        stage = PreprocessStage(folder.root, request.config)
    indices = build_indices_stage(folder.root, request.indices) if request.indices else None
    if settings.dry_run:
        plan = _plan(stage, selected, folder, manifest, settings, messages)
        if plan.to_run:
            _print_dry_run(request, folder, plan, messages)
        return
    sbatch.require_slurm()
    for script in _batch_scripts(request, folder, folder.submission("00000")).values():
        sbatch.check_script(script.text())
    # Of two submissions at once, the second plans after the jobs of the first are in the queue. Tasks that start
    # meanwhile wait for the lock.
    with locked_run(folder, "submit"):
        _require_no_active_tasks(folder)
        plan = _plan(stage, selected, folder, manifest, settings, messages)
        if not plan.to_run:
            return
        with report_disk_errors(folder.root):
            submission = _freeze(request, manifest, plan.to_run, settings, stage, indices)
        if settings.group_readable:
            let_group_read(folder)
        _submit_jobs(request, folder, submission, messages)


def _plan(
    stage: PreprocessStage | InferStage | None,
    selected: Sequence[Case],
    folder: RunFolder,
    manifest: Manifest,
    settings: ExecutionSettings,
    messages: Messages,
) -> CasePlan:
    """Find the cases that are missing, and print how many they are."""
    if stage is None:
        plan = plan_after_stage(infer.NAME, OpenRun(folder, manifest.cases), selected)
    else:
        plan = plan_stage(stage, selected, folder, settings)
    print_plan(plan, messages, dry_run=False)
    if not plan.to_run:
        messages.note("Nothing is missing: nothing is submitted.")
    return plan


def _require_no_active_tasks(folder: RunFolder) -> None:
    """Make sure that no subject is in two tasks at once."""
    for name in folder.submissions:
        find_interrupted_jobs(folder, name)
        active = count_active_tasks(folder, name)
        if active:
            raise ManifestError(
                f"Submission {name} of {folder.root} is still active: {active} task(s) are in the queue or running.",
                hint="Wait for them, or end them with scancel, and submit again: only what is missing is submitted. "
                "cmnet merge makes the tables of a submission that was interrupted.",
                code=ErrorCode.RUN,
            )


def _freeze(
    request: SubmissionRequest,
    manifest: Manifest,
    cases: Sequence[Case],
    settings: ExecutionSettings,
    stage: PreprocessStage | InferStage | None,
    indices: IndicesStage | None,
) -> Submission:
    """Write everything that the tasks read, and record the commands in ``run.json`` as local ones are recorded."""
    root = request.out.absolute()
    workers = max(1, settings.workers)
    opened = start_run(root, manifest, f"submit {request.stage}", {"workers": workers, "chunk": request.chunk})
    name = new_part_folder(opened.folder).name
    folder = opened.folder.submission(name)
    reference = None
    if stage is not None:
        facts = stage_facts(stage) | {"workers": workers, "submission": name}
        record_command(opened.folder, stage.name, manifest_digest=manifest.digest, **facts)
    if request.indices is not None and indices is not None:
        reference = freeze_reference(folder, reference_path(request.indices))
        recorded = request.indices
        if recorded.reference:
            recorded = replace(recorded, reference=str(folder.reference(reference.name)))
        record_command(opened.folder, indices.name, **indices_facts(recorded, indices), submission=name)
    submission = Submission(
        name=name,
        stage=request.stage,
        settings=asdict(stage.config) if stage else {},
        # Tasks may run in another folder.
        indices=asdict(request.indices) | {"calibration": str(indices.draws.calibration or "")}
        if request.indices and indices
        else {},
        reference=reference,
        device=request.device,
        on_stale=settings.on_stale,
        workers=workers,
        memory_limit=settings.memory_limit,
        subject_timeout=settings.subject_timeout,
        extra=opened.extra,
        shards=(),
        version=__version__,
        at=utc_now(),
    )
    folder.logs.mkdir(parents=True, exist_ok=True)
    frozen = freeze_submission(folder, submission, split_into_shards(cases, request.chunk))
    scripts = {folder.script(kind): text for kind, text in _batch_scripts(request, opened.folder, folder).items()}
    with recording(folder.folder, [path.name for path in scripts]):
        for path, script in scripts.items():
            write_text(path, script.text())
    return frozen


def _batch_scripts(
    request: SubmissionRequest, run: RunFolder, folder: SubmissionFolder
) -> dict[str, sbatch.BatchScript]:
    """Return the batch scripts of a submission, by kind of job."""
    cmnet = (sys.executable, "-m", "cmnet_cli")
    common = ("--open-mode=append", "--requeue", _SIGNAL)
    name, logs = folder.folder.name, sbatch.escape_log_path(folder.logs)
    array_options = (f"--job-name=cmnet-{request.stage}", f"--output={logs}/{name}_array_%A_%a.log")
    merge_options = ("--job-name=cmnet-merge", f"--output={logs}/{name}_merge_%j.log")
    return {
        "array": sbatch.BatchScript(
            f"cmnet {__version__}: {request.stage} of submission {name}, {request.chunk} subjects per task.",
            (*array_options, *common, *request.sbatch),
            (*cmnet, "task", "--run", str(run.root), "--submission", name, "--shard", sbatch.SHARD),
        ),
        "merge": sbatch.BatchScript(
            f"cmnet {__version__}: the tables of submission {name}, after all of its tasks, failed ones included.",
            (*merge_options, *sbatch.merge_options((*common, *request.sbatch))),
            (*cmnet, "merge", "--run", str(run.root)),
        ),
    }


def _submit_jobs(request: SubmissionRequest, run: RunFolder, submission: Submission, messages: Messages) -> None:
    """Submit the arrays and the merge. Each job is recorded before it is sent, and its id before the next is sent."""
    folder, user = run.submission(submission.name), getpass.getuser()
    # Submissions of other run folders have other names.
    token = hashlib.sha256(f"{run.root}\n{submission.name}\n{submission.at}".encode()).hexdigest()[:8]
    names = {kind: f"{script.job_name}-{token}" for kind, script in _batch_scripts(request, run, folder).items()}
    submitted: list[str] = []
    for offset, tasks in sbatch.split_into_arrays(len(submission.shards), sbatch.max_array_size()):
        # With a limit on parallel tasks, each array waits for the one before it, so that the limit holds for all.
        options = sbatch.array_options(tasks, request.max_parallel)
        if request.max_parallel and submitted:
            options.append(_dependency(submitted[-1:]))
        job = SubmittedJob("", "array", offset, tasks, user, utc_now(), f"{names['array']}-{offset}")
        submitted.append(_submit_job(folder, job, options, [str(offset)]))
    # afterany: a task that failed must not keep the rows of the others out of the tables.
    job = SubmittedJob("", "merge", 0, 1, user, utc_now(), names["merge"])
    merge_id = _submit_job(folder, job, [_dependency(submitted)], [])
    messages.result(
        f"Submission {submission.name}: {len(submission.shards)} tasks in job {', '.join(submitted)}; "
        f"the tables in job {merge_id}. Progress: cmnet status --run {run.root}"
    )


def _submit_job(folder: SubmissionFolder, job: SubmittedJob, options: Sequence[str], arguments: Sequence[str]) -> str:
    """Submit a job, and return its id."""
    add_job(folder, job)
    job_id = sbatch.submit_script(folder.script(job.kind), [f"--job-name={job.name}", *options], arguments)
    add_job(folder, replace(job, job_id=job_id))
    return job_id


def _dependency(jobs: Sequence[str]) -> str:
    return f"--dependency=afterany:{':'.join(jobs)}"


def _print_dry_run(request: SubmissionRequest, run: RunFolder, plan: CasePlan, messages: Messages) -> None:
    """Print everything that would be written and submitted; SLURM need not be installed."""
    shards = split_into_shards(plan.to_run, request.chunk)
    folder = run.submission("NNNNN")
    for kind, script in _batch_scripts(request, run, folder).items():
        messages.result(f"--- {folder.script(kind)}")
        messages.result(script.text())
    limit = sbatch.max_array_size()
    messages.result(f"--- {len(shards)} shards of up to {request.chunk} subjects; arrays of up to {limit} tasks")
    for number, (offset, tasks) in enumerate(sbatch.split_into_arrays(len(shards), limit)):
        options = sbatch.array_options(tasks, request.max_parallel)
        if request.max_parallel and number:
            options.append(_dependency(["PREVIOUS"]))
        messages.result(" ".join(["sbatch --parsable", *options, str(folder.script("array")), str(offset)]))
    messages.result(f"sbatch --parsable {_dependency(['ALL'])} {folder.script('merge')}")
