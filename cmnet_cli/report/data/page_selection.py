"""Which subjects get a page: all, the flagged, none, or those that are asked for."""

from collections.abc import Sequence

import numpy as np

from cmnet_cli.report.data.cohort_table import Population, most_flagged
from cmnet_core.errors import ErrorCode, ManifestError

ALL, FLAGGED, NONE = "all", "flagged", "none"

UNASKED = 500
"""Without a wish, all subjects get a page up to this number; beyond it those with the most flags, as many as this."""


def choose_pages(population: Population, asked: Sequence[str], *, unasked: int = UNASKED) -> list[int]:
    """Places of the subjects that get a page.

    Args:
        population: Everyone.
        asked: ``all``, ``flagged``, ``none`` or ids, with or without ``sub-``; empty for no wish.
        unasked: The most pages that are made where there is no wish.

    Raises:
        ManifestError: An id is not among the subjects with indices.
    """
    flagged = most_flagged(population, np.flatnonzero(population.warnings))
    if not asked:
        return list(range(population.size)) if population.size <= unasked else flagged[:unasked]
    words = [word for word in asked if word in (ALL, FLAGGED, NONE)]
    named = [place for word in asked if word not in (ALL, FLAGGED, NONE) for place in _places(population, word)]
    if ALL in words:
        return list(range(population.size))
    return list(dict.fromkeys([*named, *(flagged if FLAGGED in words else [])]))


def _places(population: Population, label: str) -> list[int]:
    """Every visit of a subject, or one visit."""
    wanted = f"sub-{label.removeprefix('sub-')}"
    visits = f"{wanted}_ses-"
    found = [n for n, name in enumerate(population.case_ids) if name == wanted or name.startswith(visits)]
    if not found:
        raise ManifestError(
            f"There is no subject '{label}' with indices in {population.folder.root}.",
            hint="Give --pages an id of the manifest, or all, flagged or none; cmnet status lists who is done.",
            code=ErrorCode.RUN,
        )
    return found
