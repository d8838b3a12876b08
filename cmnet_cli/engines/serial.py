"""The serial engine: one case after the other, in this process."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cmnet_cli.engines.base import CaseT, Outcome, ReceiptT, Stage, attempt


class SerialEngine:
    """The plainest engine: one case after the other, here. A case that crashes takes everything with it."""

    told = ""

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """One outcome a case, in order."""
        run = stage.open()
        for case in cases:
            yield attempt(run, case)

    def sees(self, path: Path) -> bool:
        """Whether the file is here."""
        return path.exists()
