"""The command report: HTML pages of a run, or a summary on the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cmnet_cli.console import Messages, progress
from cmnet_cli.report.export.terminal import show_population
from cmnet_cli.report.write import Request, write_report

Item = TypeVar("Item")

_DEFAULT = Request()


def report(run: Path, messages: Messages, request: Request = _DEFAULT) -> Path:
    """Write the report of a run.

    Args:
        run: The run folder.
        messages: Where to print.
        request: Which pages and formats the report consists of.

    Returns:
        The path of the cohort page.

    Raises:
        ManifestError: The folder is not a run folder, has no results, the verdicts cannot be used, or a requested
            format is not available.
    """

    def with_progress(subjects: Sequence[Item]) -> Iterator[Item]:
        with progress(messages, "report", total=len(subjects)) as ticker:
            for subject in subjects:
                yield subject
                ticker.tick(failed=False)

    return write_report(run, request, progress=with_progress)


def show_report(run: Path, messages: Messages, *, share_safe: bool, verdicts: Path | None = None) -> None:
    """Print a summary of a run, its failures and its mean curves.

    Raises:
        ManifestError: The folder is not a run folder, has no results, or the verdicts cannot be used.
    """
    show_population(run, messages, share_safe=share_safe, verdicts=verdicts)
