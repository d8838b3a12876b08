"""Selection of the subjects that get a page: all, the flagged ones, none, or those requested by id."""

from collections.abc import Sequence

from cmnet_cli.report.data.cohort_table import Population
from cmnet_cli.report.data.worklist import Worklist
from cmnet_core.errors import ErrorCode, ManifestError

ALL, FLAGGED, NONE = "all", "flagged", "none"

DEFAULT_LIMIT = 500
"""By default, all subjects of a cohort of up to this size get a page; in a larger one, the first of the worklist."""


def choose_pages(worklist: Worklist, requested: Sequence[str], *, limit: int = DEFAULT_LIMIT) -> list[int]:
    """Return the row numbers of the subjects that get a page.

    Args:
        worklist: All subjects.
        requested: ``all``, ``flagged``, ``none`` or ids, with or without ``sub-``; empty for the default.
        limit: The largest number of pages that are made by default.

    Raises:
        ManifestError: An id is not among the subjects with indices.
    """
    population = worklist.population
    if not requested:
        return list(range(population.size)) if population.size <= limit else worklist.order[:limit].tolist()
    flagged = worklist.order[population.warnings[worklist.order] > 0].tolist()
    ids = [label for label in requested if label not in (ALL, FLAGGED, NONE)]
    by_id = [row for label in ids for row in _rows_of_subject(population, label)]
    if ALL in requested:
        return list(range(population.size))
    return list(dict.fromkeys([*by_id, *(flagged if FLAGGED in requested else [])]))


def _rows_of_subject(population: Population, label: str) -> list[int]:
    """Return the rows of every visit of a subject, or of one visit."""
    wanted = f"sub-{label.removeprefix('sub-')}"
    visits = f"{wanted}_ses-"
    found = [n for n, name in enumerate(population.case_ids) if name == wanted or name.startswith(visits)]
    if not found:
        raise ManifestError(
            f"There is no subject '{label}' with indices in {population.folder.root}.",
            hint="Give --pages an id of the manifest, or all, flagged or none; cmnet status lists the finished ones.",
            code=ErrorCode.RUN,
        )
    return found
