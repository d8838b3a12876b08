"""The commands of the panel "Start": demo, phantom, manifest and validate."""

import typer

from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.command_line.root import START, exit_with, open_messages
from cmnet_cli.config import SimulatedMotion
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.help_page import Command
from cmnet_cli.option_groups import ImageOptions, PrivacyOptions, VerbosityOptions, expand_options
from cmnet_cli.options import (
    AsJson,
    DatasetFolder,
    Deep,
    DefectFraction,
    Demographics,
    Device,
    FollowLinks,
    Frames,
    ImagePattern,
    LabelMap,
    LayoutOption,
    ManifestFile,
    MaskPattern,
    MaskScheme,
    ModelName,
    MotionClass,
    NewFolder,
    NewManifest,
    Seed,
    SourceManifest,
    Subjects,
    Variants,
    Workers,
)
from cmnet_core.labels import LabelScheme

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command(cls=Command, rich_help_panel=START, short_help="Analyse phantoms from images to the report.")
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
    """Run a whole analysis of phantoms, from images to the report, and print the indices beside the ground truth.

    Examples:
        cmnet demo demo
        cmnet demo demo --subjects 1 --frames 10 --workers 0
    """
    from cmnet_cli.commands import demo as command

    manifest = command.simulate_phantoms(
        out / "phantoms", open_messages(verbosity), subjects=subjects, frames=frames, seed=seed
    )
    summary = command.demo(manifest, out / "run", open_messages(verbosity), model=model, device=device, workers=workers)
    raise typer.Exit(summary.exit_code)


@part.command(cls=Command, rich_help_panel=START, short_help="Simulate cines whose motion is known.")
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
    motion: MotionClass = SimulatedMotion.VELOCITY,
) -> None:
    """Simulate cines whose motion is known: of phantoms or, with --from, of the subjects of a labelled data set.

    Examples:
        cmnet phantom phantoms --subjects 20 --frames 25
        cmnet phantom simulated --from cohort.csv --variants 2
    """
    messages = open_messages(verbosity)
    if source is not None:
        from cmnet_cli.commands.simulate import simulate

        done = simulate(source, out, messages, frames=frames, variants=variants, seed=seed, motion=motion)
        exit_with(done, verbosity)
    from cmnet_cli.commands.demo import simulate_phantoms

    typer.echo(
        simulate_phantoms(out, messages, subjects=subjects, frames=frames, seed=seed, defect_fraction=defect_fraction)
    )


@part.command(cls=Command, rich_help_panel=START, short_help="List the subjects of a data set in a manifest.")
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
    """List the subjects of a data set on disk in a manifest, the table from which all other commands start.

    Examples:
        cmnet manifest /data/ukb --out cohort.csv
        cmnet manifest /data/acdc --layout acdc --out cohort.csv
        cmnet manifest scans --pattern '{subject_id}/sax.nii.gz' --out cohort.csv
    """
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


@part.command(cls=Command, rich_help_panel=START, short_help="Check a manifest and the files that it names.")
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
    """Check every row of a manifest and the header of every file that it names, and list all problems.

    Examples:
        cmnet validate --manifest cohort.csv
        cmnet validate --manifest cohort.csv --deep --workers 8 --json
    """
    from cmnet_cli.commands import validate as command

    cells = images.cells(label_map=label_map)
    usable = command.validate(
        manifest, open_messages(verbosity), deep=deep, workers=workers, as_json=as_json, cells=cells
    )
    raise typer.Exit(ExitCode.SUCCESS if usable else ExitCode.BAD_INPUT)
