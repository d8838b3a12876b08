"""The commands of array jobs on SLURM: submit, merge and the task of a job."""

from typing import Annotated

import typer

from cmnet_cli.command_line.root import CLUSTER, absolute_text, execution_settings, exit_with, open_messages
from cmnet_cli.help_page import Command
from cmnet_cli.option_groups import PrivacyOptions, SelectionOptions, SubmitOptions, VerbosityOptions, expand_options
from cmnet_cli.options import (
    DEFAULT_RUN,
    AsJson,
    CalibrationFile,
    ConfigFile,
    Device,
    DrawSeed,
    Experimental,
    IndicesConfigFile,
    KeepMotion,
    ManifestFile,
    MethodName,
    ModelName,
    OutFolder,
    ReferenceRanges,
    RunPath,
    Samples,
    ShardNumber,
    SubmissionName,
)
from cmnet_cli.runs.paths import CohortStage

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command(
    cls=Command,
    rich_help_panel=CLUSTER,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Submit a cohort to SLURM as an array job.",
)
@expand_options
def submit(
    context: typer.Context,
    stage: Annotated[
        CohortStage,
        typer.Argument(metavar="STAGE", help="Stage to run: preprocess, infer (followed by indices) or indices."),
    ],
    manifest: ManifestFile,
    selection: SelectionOptions,
    execution: SubmitOptions,
    verbosity: VerbosityOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    method: MethodName = None,
    save_motion: KeepMotion = None,
    device: Device = "auto",
    samples: Samples = None,
    seed: DrawSeed = None,
    reference: ReferenceRanges = None,
    calibration: CalibrationFile = None,
    experimental: Experimental = None,
    config: ConfigFile = None,
    indices_config: IndicesConfigFile = None,
) -> None:
    """Submit a cohort to SLURM as an array job and a job that merges its results. Other options go to sbatch.

    Examples:
        cmnet submit infer --manifest cohort.csv --out run --dry-run
        cmnet submit infer -m cohort.csv -o run --chunk 100 --time=02:00:00
    """
    from cmnet_cli.commands.array_jobs import submit as command
    from cmnet_cli.slurm.sbatch import read_sbatch_options

    stage_config, indices_of_tasks = command.load_submission_settings(
        stage,
        config,
        indices_config,
        infer_options={"model": model, "method": method, "save_motion": save_motion},
        indices_options={
            "reference": absolute_text(reference),
            "calibration": absolute_text(calibration),
            "samples": samples,
            "seed": seed,
            "experimental": experimental,
        },
    )
    sbatch = read_sbatch_options(context.args)
    request = command.SubmissionRequest(
        manifest, out, stage_config, indices_of_tasks, device, execution.chunk, execution.max_parallel, sbatch
    )
    command.submit(request, execution_settings(selection, execution), open_messages(verbosity))


@part.command(cls=Command, rich_help_panel=CLUSTER, short_help="Merge the results of array tasks into the tables.")
@expand_options
def merge(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Merge the results of array tasks into the tables of the run. The jobs of cmnet submit end with it.

    Examples:
        cmnet merge --run run
    """
    from cmnet_cli.commands.array_jobs import merge as command

    exit_with(command.merge(run, open_messages(verbosity)), verbosity, as_json=as_json)


@part.command(cls=Command, hidden=True, short_help="Process one shard of a submission.")
def task(run: RunPath, submission: SubmissionName, shard: ShardNumber) -> None:
    """Process one shard of a submission. The batch script of cmnet submit calls this command.

    Examples:
        cmnet task --run run --submission 00001 --shard 0
    """
    from cmnet_cli.commands.array_jobs import task as command
    from cmnet_cli.console import Messages

    raise typer.Exit(command.run_task(run, submission, shard, Messages()))
