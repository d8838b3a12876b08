"""Differences between groups: effect sizes of the indices, with tests that are corrected for their number.

Beside each is the difference at equal age, sex, body surface area and site, from a linear model in which the visits of
a subject form a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.strata import StratumPair, TestedDifference, compare_all
from cmnet_cli.report.formatting import Quantity, format_number
from cmnet_cli.report.plot.cohort_figures import effects
from cmnet_core.stats.adjusted import AdjustedDifference, adjusted_difference
from cmnet_core.stats.groups import Moments, moments_of


@dataclass(frozen=True, slots=True)
class Contrast:
    """One group against the group that all others are compared with.

    Attributes:
        first: The group that all others are compared with.
        second: The other group.
        drawing: Effect sizes of all indices.
        lines: Quantity, both groups, difference, effect size, p, q, adjusted difference, its p and its count.
        discoveries: Number of discoveries at the false discovery rate.
    """

    first: str
    second: str
    drawing: Markup
    lines: tuple[tuple[str, ...], ...]
    discoveries: int


def contrasts(context: CohortContext, quantities: Sequence[Quantity]) -> list[Contrast]:
    """Compare every group with the first; the tests of all groups and quantities are corrected together."""
    names = context.compared.names
    pairs = [pair for number in range(1, len(names)) for pair in _pairs(context, quantities, number)]
    tested = compare_all(pairs)
    by_group = ((name, [test for test in tested if test.second_name == name]) for name in names[1:])
    return [_contrast(context, name, tests, quantities) for name, tests in by_group if tests]


def _pairs(context: CohortContext, quantities: Sequence[Quantity], number: int) -> list[StratumPair]:
    first, second = (context.compared.members(stratum) for stratum in (0, number))
    pairs = []
    for quantity in quantities:
        values = context.population.numbers(quantity.column)
        moments = moments_of(values[first]), moments_of(values[second])
        if not any(context.deidentifier.hides(one.n) for one in moments):
            pairs.append(StratumPair(quantity.column, context.compared.names[number], *moments))
    return pairs


def _contrast(
    context: CohortContext, second: str, tests: Sequence[TestedDifference], quantities: Sequence[Quantity]
) -> Contrast:
    first = context.compared.names[0]
    by_column = {quantity.column: quantity for quantity in quantities}
    number = context.compared.names.index(second)
    return Contrast(
        first=first,
        second=second,
        drawing=effects([(by_column[test.quantity].meaning, test) for test in tests]),
        lines=tuple(
            (by_column[test.quantity].full_label, *format_test(test), *_format_adjusted(context, test.quantity, number))
            for test in tests
        ),
        discoveries=sum(test.is_discovery for test in tests),
    )


def adjust(context: CohortContext, column: str, number: int) -> AdjustedDifference | None:
    """Compare the n-th stratum with the first at equal covariates; None where the model is not determined.

    Args:
        context: The cohort.
        column: The quantity.
        number: Number of the stratum.
    """
    population = context.population
    rows = np.concatenate([context.compared.members(stratum) for stratum in (0, number)])
    # An indexed quantity is adjusted for body size by its definition.
    sizes = () if column.endswith("_m2") else ("bsa_m2",)
    covariates = [population.numbers(name)[rows] for name in ("age_years", *sizes) if population.has(name)]
    names = [name for name in ("sex", "site") if population.has(name) and name != context.compared.strata.column]
    categories = [population.strata(name).codes[rows] for name in names]
    is_second = context.compared.strata.codes[rows] == context.compared.shown[number]
    subjects = population.strata("subject_id").codes[rows]
    return adjusted_difference(population.numbers(column)[rows], is_second, covariates, categories, subjects)


def _format_adjusted(context: CohortContext, column: str, number: int) -> tuple[str, ...]:
    found = adjust(context, column, number)
    if found is None or context.deidentifier.hides(found.clusters):
        return ("", "", "")
    limits = f"{format_number(found.low)} to {format_number(found.high)}"
    return (f"{format_number(found.mean)} ({limits})", format_p_value(found.p), str(found.clusters))


def format_test(test: TestedDifference) -> tuple[str, ...]:
    """Format a test as cells of a table: both groups, their difference, effect size, p and q."""
    found = test.difference
    limits = f"{format_number(found.effect_low, decimals=2)} to {format_number(found.effect_high, decimals=2)}"
    return (
        _format_moments(test.first),
        _format_moments(test.second),
        format_number(found.mean),
        f"{format_number(found.effect, decimals=2)} ({limits})",
        format_p_value(found.p),
        format_p_value(test.q),
    )


def _format_moments(moments: Moments) -> str:
    return f"{format_number(moments.mean)} ± {format_number(moments.sd)}"


def format_p_value(p: float) -> str:
    """Format a p-value as in a table.

    >>> format_p_value(0.0312), format_p_value(0.00004)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
