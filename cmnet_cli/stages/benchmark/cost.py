"""The cost of a computation in this process: CPU seconds and memory."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Cost:
    """CPU seconds of all threads and child processes, and the largest additional memory in MB, or None if unknown."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.peak_mb: float | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is computed within the context; the cost is known at its end."""
    cost = Cost()
    resident, cpu = _reset_peak_mb(), _cpu_s()
    yield cost
    cost.cpu_s = _cpu_s() - cpu
    peak = _memory_mb("VmHWM")
    cost.peak_mb = None if peak is None or resident is None else max(0.0, peak - resident)


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _reset_peak_mb() -> float | None:
    """Let Linux forget the largest memory of the process so far, and return its current memory in MB."""
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    return _memory_mb("VmRSS")


def _memory_mb(name: str) -> float | None:
    if not _STATUS.exists():
        return None
    found = [line.split() for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return float(found[0][1]) / 1024 if found else None
