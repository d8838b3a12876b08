"""The remaining time of a long job, from the items that are finished."""

import time
from collections.abc import Callable, Sequence

# The speed of fewer items than that, for each that is processed at the same time, depends on when it is measured.
_ITEMS_EACH = 5


class TimeLeft:
    """Estimates the remaining time of a job whose items differ in size.

    An item costs ``a + b · size`` seconds, a least-squares fit to the finished items. At first, the cost of those that
    remain is divided by the number that are processed at the same time; later, it is worked off as fast as the cost of
    the finished ones was. That clock starts when as many have finished as were begun together, so that the start of the
    workers does not count.

    Args:
        total: Number of items.
        sizes: Sizes of all items in any unit, such as bytes; None if they are alike.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, total: int, sizes: Sequence[float] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.done = 0
        self._total, self._size_left = total, sum(sizes or ())
        self._clock = clock
        self._started = self._ticked = clock()
        self._begun = 0
        self._at_once = 1
        # Sums over the finished items of 1, size, size², seconds and size · seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5
        # Number and size of the items that had finished when the clock was started, and when that was.
        self._before = (0, 0.0, self._started)

    def begin(self) -> None:
        """Count an item as begun."""
        self._begun += 1

    def tick(self, size: float = 0.0, seconds: float = 0.0) -> None:
        """Count an item as finished, which took some seconds."""
        if not self.done:
            self._at_once = max(1, self._begun)
        self.done += 1
        self._size_left -= size
        self._ticked = self._clock()
        new = (1.0, size, size * size, seconds, size * seconds)
        self._sums = tuple(old + more for old, more in zip(self._sums, new, strict=True))
        if self.done == self._at_once and self._begun:
            self._before = (self.done, self._sums[1], self._ticked)

    @property
    def per_minute(self) -> float:
        """Finished items per minute."""
        return 60 * self.done / max(self._ticked - self._started, 1e-9)

    def seconds(self, fraction: float = 0.0) -> float | None:
        """Return the remaining time in seconds; None before anything has finished.

        Args:
            fraction: The part of the current item that is finished.
        """
        fixed, per_size = self._cost()
        left = fixed * (self._total - self.done - fraction) + per_size * self._size_left
        now = self._clock()
        if self._sums[3] and self.done < _ITEMS_EACH * self._at_once:
            return max(0.0, left / self._at_once - (now - self._ticked))
        number, size, since = self._before
        cost = fixed * (self.done - number + fraction) + per_size * (self._sums[1] - size)
        if not cost:
            return None
        if fraction:
            return (now - since) * left / cost
        # Part of it has passed since the last item.
        return max(0.0, (self._ticked - since) * left / cost - (now - self._ticked))

    def _cost(self) -> tuple[float, float]:
        """Return seconds of an item apart from its size, and seconds per size; relative ones if none are known."""
        number, size, square, seconds, product = self._sums
        spread = number * square - size * size
        if not seconds:
            return 1.0, 0.0
        if spread <= 1e-9 * number * square:
            return seconds / number, 0.0
        per_size = max(0.0, (number * product - size * seconds) / spread)
        fixed = (seconds - per_size * size) / number
        # A larger item does not cost less than its share.
        return (fixed, per_size) if fixed >= 0 else (0.0, seconds / size)
