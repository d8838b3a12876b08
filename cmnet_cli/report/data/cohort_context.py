"""What every part of the cohort page needs: the population, what may be told of it, and who has a page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.privacy.small_counts import CountSuppression
from cmnet_cli.report.data.cohort_table import NOBODY, Population
from cmnet_cli.report.data.strata import Stratification, stratify


@dataclass(frozen=True, slots=True)
class Link:
    """A subject by the name that it has on the page.

    Attributes:
        name: Subject and visit, or the pseudonym.
        page: File of its page; empty where it has none.
        message: What is said of it.
    """

    name: str
    page: str
    message: str = ""


@dataclass(frozen=True, eq=False)
class Showing:
    """A population as a page shows it.

    Attributes:
        population: Everyone.
        deidentifier: What may be told of whom.
        pages: File name of the page of each subject that has one, by the subject's place.
    """

    population: Population
    deidentifier: Deidentifier
    pages: Mapping[int, str]

    @property
    def counting(self) -> CountSuppression:
        """How counts are told."""
        return CountSuppression(self.deidentifier)

    @cached_property
    def by_sex(self) -> Stratification:
        """The sexes that are shown."""
        return stratify(self.population.strata("sex"), self.deidentifier)

    @cached_property
    def by_group(self) -> Stratification:
        """The groups that are shown."""
        return stratify(self.population.strata("group"), self.deidentifier)

    @cached_property
    def compared(self) -> Stratification:
        """What is compared with each other: the groups, or the sexes where there are no two groups."""
        return self.by_group if len(self.by_group.shown) > 1 else self.by_sex

    def links(self, places: Iterable[int]) -> list[Link]:
        """Subjects with their pages."""
        ids = self.population.case_ids
        return [
            Link(self.deidentifier.name(ids[place]), self.pages.get(place, "")) for place in places if place != NOBODY
        ]
