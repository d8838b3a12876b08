"""The command report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cmnet_cli.console import Messages, progress
from cmnet_cli.report.export.terminal import show_population
from cmnet_cli.report.write import Request, write_report

Item = TypeVar("Item")

_EVERYTHING = Request()


def report(run: Path, messages: Messages, request: Request = _EVERYTHING) -> Path:
    """Write the pages of a run.

    Args:
        run: The run folder.
        messages: Where to print.
        request: What the report is to hold.

    Returns:
        The cohort page.

    Raises:
        ManifestError: This is no run folder, nothing has run in it, or something is asked for that cannot be made.
    """

    def watched(subjects: Sequence[Item]) -> Iterator[Item]:
        with progress(messages, "report", total=len(subjects)) as ticker:
            for subject in subjects:
                yield subject
                ticker.tick(failed=False)

    return write_report(run, request, progress=watched)


def show_report(run: Path, messages: Messages, *, share_safe: bool) -> None:
    """Print a summary of a run, its failures and its curves.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    show_population(run, messages, share_safe=share_safe)
