"""The commands that check a run or the installation: status, verify and doctor."""

from pathlib import Path

import typer

from cmnet_cli.command_line.root import CHECKS, open_messages
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.options import (
    DEFAULT_RUN,
    AsJson,
    DiskFolder,
    PrivacyOptions,
    Repair,
    RunPath,
    expand_options,
)

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command(rich_help_panel=CHECKS)
@expand_options
def status(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Show which subjects of a run are done, have failed and why, or are pending."""
    from cmnet_cli.commands import status as command

    command.show_status(run, open_messages(verbosity, run), as_json=as_json)


@part.command(rich_help_panel=CHECKS)
@expand_options
def verify(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, repair: Repair = False) -> None:
    """Recompute the checksums of all files of a run and list damaged or missing files; --repair makes them again."""
    from cmnet_cli.commands import verify as command

    verification = command.verify_run(run, open_messages(verbosity), repair=repair)
    raise typer.Exit(ExitCode.SOME_FAILED if verification.damaged else ExitCode.SUCCESS)


@part.command(rich_help_panel=CHECKS)
def doctor(folder: DiskFolder = Path(".")) -> None:
    """Print versions, devices, memory and disk space, for a bug report."""
    from cmnet_cli.commands import doctor as command
    from cmnet_cli.console import Messages

    command.doctor(folder, Messages())
