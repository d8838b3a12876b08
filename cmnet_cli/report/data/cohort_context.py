"""The context of a cohort page: the population, the disclosure rules, and the pages of single subjects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.privacy.small_counts import CountSuppression
from cmnet_cli.report.data.cohort_table import UNASSIGNED, Population
from cmnet_cli.report.data.strata import Stratification, stratify


@dataclass(frozen=True, slots=True)
class SubjectLink:
    """A subject as a page names it.

    Attributes:
        name: Subject and visit, or the pseudonym.
        page: File name of its page; empty where it has none.
        message: Error message of the subject; empty where there is none.
    """

    name: str
    page: str
    message: str = ""


@dataclass(frozen=True, eq=False)
class CohortContext:
    """A population with the rules by which a page shows it.

    Attributes:
        population: All subjects.
        deidentifier: Names subjects, and decides what may be stated about them.
        pages: File name of the page of each subject that has one, by the subject's row number.
    """

    population: Population
    deidentifier: Deidentifier
    pages: Mapping[int, str]

    @property
    def counts(self) -> CountSuppression:
        """Formats counts of subjects; in a share-safe report small counts are suppressed."""
        return CountSuppression(self.deidentifier)

    @cached_property
    def by_sex(self) -> Stratification:
        """The subjects stratified by sex."""
        return stratify(self.population.strata("sex"), self.deidentifier)

    @cached_property
    def by_group(self) -> Stratification:
        """The subjects stratified by group."""
        return stratify(self.population.strata("group"), self.deidentifier)

    @cached_property
    def compared(self) -> Stratification:
        """The strata that are compared with each other: groups, or sexes where there are fewer than two groups."""
        return self.by_group if len(self.by_group.shown) > 1 else self.by_sex

    def links(self, rows: Iterable[int]) -> list[SubjectLink]:
        """Return the subjects of some rows with their pages."""
        ids = self.population.case_ids
        return [
            SubjectLink(self.deidentifier.name(ids[row]), self.pages.get(row, "")) for row in rows if row != UNASSIGNED
        ]
