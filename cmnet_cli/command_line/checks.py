"""The commands that check a run or the installation: status, verify and doctor."""

from pathlib import Path

import typer

from cmnet_cli.command_line.root import CHECKS, open_messages
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.help_page import Command
from cmnet_cli.option_groups import PrivacyOptions, expand_options
from cmnet_cli.options import DEFAULT_RUN, AsJson, DiskFolder, Repair, RunPath

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command(cls=Command, rich_help_panel=CHECKS, short_help="Show which subjects are done, failed or pending.")
@expand_options
def status(verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, as_json: AsJson = False) -> None:
    """Show which subjects of a run are done, have failed and why, or are pending.

    Examples:
        cmnet status --run run
        cmnet status --run run --json
    """
    from cmnet_cli.commands import status as command

    command.show_status(run, open_messages(verbosity, run), as_json=as_json)


@part.command(cls=Command, rich_help_panel=CHECKS, short_help="Find damaged files of a run, and make them again.")
@expand_options
def verify(
    verbosity: PrivacyOptions, run: RunPath = DEFAULT_RUN, repair: Repair = False, as_json: AsJson = False
) -> None:
    """Recompute the checksums of all files of a run and list damaged or missing files; --repair makes them again.

    Examples:
        cmnet verify --run run
        cmnet verify --run run --repair
    """
    from cmnet_cli.commands import verify as command

    verification = command.verify_run(run, open_messages(verbosity, run), repair=repair, as_json=as_json)
    raise typer.Exit(ExitCode.SOME_FAILED if verification.damaged else ExitCode.SUCCESS)


@part.command(cls=Command, rich_help_panel=CHECKS, short_help="Check this machine and this installation.")
def doctor(folder: DiskFolder = Path("."), as_json: AsJson = False) -> None:
    """Print versions, devices, memory and disk space, for a bug report, and what is likely to cause trouble.

    Examples:
        cmnet doctor
        cmnet doctor /scratch/run
    """
    from cmnet_cli.commands import doctor as command
    from cmnet_cli.console import Messages

    command.doctor(folder, Messages(), as_json=as_json)
