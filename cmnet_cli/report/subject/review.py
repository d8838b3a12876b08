"""The review of a subject on its page: what to check, its place in the worklist, and the verdict of a reader."""

from collections.abc import Mapping
from dataclasses import dataclass

from cmnet_cli.report.data.worklist import Worklist
from cmnet_cli.report.formatting import flag_text, format_number, is_warning, missing_metadata_text, severity_of
from cmnet_cli.runs.verdicts import Reading
from cmnet_core.qc.flags import FLAGS


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a subject among those with a page, in the order of the worklist.

    Attributes:
        number: The place, from 1.
        size: Number of subjects with a page.
        previous: The page of the subject before; empty for the first.
        next: The page of the subject after; empty for the last.
        score: The score as text.
    """

    number: int
    size: int
    previous: str
    next: str
    score: str


@dataclass(frozen=True, slots=True)
class Quality:
    """What the section about quality states.

    Attributes:
        warnings: Severity and text of each flag of this subject to check, the most severe first.
        unusual: What is far from the rest of the cohort.
        missing: Missing metadata and their effect, in one line; empty where none is missing.
        remarks: Information about this subject.
        shared: Flags that nearly all subjects share.
    """

    warnings: tuple[tuple[str, str], ...]
    unusual: tuple[str, ...]
    missing: str
    remarks: tuple[str, ...]
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Review:
    """What a subject's page says of its review.

    Attributes:
        place: Its place in the worklist.
        quality: What to check.
        shared: Flags that nearly all subjects share.
        reading: The verdict that the run has; None without one.
    """

    place: Place
    quality: Quality
    shared: frozenset[str]
    reading: Reading | None


def list_places(worklist: Worklist, pages: Mapping[int, str]) -> dict[int, Place]:
    """Return the place of every subject with a page, by its row number.

    Args:
        worklist: All subjects.
        pages: File name of the page of each subject that has one, by the subject's row number.
    """
    order = [row for row in worklist.order.tolist() if row in pages]
    files = ["", *(pages[row] for row in order), ""]
    return {
        row: Place(n, len(order), files[n - 1], files[n + 1], format_number(float(worklist.score[row])))
        for n, row in enumerate(order, start=1)
    }


def make_review(worklist: Worklist, row: int, place: Place, reading: Reading | None) -> Review:
    """Return the review of the subject with a row number."""
    population = worklist.population
    flags = population.flags_of(row)
    own = [flag for flag in flags if flag not in population.shared]
    remarks = [flag for flag in own if not is_warning(flag) and not FLAGS[flag].missing]
    # Metadata that no subject has are stated once, on the cohort page.
    quality = Quality(
        warnings=tuple((severity_of(flag), flag_text(flag)) for flag in own if is_warning(flag)),
        unusual=tuple(reason.text for reason in worklist.reasons(row) if not reason.flag),
        missing=missing_metadata_text(own),
        remarks=tuple(flag_text(flag) for flag in remarks),
        shared=tuple(flag for flag in flags if flag in population.shared),
    )
    return Review(place, quality, population.shared, reading)
