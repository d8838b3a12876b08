"""Every output path of cmnet: of run folders, of report pages and of simulated cohorts.

No other module builds the path of a file that cmnet writes, except for BIDS derivatives, whose names
:mod:`cmnet_cli.runs.bids` has, and temporary files, which :mod:`cmnet_core.io.atomic` and the locks name themselves.
"""

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cmnet_core.errors import ErrorCode, ManifestError


class CohortStage(StrEnum):
    """The stages that array jobs can run."""

    PREPROCESS = "preprocess"
    INFER = "infer"
    INDICES = "indices"


@dataclass(frozen=True, slots=True)
class CaseFolder:
    """The files that a run stores for one subject and visit.

    Attributes:
        folder: The folder that holds the files.
        case_id: ``sub-<id>`` or ``sub-<id>_ses-<n>``, with which the name of every file starts.
    """

    folder: Path
    case_id: str

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self.case_id}_{ending}"

    @property
    def preproc_cine(self) -> Path:
        """The input window of the networks: all frames, normalised and resampled in-plane."""
        return self._file("desc-preproc_cine.nii.gz")

    @property
    def segnet_labels(self) -> Path:
        """The label maps of SegNet for all frames, on the subject's own grid."""
        return self._file("desc-segnet_dseg.nii.gz")

    @property
    def propagated_labels(self) -> Path:
        """The ED label map propagated to all frames by the motion, on the subject's own grid."""
        return self._file("desc-propagated_dseg.nii.gz")

    @property
    def ed2es_motion(self) -> Path:
        """The displacement field fixed at ES and moving at ED, in ITK's convention."""
        return self._file("desc-ed2es_motion.nii.gz")

    @property
    def entropy(self) -> Path:
        """The entropy of the motion's posterior for all frames, in nats."""
        return self._file("desc-motion_entropy.nii.gz")

    @property
    def motion(self) -> Path:
        """The velocity field of every step of the cycle, in a compact format of cmnet."""
        return self._file("motion.npz")

    @property
    def posterior(self) -> Path:
        """The posterior of SegNet at ED and ES and of the motion of every step, in a compact format of cmnet."""
        return self._file("posterior.npz")

    def benchmark_motion(self, method: str) -> Path:
        """The motion between ED and ES in both directions by one method of a benchmark."""
        return self._file(f"desc-benchmark-{method}_motion.npz")

    def sidecar(self, stage: str) -> Path:
        """The record that a stage has finished, written after all other files of the stage."""
        return self.folder / _sidecar_name(self.case_id, stage)

    @property
    def tracking_sidecar(self) -> Path:
        """The sidecar with the facts of the tracking."""
        return self.sidecar("infer")

    @property
    def correction(self) -> "CorrectionFolder":
        """The files of a correction, which take the place of the automatic results once its sidecar is written."""
        return CorrectionFolder(self.folder / "corrected", self.case_id)

    @property
    def current(self) -> "CaseFolder":
        """The results that count: those of a correction that is complete, otherwise the automatic ones."""
        return self.correction if self.correction.tracking_sidecar.exists() else self


@dataclass(frozen=True, slots=True)
class CorrectionFolder(CaseFolder):
    """The files of a correction of one case, in a folder within that of the case."""

    @property
    def preproc_cine(self) -> Path:
        """The input window of the networks, which a correction does not change."""
        return CaseFolder(self.folder.parent, self.case_id).preproc_cine

    @property
    def segnet_labels(self) -> Path:
        """The label maps of all frames: those of edited frames as given, the others corrected accordingly."""
        return self._file("desc-corrected_dseg.nii.gz")

    @property
    def tracking_sidecar(self) -> Path:
        """The sidecar of the correction."""
        return self.sidecar("correct")

    @property
    def edited_labels(self) -> dict[int, Path]:
        """The edited label maps as they were given, by frame."""
        ending = len("_dseg.nii.gz")
        found = sorted(self.folder.glob(f"{self.case_id}_desc-edited_frame-*_dseg.nii.gz"))
        return {int(path.name[:-ending].rpartition("-")[2]): path for path in found}

    def edited(self, frame: int) -> Path:
        """The edited label map of a frame as it was given."""
        return self._file(f"desc-edited_frame-{frame:03d}_dseg.nii.gz")

    @property
    def removed(self) -> Path:
        """The name under which the folder is removed, so that it disappears at once."""
        return self.folder.with_name(".tmp-corrected")


@dataclass(frozen=True, slots=True)
class MaskFolder:
    """The files of ``cmnet export-masks``, which are edited and given to ``cmnet correct``.

    Attributes:
        root: The folder.
    """

    root: Path

    def mask(self, case_id: str, frame: int) -> Path:
        """The label map of a frame."""
        return self.root / case_id / f"{case_id}_frame-{frame:03d}_dseg.nii.gz"

    def image(self, case_id: str, frame: int) -> Path:
        """The image of a frame."""
        return self.root / case_id / f"{case_id}_frame-{frame:03d}_cine.nii.gz"

    @property
    def itksnap_labels(self) -> Path:
        """The label descriptions of ITK-SNAP."""
        return self.root / "labels_itksnap.txt"

    @property
    def slicer_colours(self) -> Path:
        """The colour table of 3D Slicer."""
        return self.root / "labels_slicer.ctbl"


@dataclass(frozen=True, slots=True)
class SubmissionFolder:
    """The files of one submission of array jobs.

    Attributes:
        folder: The folder that holds the files.
        logs: The folder to which SLURM writes the output of the jobs.
        copies: The folder of second copies of its records.
    """

    folder: Path
    logs: Path
    copies: Path

    @property
    def record(self) -> Path:
        """The stage, its settings, and the shards with their digests."""
        return self.folder / "submission.json"

    @property
    def jobs(self) -> Path:
        """The SLURM ids of the submitted jobs."""
        return self.folder / "jobs.json"

    def copy_of(self, record: Path) -> Path:
        """The second copy of one of its two records."""
        return self.copies / record.name

    def script(self, kind: str) -> Path:
        """The batch script of a kind of job: array or merge."""
        return self.folder / f"{kind}.sh"

    def shard(self, number: int) -> Path:
        """The rows of the manifest that one task processes, as they were at submission."""
        return self.folder / "shards" / f"{number:05d}.parquet"

    def reference(self, name: str) -> Path:
        """The reference ranges, frozen under the name of their file."""
        return self.folder / "reference" / name

    def events(self, number: int) -> Path:
        """The starts and ends of the task of a shard, one JSON line each."""
        return self.folder / "events" / f"{number:05d}.jsonl"

    def log(self, kind: str, job: str) -> Path:
        """The output of a job; SLURM replaces its own placeholders in ``job``."""
        return self.logs / f"{self.folder.name}_{kind}_{job}.log"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder.

    Attributes:
        root: The folder that ``--out`` or ``--run`` names.
    """

    root: Path

    def case(self, case_id: str) -> CaseFolder:
        """The folder of one case, in one of 256 subfolders so that no folder has too many entries."""
        return CaseFolder(Path(self._case_folder(case_id)), case_id)

    def is_done(self, case_id: str, stage: str) -> bool:
        """Whether the sidecar of a stage exists; for a whole cohort, text is much faster than a Path per case."""
        return os.path.exists(f"{self._case_folder(case_id)}/{_sidecar_name(case_id, stage)}")

    def _case_folder(self, case_id: str) -> str:
        return f"{self.root}/subjects/{hashlib.sha256(case_id.encode()).hexdigest()[:2]}/{case_id}"

    @property
    def record(self) -> Path:
        """The commands that ran, with their settings, versions and digests."""
        return self.root / "run.json"

    @property
    def description(self) -> Path:
        """The description of the data set that BIDS requires."""
        return self.root / "dataset_description.json"

    @property
    def cohort(self) -> Path:
        """The manifest as it was when the run started."""
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
        """The evaluation as CSV, one line per subject."""
        return self.root / "tables" / "evaluation_subjects.csv"

    @property
    def benchmark_page(self) -> Path:
        """The benchmark as Markdown tables."""
        return self.root / "tables" / "benchmark.md"

    @property
    def benchmark_latex(self) -> Path:
        """The main table of the benchmark in LaTeX."""
        return self.root / "tables" / "benchmark.tex"

    @property
    def benchmark_report(self) -> Path:
        """The benchmark as a page with plots."""
        return self.root / "tables" / "benchmark.html"

    @property
    def comparison_page(self) -> Path:
        """The agreement with another table as Markdown."""
        return self.root / "tables" / "comparison.md"

    @property
    def report(self) -> Path:
        """The cohort page of the report."""
        return self.root / "report" / "index.html"

    @property
    def shared_report(self) -> Path:
        """The cohort page of the report that may be shared outside the institution."""
        return self.root / "share-safe" / "index.html"

    def report_page(self, name: str, *, share_safe: bool = False) -> Path:
        """The report page of one case, named by its id or, in the share-safe report, by its pseudonym."""
        return (self.shared_report if share_safe else self.report).with_name(f"{name}.html")

    @property
    def verdicts(self) -> Path:
        """The verdicts of readers, which the worklist of the report exports."""
        return self.root / "verdicts.csv"

    @property
    def copies(self) -> Path:
        """Second copies of the small files that no command can make again."""
        return self.root / ".copies"

    @property
    def copied(self) -> tuple[Path, ...]:
        """The files that have a second copy."""
        submissions = [self.submission(name) for name in self.submissions]
        records = (record for submission in submissions for record in (submission.record, submission.jobs))
        return (self.cohort, self.record, self.share_key, *records)

    def copy_of(self, file: Path) -> Path:
        """The second copy of a file."""
        return self.copies / file.relative_to(self.root)

    @property
    def share_key(self) -> Path:
        """The secret key from which pseudonyms are derived. It is never part of a share-safe output."""
        return self.root / ".share-key"

    @property
    def outcomes(self) -> Path:
        """The outcome of each attempt at a case, one JSON line each, appended while a command runs."""
        return self.root / "logs" / "outcomes.jsonl"

    def task_outcomes(self, submission: str, shard: int) -> Path:
        """The outcomes of one task of an array job: tasks on several machines cannot append to the same file."""
        return self.root / "logs" / "outcomes" / f"{submission}-{shard:05d}.jsonl"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.root / "logs"

    @property
    def all_outcomes(self) -> tuple[Path, ...]:
        """Every file with outcomes of attempts."""
        return (self.outcomes, *sorted((self.root / "logs" / "outcomes").glob("*.jsonl")))

    @property
    def worker_logs(self) -> Path:
        """The output of Dask workers that run as SLURM jobs, and their marks of subjects that exceed the time limit."""
        return self.root / "logs" / "workers"

    def lock(self, name: str) -> Path:
        """The lock of the run, or of a shard of it, see :mod:`cmnet_cli.runs.run_lock`."""
        return self.root / ".locks" / name

    @property
    def parts(self) -> Path:
        """Rows that are not in the tables yet. Because of the underscore, readers of Parquet data sets ignore them."""
        return self.root / "tables" / "_parts"

    def submission(self, name: str) -> SubmissionFolder:
        """The files of one submission of array jobs."""
        return SubmissionFolder(self.root / "slurm" / name, self.root / "logs" / "slurm", self.copies / "slurm" / name)

    @property
    def submissions(self) -> tuple[str, ...]:
        """The names of all submissions, oldest first."""
        places = (self.root / "slurm", self.copies / "slurm")
        return tuple(sorted({path.parent.name for place in places for path in place.glob("*/submission.json")}))

    def log(self, command: str) -> Path:
        """The text log of one command."""
        return self.root / "logs" / f"{command}.log"

    def traceback(self, name: str, stage: str) -> Path:
        """The traceback of a failed case, named by the pseudonym of the case."""
        return self.root / "logs" / traceback_name(name, stage)

    def weights(self, stage: str) -> Path:
        """The best weights of a training stage."""
        return self.root / "weights" / f"{stage}.safetensors"

    def training_state(self, stage: str) -> Path:
        """The state of weights and optimiser from which a training can be resumed."""
        return self.root / "weights" / f"{stage}_state.safetensors"

    def training_log(self, stage: str) -> Path:
        """The loss and the validation metrics, one row per epoch."""
        return self.root / "logs" / f"train-{stage}.parquet"

    def tensorboard(self, stage: str) -> Path:
        """The log folder of TensorBoard."""
        return self.root / "logs" / "tensorboard" / stage


def _sidecar_name(case_id: str, stage: str) -> str:
    return f"{case_id}_desc-{stage}.json"


def export_path(page: Path, kind: str) -> Path:
    """Return the path of a report page in another format: ``pdf``, ``gif`` or ``mp4``."""
    return page.with_suffix(f".{kind}")


def figure_path(page: Path, name: str, kind: str) -> Path:
    """Return the path of one figure of a report page, as ``svg`` or ``png``."""
    return page.parent / "figures" / f"{page.stem}_{name}.{kind}"


def traceback_name(name: str, stage: str) -> str:
    """Return the file name of a traceback, from the pseudonym of its case."""
    return f"{name}_{stage}.txt"


@dataclass(frozen=True, slots=True)
class SimulatedCaseFolder:
    """The files of one simulated cine and its ground truth.

    Attributes:
        folder: The folder that holds the files.
        case_id: ``sub-<id>`` or ``sub-<id>_ses-<n>``, with which the name of every file starts.
    """

    folder: Path
    case_id: str

    def _file(self, ending: str) -> Path:
        return self.folder / f"{self.case_id}_{ending}"

    @property
    def image(self) -> Path:
        """The cine."""
        return self._file("cine.nii.gz")

    @property
    def labels(self) -> Path:
        """The masks of all frames."""
        return self._file("dseg.nii.gz")

    @property
    def ed2es_motion(self) -> Path:
        """The true displacement field fixed at ES and moving at ED, in ITK's convention."""
        return self._file("desc-ed2es_motion.nii.gz")

    @property
    def es2ed_motion(self) -> Path:
        """The true displacement field fixed at ED and moving at ES, in ITK's convention."""
        return self._file("desc-es2ed_motion.nii.gz")

    @property
    def truth(self) -> Path:
        """The true indices, volumes and strain, written after all other files."""
        return self._file("truth.json")


@dataclass(frozen=True, slots=True)
class RecipeFolder:
    """A folder in which the recipe of the shipped weights is run.

    Attributes:
        root: The folder.
    """

    root: Path

    def network(self, step: str, member: int) -> "RunFolder":
        """The run folder of one network of a step; networks count from 1."""
        return RunFolder(self.root / step / str(member))

    def manifest(self, step: str) -> Path:
        """The manifest of a step."""
        return self.root / "manifests" / f"{step}.csv"

    def phantoms(self, name: str) -> "SimulationFolder":
        """A cohort of phantoms that steps train on."""
        return SimulationFolder(self.root / "phantoms" / name)

    @property
    def record(self) -> Path:
        """The digests of the steps with which the folder was started."""
        return self.root / "recipe.sha256"

    def masks(self, name: str) -> Path:
        """The folder of reference masks that are derived from those of a data set."""
        return self.root / "masks" / name

    def weights(self, name: str) -> Path:
        """The weights of the last step, under the name of their model."""
        return self.root / f"{name}.safetensors"


@dataclass(frozen=True, slots=True)
class BaselineRecipeFolder:
    """A folder in which the methods that cmnet is compared with are trained.

    Attributes:
        root: The folder.
    """

    root: Path

    def run(self, method: str) -> "RunFolder":
        """The run folder of the training of a method."""
        return RunFolder(self.root / method)

    def weights(self, method: str) -> Path:
        """The weights of a method."""
        return self.root / "weights" / f"{method}.safetensors"

    @property
    def manifest(self) -> Path:
        """The manifest of all methods."""
        return self.root / "manifests" / "training.csv"

    @property
    def simulation_source(self) -> Path:
        """The manifest of the cases from which cines are simulated."""
        return self.root / "manifests" / "simulated-from.csv"

    @property
    def simulation(self) -> "SimulationFolder":
        """The simulated cines."""
        return SimulationFolder(self.root / "simulated")

    @property
    def phantoms(self) -> "SimulationFolder":
        """The phantoms."""
        return SimulationFolder(self.root / "phantoms")


@dataclass(frozen=True, slots=True)
class SimulationFolder:
    """A folder of simulated cines with known motion, which ``cmnet phantom`` writes.

    Attributes:
        root: The folder.
    """

    root: Path

    def case(self, case_id: str) -> SimulatedCaseFolder:
        """The folder of one simulated cine."""
        return SimulatedCaseFolder(self.root / case_id, case_id)

    @property
    def manifest(self) -> Path:
        """The manifest of the simulated cines."""
        return self.root / "cohort.csv"

    @property
    def description(self) -> Path:
        """The description of the data set that BIDS requires, with its terms of use."""
        return self.root / "dataset_description.json"

    @property
    def truth_table(self) -> Path:
        """The true indices of all phantoms."""
        return self.root / "truth_indices.csv"


def ground_truth_motion_path(image: Path) -> Path:
    """Return the path of the true motion of a simulated cine, beside its image."""
    return image.with_name(image.name.removesuffix("_cine.nii.gz") + "_desc-truth_motion.npz")


def left_out_table(manifest: Path) -> Path:
    """The table of what ``cmnet manifest`` left out, beside the manifest and in its format."""
    return manifest.with_name(f"{manifest.stem}_left_out{manifest.suffix}")


def require_run(root: Path) -> RunFolder:
    """Return a run folder that ``cmnet infer`` or ``cmnet preprocess`` wrote, without reading its manifest.

    Raises:
        ManifestError: The folder is not a run folder.
    """
    folder = RunFolder(root)
    if not folder.cohort.exists():
        raise ManifestError(
            f"{root} is not a run folder: it holds no {folder.cohort.name}.",
            hint="Give --run the folder that cmnet infer wrote with --out.",
            code=ErrorCode.RUN,
        )
    return folder
