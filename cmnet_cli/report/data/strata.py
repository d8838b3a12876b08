"""Statistics of a quantity in each stratum of a cohort, and tests of differences between strata."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.report.data.cohort_table import UNASSIGNED, FloatArray, IntArray, Strata
from cmnet_core.stats.groups import Difference, Moments, difference_between, false_discovery, moments_of

# A figure cannot distinguish more strata than this.
MOST_STRATA = 6

DISCOVERY = 0.05
"""The false discovery rate below which a difference counts as a discovery."""

# Names of groups of healthy people in common data sets; all other groups are compared with such a group.
_HEALTHY = ("nor", "normal", "healthy", "control", "controls", "hc", "hv", "volunteer", "volunteers", "reference")


@dataclass(frozen=True, slots=True, eq=False)
class StratumSummary:
    """Statistics of one quantity in one stratum.

    Attributes:
        name: The stratum.
        moments: Count, mean and standard deviation.
        quartiles: First, second and third quartile.
        counts: The histogram over the bins that all strata share.
        values: The values themselves where there are too few for a histogram, else empty.
    """

    name: str
    moments: Moments
    quartiles: tuple[float, float, float]
    counts: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Stratification:
    """The strata that are shown, and the number of those left out.

    Attributes:
        strata: The subjects, divided.
        shown: Numbers of the strata that are shown.
        small: How many strata are too small to be shown.
        many: How many strata are left out because a figure cannot distinguish more.
    """

    strata: Strata
    shown: tuple[int, ...]
    small: int
    many: int

    @property
    def names(self) -> tuple[str, ...]:
        """The strata that are shown."""
        return tuple(self.strata.names[n] for n in self.shown)

    def members(self, number: int) -> IntArray:
        """Return the row numbers of the subjects of the n-th shown stratum."""
        return np.flatnonzero(self.strata.codes == self.shown[number])

    @property
    def codes(self) -> IntArray:
        """The shown stratum of each subject, as an index into ``names``; ``UNASSIGNED`` for subjects in none."""
        renumbered = np.full(len(self.strata.names) + 1, UNASSIGNED)
        for new, old in enumerate(self.shown):
            renumbered[old] = new
        return renumbered[self.strata.codes]


def stratify(strata: Strata, deidentifier: Deidentifier) -> Stratification:
    """Choose the strata that are shown: healthy people first, then by size; none that must be suppressed."""
    allowed = [n for n, size in enumerate(strata.sizes) if size and not deidentifier.hides(size)]
    allowed.sort(key=lambda n: strata.names[n].lower() not in _HEALTHY)
    small = sum(deidentifier.hides(size) for size in strata.sizes)
    return Stratification(strata, tuple(allowed[:MOST_STRATA]), small, max(0, len(allowed) - MOST_STRATA))


def summarise_stratum(
    name: str, values: FloatArray, edges: FloatArray, *, histogram_from: int
) -> StratumSummary | None:
    """Compute the statistics of a stratum; None where no value is known.

    Args:
        name: The stratum.
        values: One per member; NaN where there is none.
        edges: Edges of the histogram's bins.
        histogram_from: Fewer values than this are kept, so that they can be drawn individually.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    first, second, third = np.percentile(known, (25, 50, 75)).tolist()
    counts = np.histogram(known, edges)[0]
    kept = known if len(known) < histogram_from else known[:0]
    return StratumSummary(name, moments_of(known), (first, second, third), counts, kept)


@dataclass(frozen=True, slots=True)
class StratumPair:
    """A quantity in two strata, before the test.

    Attributes:
        quantity: The quantity that is compared.
        second_name: The stratum that is compared with the first.
        first: Moments in the first stratum.
        second: Moments in the second stratum.
    """

    quantity: str
    second_name: str
    first: Moments
    second: Moments


@dataclass(frozen=True, slots=True)
class TestedDifference(StratumPair):
    """A quantity in two strata, after the test.

    Attributes:
        difference: Second minus first.
        q: The p-value, adjusted for all tests of the same call.
    """

    difference: Difference
    q: float

    @property
    def is_discovery(self) -> bool:
        """Whether the difference is a discovery at the false discovery rate."""
        return self.q < DISCOVERY


def compare_all(pairs: Sequence[StratumPair]) -> list[TestedDifference]:
    """Test pairs and adjust their p-values for all of them; pairs that cannot be compared are left out."""
    compared = [(pair, found) for pair in pairs if (found := difference_between(pair.first, pair.second))]
    adjusted = false_discovery([found.p for _, found in compared])
    return [
        TestedDifference(pair.quantity, pair.second_name, pair.first, pair.second, found, q)
        for (pair, found), q in zip(compared, adjusted, strict=True)
    ]
