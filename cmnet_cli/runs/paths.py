"""Every name in a run folder. Nothing else in cmnet builds an output path."""

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cmnet_core.errors import ErrorCode, ManifestError


class CohortStage(StrEnum):
    """What array jobs can do."""

    PREPROCESS = "preprocess"
    INFER = "infer"
    INDICES = "indices"


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
        return self.folder / _sidecar_name(self.case_id, stage)


@dataclass(frozen=True, slots=True)
class SubmissionFolder:
    """The files of one submission of array jobs.

    Attributes:
        folder: The folder that holds them.
        logs: Where SLURM writes what the jobs print.
    """

    folder: Path
    logs: Path

    @property
    def record(self) -> Path:
        """What is to be done, and the shards with their digests."""
        return self.folder / "submission.json"

    @property
    def jobs(self) -> Path:
        """The jobs that were submitted, by their ids."""
        return self.folder / "jobs.json"

    def script(self, kind: str) -> Path:
        """What a job of a kind does: array or merge."""
        return self.folder / f"{kind}.sh"

    def shard(self, number: int) -> Path:
        """Some rows of the manifest, frozen."""
        return self.folder / "shards" / f"{number:05d}.parquet"

    def reference(self, name: str) -> Path:
        """The reference ranges, frozen under the name of their file."""
        return self.folder / "reference" / name

    def events(self, number: int) -> Path:
        """When the task of a shard began and ended, one JSON line each."""
        return self.folder / "events" / f"{number:05d}.jsonl"

    def log(self, kind: str, job: str) -> Path:
        """What a job printed; SLURM fills its own placeholders in."""
        return self.logs / f"{self.folder.name}_{kind}_{job}.log"


def _sidecar_name(case_id: str, stage: str) -> str:
    return f"{case_id}_desc-{stage}.json"


def _shard_of(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()[:2]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder, as the documentation draws it.

    Attributes:
        root: The folder that ``--out`` or ``--run`` names.
    """

    root: Path

    def case(self, case_id: str) -> CaseFolder:
        """The folder of one case, in one of 256 shards so that no folder grows too long."""
        return CaseFolder(self.root.joinpath("subjects", _shard_of(case_id), case_id), case_id)

    def is_done(self, case_id: str, stage: str) -> bool:
        """Whether the sidecar of a stage is there: asked of a whole cohort, so without the cost of a Path."""
        name = _sidecar_name(case_id, stage)
        return os.path.exists(f"{self.root}/subjects/{_shard_of(case_id)}/{case_id}/{name}")

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
    def evaluation_lines(self) -> Path:
        """The evaluation as CSV, one line a subject."""
        return self.root / "tables" / "evaluation_subjects.csv"

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
    def share_key(self) -> Path:
        """What the pseudonyms of logs and share-safe outputs are derived from: it stays here."""
        return self.root / ".share-key"

    @property
    def shared_report(self) -> Path:
        """The cohort page of the report that may leave the room."""
        return self.root / "share-safe" / "index.html"

    def shared_page(self, name: str) -> Path:
        """The page there of one case, by its pseudonym."""
        return self.root / "share-safe" / f"{name}.html"

    @property
    def outcomes(self) -> Path:
        """One JSON line for each attempt at a case, appended while a command runs."""
        return self.root / "logs" / "outcomes.jsonl"

    def task_outcomes(self, submission: str, shard: int) -> Path:
        """The same for one task of an array job: machines that append to one file overwrite each other's lines."""
        return self.root / "logs" / "outcomes" / f"{submission}-{shard:05d}.jsonl"

    @property
    def all_outcomes(self) -> tuple[Path, ...]:
        """Every file of attempts."""
        return (self.outcomes, *sorted((self.root / "logs" / "outcomes").glob("*.jsonl")))

    @property
    def worker_logs(self) -> Path:
        """What Dask's workers print as SLURM jobs, and the word that one leaves whose subject takes too long."""
        return self.root / "logs" / "workers"

    def lock(self, name: str) -> Path:
        """The lock of the run, or of a shard of it, see :mod:`cmnet_cli.runs.run_lock`."""
        return self.root / ".locks" / name

    @property
    def parts(self) -> Path:
        """Rows that are not in the tables yet. The underscore hides them from who reads the folder as a data set."""
        return self.root / "tables" / "_parts"

    def submission(self, name: str) -> SubmissionFolder:
        """The files of one submission of array jobs."""
        return SubmissionFolder(self.root / "slurm" / name, self.root / "logs" / "slurm")

    @property
    def submissions(self) -> tuple[str, ...]:
        """Names of all submissions, oldest first."""
        return tuple(sorted(path.parent.name for path in (self.root / "slurm").glob("*/submission.json")))

    def log(self, command: str) -> Path:
        """Plain lines of one command."""
        return self.root / "logs" / f"{command}.log"

    def traceback(self, name: str, stage: str) -> Path:
        """Where a failed case's traceback is kept, by its pseudonym."""
        return self.root / "logs" / traceback_name(name, stage)

    def weights(self, stage: str) -> Path:
        """The best weights of a training run."""
        return self.root / "weights" / f"{stage}.safetensors"

    def training_state(self, stage: str) -> Path:
        """Weights and optimiser as they were last saved, for a resume."""
        return self.root / "weights" / f"{stage}_state.safetensors"

    def training_log(self, stage: str) -> Path:
        """Loss and validation figures, one row an epoch."""
        return self.root / "logs" / f"train-{stage}.parquet"

    def tensorboard(self, stage: str) -> Path:
        """What TensorBoard reads, where it was asked for."""
        return self.root / "logs" / "tensorboard" / stage


def export_path(page: Path, kind: str) -> Path:
    """What is made of a page of the report: ``pdf``, ``gif`` or ``mp4``."""
    return page.with_suffix(f".{kind}")


def figure_path(page: Path, name: str, kind: str) -> Path:
    """A figure of a page as a file of its own, ``svg`` or ``png``."""
    return page.parent / "figures" / f"{page.stem}_{name}.{kind}"


def traceback_name(name: str, stage: str) -> str:
    """What the file of a traceback is called, after the pseudonym of its case."""
    return f"{name}_{stage}.txt"


def require_run(root: Path) -> RunFolder:
    """A run folder that infer or preprocess made, without reading its cohort.

    Raises:
        ManifestError: There is none.
    """
    folder = RunFolder(root)
    if not folder.cohort.exists():
        raise ManifestError(
            f"{root} is not a run folder: it holds no {folder.cohort.name}.",
            hint="Give --run the folder that cmnet infer wrote with --out.",
            code=ErrorCode.RUN,
        )
    return folder
