"""Names of the files in a folder of BIDS derivatives, which ``cmnet export-bids`` writes.

BIDS is the Brain Imaging Data Structure (https://bids-specification.readthedocs.io). Its labels have letters and digits
only, so that an id such as ``A-12`` becomes ``A12``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.case import Case


@dataclass(frozen=True, slots=True)
class BidsCase:
    """The files of one subject and visit.

    Attributes:
        root: The folder of all derivatives.
        subject: Label of the subject.
        session: Label of the visit, or None.
    """

    root: Path
    subject: str
    session: str | None

    @property
    def name(self) -> str:
        """The entities with which the name of every file starts."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    def file(self, ending: str) -> Path:
        """A file of the subject among the anatomical ones, to which short-axis images are closest."""
        return self.root.joinpath(*self.name.split("_"), "anat", f"{self.name}_{ending}")


@dataclass(frozen=True, slots=True)
class BidsFolder:
    """A folder of BIDS derivatives.

    Attributes:
        root: The folder.
    """

    root: Path

    def case(self, case: Case) -> BidsCase:
        """The files of a case."""
        return BidsCase(self.root, _label(case.subject_id), _label(case.session) if case.session else None)

    @property
    def description(self) -> Path:
        """The description of the data set."""
        return self.root / "dataset_description.json"

    @property
    def readme(self) -> Path:
        """What the files are."""
        return self.root / "README"

    @property
    def ignored(self) -> Path:
        """Files for which BIDS has no names yet."""
        return self.root / ".bidsignore"

    @property
    def label_table(self) -> Path:
        """The names of the labels in all label maps."""
        return self.root / "dseg.tsv"

    @property
    def indices(self) -> Path:
        """The indices of all exported cases."""
        return self.root / "phenotype" / "indices.tsv"

    @property
    def index_descriptions(self) -> Path:
        """Meaning and unit of every index."""
        return self.indices.with_suffix(".json")


def _label(identifier: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", identifier)
