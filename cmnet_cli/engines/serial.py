"""The serial engine: one case after the other, in this process."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cmnet_cli.engines.base import CaseT, Outcome, ReceiptT, Stage, run_case


class SerialEngine:
    """Runs one case after the other in this process. A case that crashes ends the whole command."""

    description = ""

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """Yield one outcome per case, in order."""
        run = stage.open()
        for case in cases:
            yield run_case(run, case)

    def all_workers_see(self, path: Path) -> bool:
        """Check whether the file exists."""
        return path.exists()
