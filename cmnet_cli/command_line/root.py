"""The root of the command line, and what its commands share: how they print, run a cohort and exit."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmnet_cli.exit_code import ExitCode
from cmnet_cli.exits import CommandGroup
from cmnet_cli.option_groups import PrivacyOptions, VerbosityOptions
from cmnet_core import __version__

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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmnet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del version


def open_messages(verbosity: VerbosityOptions, run: Path | None = None, *, share_safe: bool = False) -> "Messages":
    """Return where a command prints; with --share-safe, pseudonyms are those of ``run`` if it has a key."""
    from cmnet_cli.console import Messages
    from cmnet_cli.privacy.deidentify import open_deidentifier
    from cmnet_cli.runs.paths import RunFolder

    share_safe = share_safe or (isinstance(verbosity, PrivacyOptions) and verbosity.share_safe)
    key = RunFolder(run).share_key if run is not None and share_safe else None
    deidentifier = open_deidentifier(key if key and key.exists() else None, share_safe=share_safe)
    return Messages(verbosity.quiet, verbosity.verbose, deidentifier)


def execution_settings(*options: Any) -> "ExecutionSettings":
    """Combine the groups of options that choose the subjects, the engine and its limits."""
    from cmnet_cli.execution.plan import ExecutionSettings

    known = {field.name for field in dataclasses.fields(ExecutionSettings)}
    given: dict[str, Any] = {}
    for group in options:
        for name, value in dataclasses.asdict(group).items():
            if name in known and value is not None:
                given[name] = tuple(value) if isinstance(value, list) else value
    return ExecutionSettings(**given)


def absolute_text(path: Path | None) -> str | None:
    """Return an absolute path as configurations contain it."""
    return None if path is None else str(path.absolute())


def exit_with_all(summaries: Sequence["CommandSummary"], verbosity: VerbosityOptions, *, as_json: bool) -> None:
    """Print the summaries of several commands, and exit with the first code that is not that of success."""
    from cmnet_cli.execution.summary import print_summary, summary_as_json

    for summary in summaries:
        if as_json:
            typer.echo(summary_as_json(summary, open_messages(verbosity, Path(summary.run)).deidentifier))
        else:
            print_summary(summary, open_messages(verbosity))
    raise typer.Exit(next((summary.exit_code for summary in summaries if summary.exit_code), ExitCode.SUCCESS))


def exit_with(summary: "CommandSummary", verbosity: VerbosityOptions, *, as_json: bool = False) -> None:
    """Print the summary of a command over a cohort, and exit with its code."""
    exit_with_all([summary], verbosity, as_json=as_json)
