"""How errors end a command: in a message with an exit code, or in a traceback."""

import sys
import traceback
from typing import Any

import typer

from cmnet_cli.exit_code import ExitCode
from cmnet_cli.help_page import Group
from cmnet_core.errors import CmnetError, EngineError


class CommandGroup(Group):
    """Commands whose deliberate errors end in a message and an exit code; other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: The command ended in a deliberate error or was interrupted.
        """
        # Typer has put its own hook in place before.
        sys.excepthook = report_defect
        share_safe = "--share-safe" in ctx.args
        try:
            return super().invoke(ctx)
        except CmnetError as error:
            _print_error(error, share_safe=share_safe)
            interrupted = isinstance(error, EngineError)
            raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.BAD_INPUT) from error
        except OSError as error:
            from cmnet_cli.engines.base import disk_error

            described = disk_error(error)
            if described is None:
                raise
            _print_error(described, share_safe=share_safe)
            interrupted = isinstance(described, EngineError)
            raise typer.Exit(ExitCode.INTERRUPTED if interrupted else ExitCode.BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo("Interrupted. Finished subjects are stored; the same command continues from here.", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error


def _print_error(error: CmnetError, *, share_safe: bool) -> None:
    from cmnet_cli.console import Messages
    from cmnet_cli.privacy.deidentify import open_deidentifier

    Messages(deidentifier=open_deidentifier(None, share_safe=share_safe)).error(error)


def interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C, so that tables are still written and the remaining subjects stay pending."""
    raise KeyboardInterrupt


def report_defect(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback of an unexpected error without ids of participants, and how to report it."""
    from cmnet_cli.privacy.deidentify import redact_defect

    sys.stderr.write(redact_defect("".join(traceback.format_exception(kind, error, trace))))
    sys.stderr.write(
        "This is a defect in cmnet. Please report it with the lines above and the output of: cmnet doctor\n"
    )
