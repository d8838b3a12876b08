"""The serial engine: one case after the other, in this process."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cmnet_cli.engines.base import CaseT, EngineSpec, Outcome, ReceiptT, Stage, run_case, timeout_failure
from cmnet_core.errors import CaseError, ErrorCode


class SerialEngine:
    """Runs one case after the other in this process. A case that crashes ends the whole command.

    A case that exceeds its time limit is ended at the next return to the interpreter: only the workers of other engines
    can also be ended within a call that never returns.

    Args:
        spec: The limits of a case.
    """

    description = ""

    def __init__(self, spec: EngineSpec | None = None) -> None:
        self._spec = spec or EngineSpec()

    def map(self, stage: Stage[CaseT, ReceiptT], cases: Iterable[CaseT]) -> Iterator[Outcome[ReceiptT]]:
        """Yield one outcome per case, in order."""
        run = stage.open()
        for case in cases:
            yield run_case(_with_time_limit(run, self._spec.time_limit_s(case)), case)

    def all_workers_see(self, path: Path) -> bool:
        """Check whether the file exists."""
        return path.exists()


def _with_time_limit(run: Callable[[CaseT], ReceiptT], limit_s: float | None) -> Callable[[CaseT], ReceiptT]:
    """Make the function of a case raise an error after ``limit_s`` seconds, where the system has timers."""
    # Only the main thread may receive signals.
    if limit_s is None or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        return run

    def stop(*_: Any) -> None:
        failure = timeout_failure(limit_s, "")
        raise CaseError(failure.message, hint=failure.hint, code=ErrorCode.TIMEOUT)

    def run_with_time_limit(case: CaseT) -> ReceiptT:
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            return run(case)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return run_with_time_limit
