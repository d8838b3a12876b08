"""The command report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cmnet_cli.report.page import write_report
from cmnet_cli.screen import Screen, progress

Item = TypeVar("Item")


def report(run: Path, screen: Screen) -> Path:
    """Write the pages of a run.

    Returns:
        The cohort page.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """

    def watched(pages: Sequence[Item]) -> Iterator[Item]:
        with progress(screen, "report", total=len(pages)) as ticker:
            for page in pages:
                yield page
                ticker.tick(failed=False)

    return write_report(run, progress=watched)
