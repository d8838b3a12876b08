"""The entry point of cmnet: the command line with all of its commands.

Each command reads its options, calls the function of its module in ``commands`` and exits. Modules that are slow to
import are imported by the command that needs them, so that ``cmnet --help`` answers at once.
"""

import os
import signal

from cmnet_cli.command_line import agreement, analysis, checks, cluster, start, training
from cmnet_cli.command_line.root import app
from cmnet_cli.exits import interrupt
from cmnet_cli.malloc import reuse_freed_memory

__all__ = ["app", "main"]

for part in (start, analysis, agreement, cluster, training, checks):
    # In the order of the help page.
    app.add_typer(part.part)


def main() -> None:
    """Run the command that the arguments name."""
    # Threads that wait by spinning take cores from other processes. Torch reads the variable when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    reuse_freed_memory()
    signal.signal(signal.SIGTERM, interrupt)
    app()
