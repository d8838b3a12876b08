"""The command line: parse, call, print, exit code. Nothing slow is imported before a command needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cmnet_core import __version__
from cmnet_core.errors import CmnetError

BAD_INPUT = 3
INTERRUPTED = 130


class _ErrorsAreAnswers(TyperGroup):
    """Deliberate errors become a message and an exit code; all others are defects and keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CmnetError as error:
            from cmnet_cli.screen import Screen

            Screen().error(error)
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted. What is done stays; the same command goes on from here.", err=True)
            raise typer.Exit(INTERRUPTED) from error


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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version, and no more.")
    ] = False,
) -> None:
    del version


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="A folder on the disk to look at.", exists=True)] = Path("."),
) -> None:
    """Versions, devices, disk and threads: one page to paste in a bug report."""
    from cmnet_cli.commands import doctor as command
    from cmnet_cli.screen import Screen

    command.doctor(folder, Screen())


def main() -> None:
    """Run the command that the arguments name."""
    sys.excepthook = _report_defect
    app()


def _report_defect(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say whom to tell after the traceback of an unexpected error."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.write("This is a defect in cmnet. Please report it with the lines above and those of: cmnet doctor\n")
