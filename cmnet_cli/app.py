"""The commands of cmnet: each reads its options, calls the function of its module in ``commands`` and exits.

Modules that are slow to import are imported by the command that needs them, so that ``cmnet --help`` answers at once.
"""

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.exits import CommandGroup, interrupt
from cmnet_cli.malloc import reuse_freed_memory
from cmnet_cli.options import (
    DEFAULT_RUN,
    AllFrames,
    Animation,
    AsJson,
    BenchmarkOptions,
    CalibrationFile,
    ConfigFile,
    DatasetFolder,
    Deep,
    DefectFraction,
    Demographics,
    Device,
    DiskFolder,
    DrawSeed,
    EditedMasks,
    EngineOptions,
    ExecutionOptions,
    Experimental,
    ExportOptions,
    Figures,
    FollowLinks,
    Frames,
    FreshMotion,
    ImageOptions,
    ImagePattern,
    IndicesConfigFile,
    InitWeights,
    KeepMotion,
    KnownModel,
    LabelMap,
    LayoutOption,
    ManifestFile,
    MaskPattern,
    MaskScheme,
    MasksToEdit,
    MethodName,
    ModelName,
    NewCalibration,
    NewFolder,
    NewManifest,
    OutFolder,
    OutsideTable,
    PagesOf,
    Pdf,
    Population,
    PrivacyOptions,
    RecomputeOptions,
    ReferenceManifest,
    ReferenceRanges,
    Repair,
    Resume,
    RunPath,
    Samples,
    Seed,
    SelectionOptions,
    ShardNumber,
    ShareSafe,
    SourceManifest,
    StageOption,
    SubjectColumn,
    Subjects,
    SubmissionName,
    SubmitOptions,
    TeacherWeights,
    TensorBoard,
    Terminal,
    TrainedMethod,
    TrainSettings,
    Undo,
    Variants,
    VerbosityOptions,
    VerdictsFile,
    Workers,
    expand_options,
)
from cmnet_cli.runs.paths import CohortStage
from cmnet_core import __version__
from cmnet_core.labels import LabelScheme

if TYPE_CHECKING:
    from cmnet_cli.console import Messages
    from cmnet_cli.execution.plan import ExecutionSettings
    from cmnet_cli.execution.summary import CommandSummary

# The panels of the help page, in the order of the work.
START = "Start"
MAIN = "Analysis"
CLUSTER = "On a SLURM cluster"
MODELS = "Models and training"
CHECKS = "Checks of a run and of the installation"

app = typer.Typer(
    name="cmnet",
    cls=CommandGroup,
    help="Cardiac motion, strain and function from short-axis cine MRI. For research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(help="List, describe and verify trained models.", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmnet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=" ", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    del version


@app.command(rich_help_panel=START)
@expand_options
def demo(
    out: NewFolder,
    verbosity: VerbosityOptions,
    subjects: Subjects = 4,
    frames: Frames = 20,
    seed: Seed = 1,
    model: ModelName = None,
    workers: Workers = 2,
    device: Device = "auto",
) -> None:
    """Run a whole analysis of phantoms, from images to the report, and print the indices beside the ground truth."""
    from cmnet_cli.commands import demo as command

    manifest = command.simulate_phantoms(
        out / "phantoms", _messages(verbosity), subjects=subjects, frames=frames, seed=seed
    )
    summary = command.demo(manifest, out / "run", _messages(verbosity), model=model, device=device, workers=workers)
    raise typer.Exit(summary.exit_code)


@app.command(rich_help_panel=START)
@expand_options
def phantom(
    out: NewFolder,
    verbosity: VerbosityOptions,
    subjects: Subjects = 4,
    frames: Frames = 20,
    seed: Seed = 1,
    defect_fraction: DefectFraction = 0.25,
    source: SourceManifest = None,
    variants: Variants = 1,
) -> None:
    """Simulate cines whose motion is known: of phantoms or, with --from, of the subjects of a labelled data set."""
    messages = _messages(verbosity)
    if source is not None:
        from cmnet_cli.commands.simulate import simulate

        _exit_with(simulate(source, out, messages, frames=frames, variants=variants, seed=seed), verbosity)
    from cmnet_cli.commands.demo import simulate_phantoms

    typer.echo(
        simulate_phantoms(out, messages, subjects=subjects, frames=frames, seed=seed, defect_fraction=defect_fraction)
    )


@app.command(rich_help_panel=START)
def manifest(
    folder: DatasetFolder,
    out: NewManifest,
    layout: LayoutOption = DatasetLayout.AUTO,
    demographics: Demographics = None,
    pattern: ImagePattern = "{subject_id}.nii*",
    labels: MaskPattern = None,
    label_scheme: MaskScheme = LabelScheme.CMNET,
    label_map: LabelMap = None,
    follow_links: FollowLinks = False,
) -> None:
    """List the subjects of a data set on disk in a manifest, the table from which all other commands start."""
    from cmnet_cli.commands import manifest as command
    from cmnet_cli.console import Messages

    complete = command.manifest(
        folder,
        out,
        Messages(),
        layout=layout,
        names=command.NiftiNames(pattern, labels, label_scheme),
        demographics=demographics,
        images=ImageOptions(follow_links=follow_links).cells(label_map=label_map),
    )
    raise typer.Exit(ExitCode.SUCCESS if complete else ExitCode.SOME_FAILED)


@app.command(rich_help_panel=START)
@expand_options
def validate(
    manifest: ManifestFile,
    images: ImageOptions,
    verbosity: PrivacyOptions,
    deep: Deep = False,
    label_map: LabelMap = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Check every row of a manifest and the header of every file that it names, and list all problems."""
    from cmnet_cli.commands import validate as command

    cells = images.cells(label_map=label_map)
    usable = command.validate(manifest, _messages(verbosity), deep=deep, workers=workers, as_json=as_json, cells=cells)
    raise typer.Exit(ExitCode.SUCCESS if usable else ExitCode.BAD_INPUT)


@app.command("run", rich_help_panel=MAIN)
@expand_options
def run_all(
    manifest: ManifestFile,
    images: ImageOptions,
    selection: SelectionOptions,
    execution: ExecutionOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    save_motion: KeepMotion = None,
    device: Device = "auto",
    reference: ReferenceRanges = None,
    calibration: CalibrationFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole analysis: infer, indices, evaluate where there are reference masks, and report. Resumable."""
    from cmnet_cli.commands import analysis as command
    from cmnet_cli.config import IndicesConfig, InferConfig, load_config

    analysis = command.Analysis(
        load_config(InferConfig, None, model=model, save_motion=save_motion),
        load_config(IndicesConfig, None, reference=_text(reference), calibration=_text(calibration)),
        device,
    )
    settings = _execution_settings(selection, execution, engine)
    result = command.run(manifest, out, analysis, settings, _messages(verbosity), cells=images.cells())
    if result.page and not as_json:
        typer.echo(f"Report: {result.page.resolve()}")
    _exit_with_all(result.summaries, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def preprocess(
    manifest: ManifestFile,
    images: ImageOptions,
    selection: SelectionOptions,
    execution: ExecutionOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Crop and resample every cine to the window around the heart that the networks take. Part of cmnet infer."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import PreprocessConfig, load_config

    settings = _execution_settings(selection, execution, engine)
    loaded = load_config(PreprocessConfig, config)
    summary = command.preprocess(manifest, out, loaded, settings, _messages(verbosity), cells=images.cells())
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def infer(
    manifest: ManifestFile,
    images: ImageOptions,
    selection: SelectionOptions,
    execution: ExecutionOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    method: MethodName = None,
    save_motion: KeepMotion = None,
    device: Device = "auto",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Segment every cine and estimate its motion: label maps, displacement fields and their uncertainty."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import InferConfig, load_config

    infer_config = load_config(InferConfig, config, model=model, method=method, save_motion=save_motion)
    settings = _execution_settings(selection, execution, engine)
    summary = command.infer(
        manifest, out, infer_config, settings, _messages(verbosity), device=device, cells=images.cells()
    )
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def indices(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    samples: Samples = None,
    seed: DrawSeed = None,
    reference: ReferenceRanges = None,
    calibration: CalibrationFile = None,
    experimental: Experimental = None,
    verdicts: VerdictsFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compute volumes, ejection fractions, strain and further indices from the results that cmnet infer stored."""
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import IndicesConfig, load_config

    indices_config = load_config(
        IndicesConfig,
        config,
        reference=_text(reference),
        calibration=_text(calibration),
        samples=samples,
        seed=seed,
        experimental=experimental,
    )
    settings = _execution_settings(selection, execution, engine)
    summary = command.indices(run, indices_config, settings, _messages(verbosity), verdicts=verdicts)
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def report(
    verbosity: VerbosityOptions,
    run: RunPath = DEFAULT_RUN,
    pages: PagesOf = None,
    share_safe: ShareSafe = False,
    verdicts: VerdictsFile = None,
    terminal: Terminal = False,
    figures: Figures = None,
    animation: Animation = None,
    pdf: Pdf = False,
) -> None:
    """Write HTML pages, one of the cohort and one per subject, which open without an internet connection."""
    from cmnet_cli.commands import report as command
    from cmnet_cli.report.export.formats import Formats
    from cmnet_cli.report.write import Request

    messages = _messages(verbosity, run, share_safe=share_safe)
    if terminal:
        command.show_report(run, messages, share_safe=share_safe, verdicts=verdicts)
    else:
        contents = Request(tuple(pages or ()), share_safe, Formats(figures, animation, pdf), verdicts)
        typer.echo(messages.deidentifier.text(str(command.report(run, messages, contents))))


@app.command(rich_help_panel=MAIN)
@expand_options
def evaluate(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    manifest: ReferenceManifest = None,
    label_map: LabelMap = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare results with reference masks at ED and ES: Dice, surface distances, folding and clinical indices."""
    from cmnet_cli.commands.accuracy import evaluate as command
    from cmnet_cli.config import EvaluateConfig, load_config

    settings = _execution_settings(selection, execution, engine)
    loaded = load_config(EvaluateConfig, config)
    summary = command.evaluate(run, manifest, loaded, settings, _messages(verbosity), label_map=label_map)
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MODELS)
@expand_options
def benchmark(
    manifest: ManifestFile,
    compared: BenchmarkOptions,
    selection: SelectionOptions,
    execution: ExecutionOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare methods of motion estimation on a cohort with reference masks at ED and ES, by one protocol."""
    from cmnet_cli.commands.accuracy import benchmark as command

    names = (compared.listed(compared.methods), compared.listed(compared.exclude))
    request = command.BenchmarkRequest(*names, model or "default", compared.protocol, device)
    settings = _execution_settings(selection, execution, engine)
    _exit_with(command.benchmark(manifest, out, request, settings, _messages(verbosity)), verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def export_masks(
    selection: SelectionOptions,
    execution: ExportOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    out: MasksToEdit = Path("masks"),
    all_frames: AllFrames = False,
    as_json: AsJson = False,
) -> None:
    """Export masks and images of single frames, to be edited in ITK-SNAP or 3D Slicer and given to cmnet correct.

    Example: cmnet export-masks --participant-label 9900001 --out masks
    """
    from cmnet_cli.commands import correct as command

    settings = _execution_settings(selection, execution, engine)
    summary = command.export_masks(run, out, settings, _messages(verbosity, run), all_frames=all_frames)
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def correct(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    masks: EditedMasks = None,
    undo: Undo = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Take edited masks as given: motion, indices and page of their subjects are computed again, and marked.

    Examples: cmnet correct --masks masks; cmnet correct --undo 9900001
    """
    from cmnet_cli.commands import correct as command

    settings = _execution_settings(selection, execution, engine)
    if undo:
        summary = command.undo(run, undo, settings, _messages(verbosity, run))
    else:
        summary = command.correct(run, masks, settings, _messages(verbosity, run), device=device)
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def calibrate(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    manifest: ReferenceManifest = None,
    out: NewCalibration = Path("calibration.json"),
    population: Population = None,
    samples: Samples = None,
    seed: DrawSeed = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate the 95 % intervals on subjects with reference masks, for cmnet indices --calibration."""
    from cmnet_cli.commands import calibrate as command
    from cmnet_cli.config import IndicesConfig, load_config
    from cmnet_cli.stages.intervals import SamplingSettings

    config = load_config(IndicesConfig, None, samples=samples, seed=seed)
    draws = SamplingSettings(config.samples, config.seed)
    settings = _execution_settings(selection, execution, engine)
    summary = command.calibrate(run, manifest, out, draws, settings, _messages(verbosity), population=population)
    _exit_with(summary, verbosity, as_json=as_json)


@app.command(rich_help_panel=MAIN)
@expand_options
def compare(
    against: OutsideTable,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    on: SubjectColumn = "subject_id",
    verdicts: VerdictsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the indices with another table, such as UK Biobank's fields: bias, limits of agreement, ICC, CCC."""
    from cmnet_cli.commands import compare as command

    command.compare(run, against, _messages(verbosity), on=on, as_json=as_json, verdicts=verdicts)


@app.command(
    rich_help_panel=CLUSTER,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
@expand_options
def submit(
    context: typer.Context,
    stage: Annotated[
        CohortStage, typer.Argument(help="Stage to run: preprocess, infer (followed by indices) or indices.")
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
    """Submit a cohort to SLURM as an array job and a job that merges its results. Other options go to sbatch."""
    from cmnet_cli.commands.array_jobs import submit as command
    from cmnet_cli.slurm.sbatch import read_sbatch_options

    stage_config, indices_of_tasks = command.load_submission_settings(
        stage,
        config,
        indices_config,
        infer_options={"model": model, "method": method, "save_motion": save_motion},
        indices_options={
            "reference": None if reference is None else str(reference),
            "calibration": None if calibration is None else str(calibration.absolute()),
            "samples": samples,
            "seed": seed,
            "experimental": experimental,
        },
    )
    sbatch = read_sbatch_options(context.args)
    request = command.SubmissionRequest(
        manifest, out, stage_config, indices_of_tasks, device, execution.chunk, execution.max_parallel, sbatch
    )
    command.submit(request, _execution_settings(selection, execution), _messages(verbosity))


@app.command(rich_help_panel=CLUSTER)
@expand_options
def merge(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Merge the results of array tasks into the tables of the run. The jobs of cmnet submit end with it."""
    from cmnet_cli.commands.array_jobs import merge as command

    _exit_with(command.merge(run, _messages(verbosity)), verbosity, as_json=as_json)


@app.command(hidden=True)
def task(run: RunPath, submission: SubmissionName, shard: ShardNumber) -> None:
    """Process one shard of a submission. The batch script of cmnet submit calls this command."""
    from cmnet_cli.commands.array_jobs import task as command
    from cmnet_cli.console import Messages

    raise typer.Exit(command.run_task(run, submission, shard, Messages()))


@app.command(rich_help_panel=MODELS)
@expand_options
def train(
    manifest: ManifestFile,
    verbosity: VerbosityOptions,
    stage: StageOption = None,
    method: TrainedMethod = None,
    out: OutFolder = DEFAULT_RUN,
    init: InitWeights = None,
    teacher: TeacherWeights = None,
    fresh_motion: FreshMotion = False,
    resume: Resume = False,
    config: TrainSettings = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train SegNet on reference masks, then a motion network on masks and on motion that is known.

    --method trains a method that cmnet is compared with instead of a stage of cmnet's own.
    The folder --out receives the weights, the metrics of every epoch (logs/train-STAGE.parquet) and, every few
    minutes, the state from which --resume continues. On several GPUs, run:
    torchrun --nproc-per-node N -m cmnet_cli train ...
    """
    from cmnet_cli.commands.training import train as command
    from cmnet_cli.commands.training import train_baseline
    from cmnet_cli.config import find_config, load_config

    settings = load_config(command.TrainConfig, find_config(config))
    training = command.TrainingRun(
        manifest,
        out,
        init,
        resume,
        _messages(verbosity),
        device=device,
        fresh_motion=fresh_motion,
        teacher=tuple(teacher or ()),
        tensorboard=tensorboard,
    )
    left_out = train_baseline.train_stage_or_method(stage, method, settings, training)
    raise typer.Exit(ExitCode.SOME_FAILED if left_out else ExitCode.SUCCESS)


@app.command(rich_help_panel=CHECKS)
@expand_options
def status(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Show which subjects of a run are done, have failed and why, or are pending."""
    from cmnet_cli.commands import status as command

    command.show_status(run, _messages(verbosity, run), as_json=as_json)


@app.command(rich_help_panel=CHECKS)
@expand_options
def verify(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, repair: Repair = False) -> None:
    """Recompute the checksums of all files of a run and list damaged or missing files; --repair makes them again."""
    from cmnet_cli.commands import verify as command

    verification = command.verify_run(run, _messages(verbosity), repair=repair)
    raise typer.Exit(ExitCode.SOME_FAILED if verification.damaged else ExitCode.SUCCESS)


@app.command(rich_help_panel=CHECKS)
def doctor(folder: DiskFolder = Path(".")) -> None:
    """Print versions, devices, memory and disk space, for a bug report."""
    from cmnet_cli.commands import doctor as command
    from cmnet_cli.console import Messages

    command.doctor(folder, Messages())


app.add_typer(models, name="models", rich_help_panel=MODELS)


@models.command("list")
def models_list() -> None:
    """List the models that are part of cmnet."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.list_models(Messages())


@models.command("info")
def models_info(name: KnownModel, as_json: AsJson = False) -> None:
    """Show what a model was trained on, with which settings, its metrics and its terms of use."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.show_model(name, Messages(), as_json=as_json)


@models.command("verify")
def models_verify() -> None:
    """Load every shipped model and print its checksum."""
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.verify_models(Messages())


def _messages(verbosity: VerbosityOptions, run: Path | None = None, *, share_safe: bool = False) -> "Messages":
    """Return where a command prints; with --share-safe, pseudonyms are those of ``run`` if it has a key."""
    from cmnet_cli.console import Messages
    from cmnet_cli.privacy.deidentify import open_deidentifier
    from cmnet_cli.runs.paths import RunFolder

    share_safe = share_safe or (isinstance(verbosity, PrivacyOptions) and verbosity.share_safe)
    key = RunFolder(run).share_key if run is not None and share_safe else None
    deidentifier = open_deidentifier(key if key and key.exists() else None, share_safe=share_safe)
    return Messages(verbosity.quiet, verbosity.verbose, deidentifier)


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


def _text(path: Path | None) -> str | None:
    """Return an absolute path as configurations contain it."""
    return None if path is None else str(path.absolute())


def _exit_with_all(summaries: Sequence["CommandSummary"], verbosity: VerbosityOptions, *, as_json: bool) -> None:
    """Print the summaries of several commands, and exit with the first code that is not that of success."""
    from cmnet_cli.execution.summary import print_summary, summary_as_json

    for summary in summaries:
        if as_json:
            typer.echo(summary_as_json(summary, _messages(verbosity, Path(summary.run)).deidentifier))
        else:
            print_summary(summary, _messages(verbosity))
    raise typer.Exit(next((summary.exit_code for summary in summaries if summary.exit_code), ExitCode.SUCCESS))


def _exit_with(summary: "CommandSummary", verbosity: VerbosityOptions, *, as_json: bool = False) -> None:
    """Print the summary of a command over a cohort, and exit with its code."""
    _exit_with_all([summary], verbosity, as_json=as_json)


def main() -> None:
    """Run the command that the arguments name."""
    # Threads that wait by spinning take cores from other processes. Torch reads the variable when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    reuse_freed_memory()
    signal.signal(signal.SIGTERM, interrupt)
    app()
