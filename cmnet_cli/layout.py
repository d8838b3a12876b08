"""Every name in a run folder. Nothing else in cmnet builds an output path."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CaseFolder:
    """The files of one subject and visit.

    Attributes:
        folder: The folder that holds them.
        case_id: ``sub-<id>`` or ``sub-<id>_ses-<n>``; every file starts with it.
    """

    folder: Path
    case_id: str

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self.case_id}_{ending}"

    @property
    def preproc_cine(self) -> Path:
        """The network's window: normalised, resampled in-plane, all frames."""
        return self._file("desc-preproc_cine.nii.gz")

    @property
    def segnet_labels(self) -> Path:
        """SegNet's label maps, all frames, on the subject's own grid."""
        return self._file("desc-segnet_dseg.nii.gz")

    @property
    def propagated_labels(self) -> Path:
        """The ED label map carried through the cycle by the motion, on the subject's own grid."""
        return self._file("desc-propagated_dseg.nii.gz")

    @property
    def ed2es_motion(self) -> Path:
        """Motion on the ES grid that points into ED, in ITK's convention."""
        return self._file("desc-ed2es_motion.nii.gz")

    @property
    def entropy(self) -> Path:
        """Entropy of the motion's posterior, all frames, in nats."""
        return self._file("desc-motion_entropy.nii.gz")

    @property
    def motion(self) -> Path:
        """The motion of every step of the cycle, in cmnet's compact form."""
        return self._file("motion.npz")

    @property
    def posterior(self) -> Path:
        """What the networks doubt: SegNet at ED and ES, and the motion of every step, in cmnet's compact form."""
        return self._file("posterior.npz")

    def sidecar(self, stage: str) -> Path:
        """The proof that a stage is done, written after all of its other files."""
        return self._file(f"desc-{stage}.json")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder, as the documentation draws it.

    Attributes:
        root: The folder that ``--out`` or ``--run`` names.
    """

    root: Path

    def case(self, case_id: str) -> CaseFolder:
        """The folder of one case, in one of 256 shards so that no folder grows too long."""
        shard = hashlib.sha256(case_id.encode()).hexdigest()[:2]
        return CaseFolder(self.root / "subjects" / shard / case_id, case_id)

    @property
    def record(self) -> Path:
        """What ran, with which versions and digests."""
        return self.root / "run.json"

    @property
    def description(self) -> Path:
        """The data set's description, as BIDS asks for it."""
        return self.root / "dataset_description.json"

    @property
    def cohort(self) -> Path:
        """The manifest as it was when the run began."""
        return self.root / "cohort.parquet"

    def table(self, name: str) -> Path:
        """One of the Parquet tables: indices, frames, motion, status, evaluation or agreement."""
        return self.root / "tables" / f"{name}.parquet"

    @property
    def data_dictionary(self) -> Path:
        """Unit, formula and source of every column of every table."""
        return self.root / "tables" / "data_dictionary.json"

    @property
    def evaluation_page(self) -> Path:
        """The evaluation as Markdown tables."""
        return self.root / "tables" / "evaluation.md"

    @property
    def comparison_page(self) -> Path:
        """The agreement with an outside table as Markdown."""
        return self.root / "tables" / "comparison.md"

    @property
    def report(self) -> Path:
        """The cohort page of the report."""
        return self.root / "report" / "index.html"

    def report_page(self, case_id: str) -> Path:
        """The report page of one case."""
        return self.root / "report" / f"{case_id}.html"

    @property
    def outcomes(self) -> Path:
        """One JSON line for each attempt at a case, appended while a command runs."""
        return self.root / "logs" / "outcomes.jsonl"

    def log(self, command: str) -> Path:
        """Plain lines of one command."""
        return self.root / "logs" / f"{command}.log"

    def traceback(self, case_id: str, stage: str) -> Path:
        """Where a failed case's traceback is kept."""
        return self.root / "logs" / f"{case_id}_{stage}.txt"

    def weights(self, stage: str) -> Path:
        """The best weights of a training run."""
        return self.root / "weights" / f"{stage}.safetensors"

    def training_state(self, stage: str) -> Path:
        """Weights and optimiser after the last whole epoch, for a resume."""
        return self.root / "weights" / f"{stage}_state.safetensors"
