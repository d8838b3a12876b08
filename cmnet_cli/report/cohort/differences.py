"""How groups differ: effect sizes of the indices, with tests that are corrected for their number."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.strata import Pair, Tested, compare_all
from cmnet_cli.report.formatting import Quantity, shown
from cmnet_cli.report.plot.cohort_figures import effects
from cmnet_core.stats.groups import Moments, moments_of


@dataclass(frozen=True, slots=True)
class Contrast:
    """One group against the one that all others are compared with.

    Attributes:
        first: The group that it is compared with.
        second: The group.
        drawing: Effect sizes of all indices.
        lines: Quantity, both groups, difference, effect size, p and q.
        discoveries: How many of them hold at the false discovery rate.
    """

    first: str
    second: str
    drawing: Markup
    lines: tuple[tuple[str, ...], ...]
    discoveries: int


def contrasts(showing: Showing, wanted: Sequence[Quantity]) -> list[Contrast]:
    """Every group against the first; the tests of all groups and quantities are corrected together."""
    names = showing.compared.names
    pairs = [pair for number in range(1, len(names)) for pair in _pairs(showing, wanted, number)]
    tested = compare_all(pairs)
    found = ((name, [test for test in tested if test.second_name == name]) for name in names[1:])
    return [_contrast(names[0], name, tests, wanted) for name, tests in found if tests]


def _pairs(showing: Showing, wanted: Sequence[Quantity], number: int) -> list[Pair]:
    first, second = (showing.compared.members(place) for place in (0, number))
    pairs = []
    for quantity in wanted:
        values = showing.population.numbers(quantity.column)
        moments = moments_of(values[first]), moments_of(values[second])
        if not any(showing.deidentifier.hides(one.n) for one in moments):
            pairs.append(Pair(quantity.column, showing.compared.names[number], *moments))
    return pairs


def _contrast(first: str, second: str, tests: Sequence[Tested], wanted: Sequence[Quantity]) -> Contrast:
    by_column = {quantity.column: quantity for quantity in wanted}
    rows = [(by_column[test.quantity].meaning, test) for test in tests]
    return Contrast(
        first=first,
        second=second,
        drawing=effects(rows),
        lines=tuple(_line(by_column[test.quantity], test) for test in tests),
        discoveries=sum(test.is_discovery for test in tests),
    )


def _line(quantity: Quantity, test: Tested) -> tuple[str, ...]:
    return (f"{quantity.meaning} ({quantity.unit})" if quantity.unit else quantity.meaning, *cells_of_test(test))


def cells_of_test(test: Tested) -> tuple[str, ...]:
    """A test as cells of a table: both groups, their difference, effect size, p and q."""
    found = test.difference
    ends = f"{shown(found.effect_low, decimals=2)} to {shown(found.effect_high, decimals=2)}"
    return (
        _moments(test.first),
        _moments(test.second),
        shown(found.mean),
        f"{shown(found.effect, decimals=2)} ({ends})",
        probability(found.p),
        probability(test.q),
    )


def _moments(moments: Moments) -> str:
    return f"{shown(moments.mean)} ± {shown(moments.sd)}"


def probability(p: float) -> str:
    """A p-value as in a table.

    >>> probability(0.0312), probability(0.00004)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
