"""Exit codes of the command line, and what each kind of error becomes: a message with a code, or a traceback."""

import sys
import traceback
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from cmnet_core.errors import CmnetError, EngineError


class ExitCode(IntEnum):
    """The exit codes besides 1, a defect in cmnet, and 2, wrong usage."""

    DONE = 0
    BAD_INPUT = 3
    SOME_FAILED = 4
    INTERRUPTED = 130


class CommandGroup(TyperGroup):
    """Commands whose deliberate errors end in a message and an exit code; other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: The command ended in a deliberate error or was interrupted.
        """
        try:
            return super().invoke(ctx)
        except CmnetError as error:
            _print_error(error)
            interrupted = isinstance(error, EngineError)
            raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.BAD_INPUT) from error
        except OSError as error:
            from cmnet_cli.engines.base import FULL, disk_is_full

            if error.errno not in FULL:
                raise
            _print_error(disk_is_full(error))
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted. Finished subjects are stored; the same command continues from here.", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error


def _print_error(error: CmnetError) -> None:
    from cmnet_cli.console import Messages

    Messages().error(error)


def interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C, so that tables are still written and the remaining subjects stay pending."""
    raise KeyboardInterrupt


def report_defect(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback of an unexpected error without ids of participants, and how to report it."""
    from cmnet_cli.privacy.deidentify import redact_ids

    sys.stderr.write(redact_ids("".join(traceback.format_exception(kind, error, trace))))
    sys.stderr.write(
        "This is a defect in cmnet. Please report it with the lines above and the output of: cmnet doctor\n"
    )
