"""What is told of a quantity in each stratum of a cohort: counts, quantiles, a histogram, and how strata differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.report.data.cohort_table import NOBODY, Numbers, Places, Strata
from cmnet_cli.report.plot import svg
from cmnet_core.stats.groups import Difference, Moments, difference_between, false_discovery, moments_of

# More strata than this are no longer told apart.
MOST_STRATA = 6

DISCOVERY = 0.05
"""The false discovery rate below which a difference counts as one."""

# Groups of healthy people, as data sets call them; all others are compared with it.
_HEALTHY = ("nor", "normal", "healthy", "control", "controls", "hc", "hv", "volunteer", "volunteers", "reference")

# From this many values on, an axis leaves out the outermost so that one wrong contour does not squeeze all others.
_TRIM_FROM, _TRIMMED_PCT = 200, 0.25
_FEWEST_BINS, _MOST_BINS = 8, 40


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One quantity in one stratum.

    Attributes:
        name: The stratum.
        moments: Count, mean and standard deviation.
        quartiles: First, second and third.
        counts: The histogram over the bins that all strata share.
        values: The values themselves where they are few enough to be drawn one by one, else empty.
    """

    name: str
    moments: Moments
    quartiles: tuple[float, float, float]
    counts: Places
    values: Numbers


@dataclass(frozen=True, slots=True)
class Stratification:
    """The strata that are shown, and what was left out.

    Attributes:
        strata: The subjects, divided.
        shown: Places of the strata that are shown.
        small: How many strata are too small to be shown.
        many: How many more there are than can be told apart.
    """

    strata: Strata
    shown: tuple[int, ...]
    small: int
    many: int

    @property
    def names(self) -> tuple[str, ...]:
        """The strata that are shown."""
        return tuple(self.strata.names[n] for n in self.shown)

    def members(self, number: int) -> Places:
        """Where the subjects of the n-th shown stratum stand."""
        return np.flatnonzero(self.strata.of == self.shown[number])

    @property
    def codes(self) -> Places:
        """The shown stratum of each subject, by its place among those; ``NOBODY`` for who is in none."""
        moved = np.full(len(self.strata.names) + 1, NOBODY)
        for new, old in enumerate(self.shown):
            moved[old] = new
        return moved[self.strata.of]


def stratify(strata: Strata, deidentifier: Deidentifier) -> Stratification:
    """Choose the strata that are shown: the healthy first, then the largest; none that may not be told of."""
    allowed = [n for n, size in enumerate(strata.sizes) if size and not deidentifier.hides(size)]
    allowed.sort(key=lambda n: strata.names[n].lower() not in _HEALTHY)
    small = sum(deidentifier.hides(size) for size in strata.sizes)
    return Stratification(strata, tuple(allowed[:MOST_STRATA]), small, max(0, len(allowed) - MOST_STRATA))


def scale_of(label: str, values: Numbers) -> svg.Axis:
    """An axis for these values; in a large cohort the outermost 0.25 % at each end may lie beyond it.

    Args:
        label: Quantity and unit.
        values: All of them; at least one is known.
    """
    known = values[np.isfinite(values)]
    trimmed = _TRIMMED_PCT if len(known) >= _TRIM_FROM else 0.0
    low, high = np.percentile(known, (trimmed, 100.0 - trimmed))
    return svg.axis(label, [float(low), float(high)])


def bins_of(axis: svg.Axis, count: int) -> Numbers:
    """Edges of bins over an axis, finer for more values; the axis' numbers are edges too."""
    wanted = int(np.clip(1.5 * math.sqrt(count), _FEWEST_BINS, _MOST_BINS))
    steps = max(1, round(wanted / max(1, len(axis.ticks) - 1)))
    inner = [np.linspace(start, end, steps, endpoint=False) for start, end in pairwise(axis.ticks)]
    return np.append(np.concatenate(inner), axis.ticks[-1])


def tell(name: str, values: Numbers, edges: Numbers, *, one_by_one: int) -> Told | None:
    """What is told of a stratum; None where no value is known.

    Args:
        name: The stratum.
        values: One a member; NaN where there is none.
        edges: Of the histogram's bins.
        one_by_one: Fewer values than this are kept to be drawn one by one.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    first, second, third = np.percentile(known, (25, 50, 75)).tolist()
    counts = np.histogram(known, edges)[0]
    kept = known if len(known) < one_by_one else known[:0]
    return Told(name, moments_of(known), (first, second, third), counts, kept)


@dataclass(frozen=True, slots=True)
class Pair:
    """A quantity in two strata, before the test.

    Attributes:
        quantity: What may differ.
        second_name: The stratum that is compared with the first.
        first: What is known of the first stratum.
        second: What is known of the second.
    """

    quantity: str
    second_name: str
    first: Moments
    second: Moments


@dataclass(frozen=True, slots=True)
class Tested(Pair):
    """A quantity in two strata, tested.

    Attributes:
        difference: Second minus first.
        q: The p-value, adjusted for all tests that were made together.
    """

    difference: Difference
    q: float

    @property
    def is_discovery(self) -> bool:
        """Whether it holds at the false discovery rate."""
        return self.q < DISCOVERY


def compare_all(pairs: Sequence[Pair]) -> list[Tested]:
    """Test pairs together, their p-values adjusted for all of them; what cannot be compared is left out."""
    compared = [(pair, found) for pair in pairs if (found := difference_between(pair.first, pair.second))]
    adjusted = false_discovery([found.p for _, found in compared])
    return [
        Tested(pair.quantity, pair.second_name, pair.first, pair.second, found, q)
        for (pair, found), q in zip(compared, adjusted, strict=True)
    ]
