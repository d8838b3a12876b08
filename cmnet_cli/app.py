"""The command line: parse, call, print, exit code. Nothing slow is imported before a command needs it."""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.malloc import reuse_freed_memory
from cmnet_cli.options import (
    DEFAULT_RUN,
    Animation,
    AsJson,
    CloseCycle,
    ConfigFile,
    Deep,
    DefectFraction,
    Device,
    DrawSeed,
    EngineOptions,
    ExecutionOptions,
    Figures,
    Frames,
    FreshMotion,
    IndicesConfigFile,
    InitWeights,
    KeepMotion,
    ManifestFile,
    ModelName,
    NewFolder,
    OutFolder,
    PagesOf,
    Pdf,
    PrivacyOptions,
    RecomputeOptions,
    ReferenceRanges,
    RefineSteps,
    Resume,
    RunPath,
    Samples,
    Seed,
    SelectionOptions,
    ShareSafe,
    SourceManifest,
    Subjects,
    SubmitOptions,
    TensorBoard,
    Terminal,
    TrainSettings,
    Variants,
    VerbosityOptions,
    Workers,
    expand_options,
)
from cmnet_cli.runs.paths import CohortStage
from cmnet_core import __version__
from cmnet_core.errors import CmnetError, EngineError
from cmnet_core.labels import LabelScheme
from cmnet_core.training.stages import TrainingStage

if TYPE_CHECKING:
    from cmnet_cli.console import Messages
    from cmnet_cli.execution.plan import ExecutionSettings
    from cmnet_cli.execution.summary import CommandSummary

HERE = Path(".")

# The panels of the help page, in the order of the work.
START = "Begin"
MAIN = "The main job"
CLUSTER = "On a cluster"
MODELS = "Models"
LOOK = "Look at a run, or at this machine"


class _ErrorsAreAnswers(TyperGroup):
    """Deliberate errors become a message and an exit code; all others are defects and keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CmnetError as error:
            from cmnet_cli.console import Messages

            Messages().error(error)
            raise typer.Exit(ExitCode.INTERRUPTED if isinstance(error, EngineError) else ExitCode.BAD_INPUT) from error
        except OSError as error:
            from cmnet_cli.console import Messages
            from cmnet_cli.engines.base import DISK_FULL_ERRNOS, disk_full_error

            if error.errno not in DISK_FULL_ERRNOS:
                raise
            Messages().error(disk_full_error(error))
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted. What is done stays; the same command goes on from here.", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error


app = typer.Typer(
    name="cmnet",
    cls=_ErrorsAreAnswers,
    help="Cardiac motion from short-axis cine MRI. For research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cmnet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", metavar=" ", callback=_version, is_eager=True, help="The version, and no more.")
    ] = False,
) -> None:
    del version


@app.command(rich_help_panel=START)
@expand_options
def demo(
    out: NewFolder,
    say: VerbosityOptions,
    subjects: Subjects = 4,
    frames: Frames = 20,
    seed: Seed = 1,
    model: ModelName = None,
    workers: Workers = 0,
    device: Device = "auto",
) -> None:
    """The whole main job on synthetic hearts, from images to the report; the truth is printed beside."""
    from cmnet_cli.commands import demo as command

    hearts = command.Hearts(subjects, frames, seed)
    summary = command.demo(out, hearts, _screen(say), model=model, device=device, workers=workers)
    raise typer.Exit(summary.exit_code)


@app.command(rich_help_panel=START)
@expand_options
def phantom(
    out: NewFolder,
    say: VerbosityOptions,
    subjects: Subjects = 4,
    frames: Frames = 20,
    seed: Seed = 1,
    defect_fraction: DefectFraction = 0.25,
    source: SourceManifest = None,
    variants: Variants = 1,
) -> None:
    """Synthetic cines whose motion is known exactly, or, with --from, real hearts on a path that is known."""
    if source is not None:
        from cmnet_cli.commands import simulate as made

        _finish(made.make_hearts(source, out, made.Making(frames, seed, variants), _screen(say)), say, as_json=False)
    from cmnet_cli.commands import demo as command

    hearts = command.Hearts(subjects, frames, seed, defect_fraction)
    typer.echo(command.write_hearts(out, hearts, _screen(say)))


@app.command(rich_help_panel=START)
def manifest(
    folder: Annotated[Path, typer.Argument(help="Where the data set lies.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The manifest to write: CSV, TSV or Parquet.")
    ],
    layout: Annotated[
        DatasetLayout, typer.Option(help="How it is laid out; auto goes by the names.")
    ] = DatasetLayout.AUTO,
    demographics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table with sex, age, height, weight; UK Biobank's fields are known."),
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="nifti: path of an image within the folder; * is any text without a slash.")
    ] = "{subject_id}.nii*",
    labels: Annotated[str | None, typer.Option(help="nifti: pattern of the 4-D reference masks.")] = None,
    label_scheme: Annotated[LabelScheme, typer.Option(help="nifti: who numbered the tissues.")] = LabelScheme.CMNET,
) -> None:
    """Write a manifest from a data set on disk."""
    from cmnet_cli.commands import manifest as command
    from cmnet_cli.console import Messages

    names = command.NiftiNames(pattern, labels, label_scheme)
    found = command.find_cases(folder, layout, names=names, demographics=demographics)
    command.save_manifest(out, found)
    command.tell_left_out(folder, Messages())
    typer.echo(f"{len(found)} subjects in {out}")


@app.command(rich_help_panel=START)
@expand_options
def validate(
    manifest: ManifestFile,
    say: PrivacyOptions,
    deep: Deep = False,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Check every row and every header of a manifest; all problems at once. Writes nothing."""
    from cmnet_cli.commands import validate as command

    usable = command.validate(manifest, _screen(say), deep=deep, workers=workers, as_json=as_json)
    raise typer.Exit(0 if usable else ExitCode.BAD_INPUT)


@app.command(rich_help_panel=MAIN)
@expand_options
def preprocess(
    manifest: ManifestFile,
    who: SelectionOptions,
    how: ExecutionOptions,
    where: EngineOptions,
    say: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Cut the window around the heart that the networks look at. Infer does it too."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import PreprocessConfig, load_config

    settings = load_config(PreprocessConfig, config)
    summary = command.preprocess(manifest, out, settings, _execution_settings(who, how, where), _screen(say))
    _finish(summary, say, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def infer(
    manifest: ManifestFile,
    who: SelectionOptions,
    how: ExecutionOptions,
    where: EngineOptions,
    say: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    save_motion: KeepMotion = None,
    refine: RefineSteps = None,
    close: CloseCycle = None,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Segment and track every cine: label maps, motion and uncertainty on the subject's own grid."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import InferConfig, load_config

    settings = load_config(InferConfig, config, model=model, save_motion=save_motion, refine=refine, close=close)
    execution = _execution_settings(who, how, where)
    _finish(command.infer(manifest, out, settings, execution, _screen(say), device=device), say, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def indices(
    who: SelectionOptions,
    how: RecomputeOptions,
    where: EngineOptions,
    say: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    samples: Samples = None,
    seed: DrawSeed = None,
    reference: ReferenceRanges = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Volumes, function and motion of every subject, from what infer stored: no network runs."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import IndicesConfig, load_config

    named = None if reference is None else str(reference)
    settings = load_config(IndicesConfig, config, reference=named, samples=samples, seed=seed)
    _finish(command.indices(run, settings, _execution_settings(who, how, where), _screen(say)), say, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def report(
    say: VerbosityOptions,
    run: RunPath = DEFAULT_RUN,
    pages: PagesOf = None,
    share_safe: ShareSafe = False,
    terminal: Terminal = False,
    figures: Figures = None,
    animation: Animation = None,
    pdf: Pdf = False,
) -> None:
    """One page for the cohort and one for each subject; they open without a network."""
    from cmnet_cli.commands import report as command
    from cmnet_cli.report.export.formats import Formats
    from cmnet_cli.report.write import Request

    if terminal:
        command.show_report(run, _screen(say), share_safe=share_safe)
    else:
        formats = Formats(figures, animation, pdf)
        typer.echo(command.report(run, _screen(say), Request(tuple(pages or ()), share_safe, formats)))


@app.command(rich_help_panel=MAIN)
@expand_options
def evaluate(
    who: SelectionOptions,
    how: RecomputeOptions,
    where: EngineOptions,
    say: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", "-m", metavar="FILE", help="Manifest with reference masks, if not the run's own."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare with reference masks at ED and ES: overlap, distances, folding, clinical indices."""
    from cmnet_cli.commands import evaluate as command
    from cmnet_cli.config import EvaluateConfig, load_config

    settings = load_config(EvaluateConfig, config)
    summary = command.evaluate(run, manifest, settings, _execution_settings(who, how, where), _screen(say))
    _finish(summary, say, as_json=as_json)


@app.command(
    rich_help_panel=CLUSTER,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
@expand_options
def submit(
    context: typer.Context,
    stage: Annotated[CohortStage, typer.Argument(help="preprocess, infer (with its indices) or indices.")],
    manifest: ManifestFile,
    who: SelectionOptions,
    how: SubmitOptions,
    say: VerbosityOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    save_motion: KeepMotion = None,
    refine: RefineSteps = None,
    close: CloseCycle = None,
    device: Device = "auto",
    samples: Samples = None,
    seed: DrawSeed = None,
    reference: ReferenceRanges = None,
    config: ConfigFile = None,
    indices_config: IndicesConfigFile = None,
) -> None:
    """Send a cohort to SLURM as array jobs with a merge after them; any other option goes to sbatch."""
    from cmnet_cli.commands import submit as command
    from cmnet_cli.slurm.sbatch import read_sbatch_options

    settings, of_indices = command.load_submission_settings(
        stage,
        config,
        indices_config,
        infer_options={"model": model, "save_motion": save_motion, "refine": refine, "close": close},
        indices_options={
            "reference": None if reference is None else str(reference),
            "samples": samples,
            "seed": seed,
        },
    )
    sbatch = read_sbatch_options(context.args)
    request = command.SubmissionRequest(
        manifest, out, settings, of_indices, device, how.chunk, how.max_parallel, sbatch
    )
    command.submit(request, _execution_settings(who, how), _screen(say))


@app.command(rich_help_panel=CLUSTER)
@expand_options
def merge(say: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Bring the rows that array tasks wrote into the tables that a local run writes."""
    from cmnet_cli.commands import merge as command

    _finish(command.merge(run, _screen(say)), say, as_json=as_json)


@app.command(hidden=True)
def task(run: RunPath, submission: Annotated[str, typer.Option()], shard: Annotated[int, typer.Option(min=0)]) -> None:
    """Work on one shard of a submission: what the batch script of cmnet submit calls."""
    from cmnet_cli.commands import task as command
    from cmnet_cli.console import Messages

    raise typer.Exit(command.run_task(run, submission, shard, Messages()))


@app.command(rich_help_panel=MAIN)
@expand_options
def compare(
    against: Annotated[Path, typer.Option(metavar="FILE", help="CSV, TSV or Parquet with one row a subject.")],
    say: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    on: Annotated[str, typer.Option(metavar="COLUMN", help="Its column that holds subject_id.")] = "subject_id",
    as_json: AsJson = False,
) -> None:
    """Hold the indices against an outside table, such as UK Biobank's derived fields: bias, limits, r, RMSE."""
    from cmnet_cli.commands import compare as command

    command.compare(run, against, _screen(say), on=on, as_json=as_json)


@app.command(rich_help_panel=MODELS)
@expand_options
def train(
    stage: Annotated[TrainingStage, typer.Option(help="segnet first, then motion.")],
    manifest: ManifestFile,
    say: VerbosityOptions,
    out: OutFolder = DEFAULT_RUN,
    init: InitWeights = None,
    fresh_motion: FreshMotion = False,
    resume: Resume = False,
    config: TrainSettings = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train SegNet on masks, then CardioMorphNet on the shapes that SegNet and masks give.

    Weights, a row of figures an epoch (logs/train-STAGE.parquet) and the state for --resume are kept in --out; the
    state is saved every few minutes. On several GPUs: torchrun --nproc-per-node N -m cmnet_cli train ...
    """
    from cmnet_cli.commands import train as command
    from cmnet_cli.config import find_config, load_config

    settings = load_config(command.TrainConfig, find_config(config))
    job = command.TrainJob(
        manifest, out, init, resume, _screen(say), device=device, fresh_motion=fresh_motion, tensorboard=tensorboard
    )
    raise typer.Exit(ExitCode.SOME_FAILED if command.train(stage, settings, job).left_out else 0)


@app.command(rich_help_panel=LOOK)
@expand_options
def status(say: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Who is done, who failed and why, who is left."""
    from cmnet_cli.commands import status as command

    command.show_status(run, _screen(say, run), as_json=as_json)


@app.command(rich_help_panel=LOOK)
@expand_options
def verify(say: PrivacyOptions, run: RunPath = DEFAULT_RUN) -> None:
    """Compute all checksums of a run again; name what is damaged or gone."""
    from cmnet_cli.commands import verify as command

    found = command.verify_run(run, _screen(say))
    raise typer.Exit(ExitCode.SOME_FAILED if found.damaged else 0)


@app.command(rich_help_panel=LOOK)
def doctor(
    folder: Annotated[Path, typer.Argument(help="A folder on the disk to look at.", exists=True)] = HERE,
) -> None:
    """Versions, devices, disk and threads: one page to paste in a bug report."""
    from cmnet_cli.commands import doctor as command
    from cmnet_cli.console import Messages

    command.doctor(folder, Messages())


models = typer.Typer(help="The weights that come with cmnet, and any others.", no_args_is_help=True)
app.add_typer(models, name="models", rich_help_panel=MODELS)


@models.command("list")
def models_list() -> None:
    """Every model that comes with cmnet."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.list_models(Messages())


@models.command("info")
def models_info(
    name: Annotated[str, typer.Argument(help="A shipped model's name, or a .safetensors file.")],
    as_json: AsJson = False,
) -> None:
    """What a model was trained on, how, and what it may be used for."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.show_model(name, Messages(), as_json=as_json)


@models.command("verify")
def models_verify() -> None:
    """Load every shipped model as infer would."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.verify_models(Messages())


def _screen(say: VerbosityOptions, run: Path | None = None) -> "Messages":
    """Where a command prints; what may leave the room has the pseudonyms of the run, if there is one yet."""
    from cmnet_cli.console import Messages
    from cmnet_cli.privacy.deidentify import open_deidentifier
    from cmnet_cli.runs.paths import RunFolder

    share_safe = isinstance(say, PrivacyOptions) and say.share_safe
    key = RunFolder(run).share_key if run is not None and share_safe else None
    return Messages(
        say.quiet, say.verbose, open_deidentifier(key if key and key.exists() else None, share_safe=share_safe)
    )


def _execution_settings(*options: Any) -> "ExecutionSettings":
    """Combine the groups of options that choose the subjects, the engine and its limits."""
    from cmnet_cli.execution.plan import ExecutionSettings

    known = {field.name for field in dataclasses.fields(ExecutionSettings)}
    given: dict[str, Any] = {}
    for group in options:
        for name, value in dataclasses.asdict(group).items():
            if name in known and value is not None:
                given[name] = tuple(value) if isinstance(value, list) else value
    return ExecutionSettings(**given)


def _finish(summary: "CommandSummary", say: VerbosityOptions, *, as_json: bool) -> None:
    """Say how a command over a cohort went, and leave with its exit code."""
    from cmnet_cli.execution.summary import print_summary, summary_as_json

    if as_json:
        typer.echo(summary_as_json(summary, _screen(say, Path(summary.run)).deidentifier))
    else:
        print_summary(summary, _screen(say))
    raise typer.Exit(summary.exit_code)


def main() -> None:
    """Run the command that the arguments name."""
    # Threads that wait by spinning take the cores from all who share the machine. Torch reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    reuse_freed_memory()
    sys.excepthook = _report_defect
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(*_: object) -> None:
    """Let whoever asks the process to end be heard like Ctrl-C: tables are written, the rest stays pending."""
    raise KeyboardInterrupt


def _report_defect(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say whom to tell after the traceback of an unexpected error."""
    import traceback

    from cmnet_cli.privacy.deidentify import redact_ids

    sys.stderr.write(redact_ids("".join(traceback.format_exception(kind, error, trace))))
    sys.stderr.write("This is a defect in cmnet. Please report it with the lines above and those of: cmnet doctor\n")
