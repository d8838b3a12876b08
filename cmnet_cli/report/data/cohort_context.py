"""The context of a cohort page: the population, the disclosure rules, and the pages of single subjects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.privacy.small_counts import CountSuppression
from cmnet_cli.report.data.cohort_table import UNASSIGNED, Population
from cmnet_cli.report.data.strata import Stratification, stratify
from cmnet_cli.runs.verdicts import Readings, excluded


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
        readings: Verdicts of readers.
    """

    population: Population
    deidentifier: Deidentifier
    pages: Mapping[int, str]
    readings: Readings = field(default_factory=dict)

    @cached_property
    def excluded(self) -> list[int]:
        """The row numbers of the subjects that a verdict excludes."""
        row_of = {case_id: row for row, case_id in enumerate(self.population.case_ids)}
        return [row_of[case_id] for case_id in excluded(self.readings) if case_id in row_of]

    @cached_property
    def included(self) -> "CohortContext":
        """The same without the subjects that a verdict excludes, for figures and tests."""
        if not self.excluded:
            return self
        left_out = {self.population.case_ids[row] for row in self.excluded}
        population = self.population.without(left_out)
        pages = {self.population.case_ids[row]: page for row, page in self.pages.items()}
        kept = {row: pages[case_id] for row, case_id in enumerate(population.case_ids) if case_id in pages}
        return CohortContext(population, self.deidentifier, kept)

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
