"""The estimate of the remaining time, on simulated jobs."""

import heapq
import random
from collections.abc import Callable, Sequence

import pytest

from cmnet_cli.console import format_duration
from cmnet_cli.time_left import TimeLeft


def _after_a_tenth(
    sizes: Sequence[float], seconds: Callable[[float], float], *, workers: int, start_s: float, known: bool = True
) -> tuple[float, float]:
    """Return the estimate after a tenth of the items, and the time that the others then take."""
    now = 0.0
    estimate = TimeLeft(len(sizes), sizes if known else None, clock=lambda: now)
    waiting, running, said, said_at = iter(sizes), [], 0.0, 0.0

    def begin(at: float) -> None:
        size = next(waiting, None)
        if size is not None:
            estimate.begin()
            heapq.heappush(running, (at + seconds(size), size))

    for _ in range(workers):
        begin(start_s)
    while running:
        now, size = heapq.heappop(running)
        estimate.tick(size if known else 0.0, seconds(size))
        if estimate.done == len(sizes) // 10:
            said, said_at = estimate.seconds() or 0.0, now
        begin(now)
    return said, now - said_at


@pytest.mark.parametrize("workers", [1, 4, 8])
def test_start_of_the_workers_does_not_count(workers: int) -> None:
    chosen = random.Random(1)
    said, true = _after_a_tenth([1.0] * 200, lambda _: chosen.uniform(18, 22), workers=workers, start_s=120.0)
    assert said == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_items_of_unequal_size(order: str) -> None:
    chosen = random.Random(1)
    sizes = [chosen.lognormvariate(1, 1) for _ in range(300)]
    sizes = sizes if order == "random" else sorted(sizes, reverse=order == "descending")
    noise = {size: chosen.uniform(0.95, 1.05) for size in sizes}
    said, true = _after_a_tenth(sizes, lambda size: noise[size] * (3 + 2 * size), workers=2, start_s=15.0)
    assert said == pytest.approx(true, rel=0.2)
    without, _ = _after_a_tenth(sizes, lambda size: noise[size] * (3 + 2 * size), workers=2, start_s=15.0, known=False)
    assert order == "random" or without != pytest.approx(true, rel=0.2)


def test_time_passes_between_two_items() -> None:
    now = 0.0
    estimate = TimeLeft(10, clock=lambda: now)
    assert estimate.seconds() is None
    now = 10.0
    estimate.tick()
    now = 20.0
    estimate.tick()
    assert estimate.seconds() == pytest.approx(80)
    now = 25.0
    assert estimate.seconds() == pytest.approx(75)
    assert estimate.seconds(fraction=0.5) == pytest.approx(75)
    now = 500.0
    assert estimate.seconds() == 0


def test_items_that_failed_at_once_leave_an_estimate() -> None:
    now = 0.0
    estimate = TimeLeft(4, [0.0, 0.0, 5.0, 5.0], clock=lambda: now)
    now = 2.0
    estimate.tick()
    assert estimate.seconds() == pytest.approx(6)
    estimate.tick()
    now = 4.0
    estimate.tick(5.0, 2.0)
    assert estimate.seconds() == pytest.approx(2)


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (150, "2 min"), (5940, "99 min"), (7500, "2 h 05 min")])
def test_durations_are_as_exact_as_an_estimate(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
