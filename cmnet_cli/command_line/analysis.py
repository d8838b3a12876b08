"""The commands that analyse a cohort: run and its stages, and the correction of masks."""

from pathlib import Path

import typer

from cmnet_cli.command_line.root import (
    MAIN,
    absolute_text,
    execution_settings,
    exit_with,
    exit_with_all,
    open_messages,
)
from cmnet_cli.help_page import Command
from cmnet_cli.option_groups import (
    EngineOptions,
    ExecutionOptions,
    ExportOptions,
    ImageOptions,
    PrivacyOptions,
    RecomputeOptions,
    SelectionOptions,
    VerbosityOptions,
    expand_options,
)
from cmnet_cli.options import (
    DEFAULT_RUN,
    AllFrames,
    Animation,
    AsJson,
    BidsDerivatives,
    CalibrationFile,
    ConfigFile,
    Device,
    DrawSeed,
    EditedMasks,
    Experimental,
    Figures,
    KeepMotion,
    ManifestFile,
    MasksToEdit,
    MethodName,
    ModelName,
    OutFolder,
    PagesOf,
    Pdf,
    ReferenceRanges,
    RunPath,
    Samples,
    ShareSafe,
    Terminal,
    Undo,
    VerdictsFile,
)

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command("run", cls=Command, rich_help_panel=MAIN, short_help="Run the whole analysis, from images to the report.")
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
    """Run the whole analysis: infer, indices, evaluate where there are reference masks, and report. Resumable.

    Examples:
        cmnet run --manifest cohort.csv --out run --workers 4
        cmnet run --manifest cohort.csv --out run --pilot 10
    """
    from cmnet_cli.commands import analysis as command
    from cmnet_cli.config import IndicesConfig, InferConfig, load_config

    analysis = command.Analysis(
        load_config(InferConfig, None, model=model, save_motion=save_motion),
        load_config(IndicesConfig, None, reference=absolute_text(reference), calibration=absolute_text(calibration)),
        device,
    )
    settings = execution_settings(selection, execution, engine)
    result = command.run(manifest, out, analysis, settings, open_messages(verbosity), cells=images.cells())
    if result.page and not as_json:
        typer.echo(f"Report: {result.page.resolve()}")
    exit_with_all(result.summaries, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Crop and resample the cines. Part of infer.")
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
    """Crop and resample every cine to the window around the heart that the networks take. Part of cmnet infer.

    Examples:
        cmnet preprocess --manifest cohort.csv --out run --workers 4
    """
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import PreprocessConfig, load_config

    settings = execution_settings(selection, execution, engine)
    loaded = load_config(PreprocessConfig, config)
    summary = command.preprocess(manifest, out, loaded, settings, open_messages(verbosity), cells=images.cells())
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Segment the cines and estimate their motion.")
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
    """Segment every cine and estimate its motion: label maps, displacement fields and their uncertainty.

    Examples:
        cmnet infer --manifest cohort.csv --out run --workers 4
        cmnet infer --manifest cohort.csv --out run --participant-label 9900001
    """
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import InferConfig, load_config

    infer_config = load_config(InferConfig, config, model=model, method=method, save_motion=save_motion)
    settings = execution_settings(selection, execution, engine)
    summary = command.infer(
        manifest, out, infer_config, settings, open_messages(verbosity), device=device, cells=images.cells()
    )
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Compute volumes, strain and further indices.")
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
    """Compute volumes, ejection fractions, strain and further indices from the results that cmnet infer stored.

    Examples:
        cmnet indices --run run --workers 4
        cmnet indices --run run --reference ranges.csv --verdicts verdicts.csv
    """
    from cmnet_cli.commands import process as command
    from cmnet_cli.config import IndicesConfig, load_config

    indices_config = load_config(
        IndicesConfig,
        config,
        reference=absolute_text(reference),
        calibration=absolute_text(calibration),
        samples=samples,
        seed=seed,
        experimental=experimental,
    )
    settings = execution_settings(selection, execution, engine)
    summary = command.indices(run, indices_config, settings, open_messages(verbosity), verdicts=verdicts)
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Write HTML pages of the cohort and its subjects.")
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
    """Write HTML pages, one of the cohort and one per subject, which open without an internet connection.

    Examples:
        cmnet report --run run
        cmnet report --run run --pages flagged --share-safe
        cmnet report --run run --terminal
    """
    from cmnet_cli.commands import report as command
    from cmnet_cli.report.export.formats import Formats
    from cmnet_cli.report.write import Request

    messages = open_messages(verbosity, run, share_safe=share_safe)
    if terminal:
        command.show_report(run, messages, share_safe=share_safe, verdicts=verdicts)
    else:
        contents = Request(tuple(pages or ()), share_safe, Formats(figures, animation, pdf), verdicts)
        typer.echo(messages.deidentifier.text(str(command.report(run, messages, contents))))


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Export masks, to be edited and given to correct.")
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

    Examples:
        cmnet export-masks --run run --participant-label 9900001 --out masks
    """
    from cmnet_cli.commands import correct as command

    settings = execution_settings(selection, execution, engine)
    summary = command.export_masks(run, out, settings, open_messages(verbosity, run), all_frames=all_frames)
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Take edited masks as given, or undo that.")
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

    Examples:
        cmnet correct --run run --masks masks
        cmnet correct --run run --undo 9900001
    """
    from cmnet_cli.commands import correct as command

    settings = execution_settings(selection, execution, engine)
    if undo:
        summary = command.undo(run, undo, settings, open_messages(verbosity, run))
    else:
        summary = command.correct(run, masks, settings, open_messages(verbosity, run), device=device)
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Export results as BIDS derivatives.")
@expand_options
def export_bids(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    out: BidsDerivatives = Path("derivatives"),
    as_json: AsJson = False,
) -> None:
    """Export label maps, displacement fields and indices as BIDS derivatives.

    Examples:
        cmnet export-bids --run run --out derivatives/cmnet
    """
    from cmnet_cli.commands import export_bids as command

    settings = execution_settings(selection, execution, engine)
    exit_with(command.export_bids(run, out, settings, open_messages(verbosity, run)), verbosity, as_json=as_json)
