"""The options of the command line, each declared once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.completion import complete_method, complete_methods, complete_model, complete_run
from cmnet_cli.config import Protocol, SaveMotion, SimulatedMotion
from cmnet_cli.help_page import EXECUTION, MESSAGES, SUBJECTS
from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
from cmnet_cli.runs.provenance import OnStale
from cmnet_core.labels import LabelScheme
from cmnet_core.training.stages import TrainingStage

DEFAULT_RUN = Path("cmnet-run")


def _option(*names: str, metavar: str, text: str, panel: str | None = None, **more: Any) -> Any:
    """Declare an option that takes a value."""
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, **more)


def _flag(*names: str, text: str, panel: str | None = None) -> Any:
    """Declare an option without a value."""
    return typer.Option(*names, help=text, rich_help_panel=panel)


# Input and output.

ManifestFile = Annotated[
    Path,
    _option(
        "--manifest",
        "-m",
        metavar="FILE",
        text="Manifest of the cohort (CSV, TSV or Parquet) with one row per subject and visit.",
    ),
]
ReferenceManifest = Annotated[
    Path | None,
    _option(
        "--manifest",
        "-m",
        metavar="FILE",
        text="Manifest that names the reference masks.",
        show_default="the manifest of the run",
    ),
]
NewManifest = Annotated[
    Path, _option("--out", "-o", metavar="FILE", text="Manifest to write (.csv, .tsv or .parquet).")
]
OutFolder = Annotated[Path, _option("--out", "-o", metavar="FOLDER", text="Run folder to write the results to.")]
RunPath = Annotated[
    Path,
    _option("--run", "-r", metavar="FOLDER", text="Run folder that cmnet infer wrote.", autocompletion=complete_run),
]
NewFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.")]
Repair = Annotated[
    bool,
    _flag("--repair", text="Make damaged files again: from copies, from the images or from stored results."),
]
DiskFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder on the disk whose free space is printed.", exists=True)
]
ConfigFile = Annotated[
    Path | None, _option("--config", metavar="FILE", text="Settings in a TOML file. An unknown key is an error.")
]
IndicesConfigFile = Annotated[
    Path | None,
    _option(
        "--indices-config",
        metavar="FILE",
        text="For the stage infer: settings of indices in a TOML file, for the tables that its tasks write.",
    ),
]

# Data sets on disk.

DatasetFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that holds the data set.")]
LayoutOption = Annotated[
    DatasetLayout, typer.Option(help="Layout of the data set; auto detects it from the names of the files.")
]
Demographics = Annotated[
    Path | None,
    _option(
        "--demographics",
        metavar="FILE",
        text="Table with sex, age, height and weight of the subjects; columns of UK Biobank are recognised.",
    ),
]
ImagePattern = Annotated[
    str,
    _option(
        "--pattern",
        metavar="TEXT",
        text="With --layout nifti: path of each image within FOLDER; * stands for any text without a slash.",
    ),
]
MaskPattern = Annotated[
    str | None,
    _option("--labels", metavar="TEXT", text="With --layout nifti: path of each 4-D reference mask within FOLDER."),
]
MaskScheme = Annotated[LabelScheme, typer.Option(help="With --layout nifti: label convention of the reference masks.")]
Deep = Annotated[
    bool, _flag("--deep", text="Also decode every voxel: finds damaged files and images of questionable quality.")
]
OutsideTable = Annotated[
    Path,
    _option("--against", metavar="FILE", text="Table to compare with (CSV, TSV or Parquet) with one row per subject."),
]
SubjectColumn = Annotated[
    str, _option("--on", metavar="COLUMN", text="Column of that table that holds the subject_id of the manifest.")
]

VerdictsFile = Annotated[
    Path | None,
    _option(
        "--verdicts",
        metavar="FILE",
        text="Verdicts of readers that the worklist exported; they are kept in the run.",
        show_default="verdicts.csv of the run",
    ),
]

DicomStudy = Annotated[
    str | None,
    _option(
        "--study",
        metavar="DIGEST|UID",
        text="Of DICOM files of several persons or studies, the one to read: the digest of the patient or the end of "
        "the StudyInstanceUID, as the error lists them.",
        panel=SUBJECTS,
        show_default="the column dicom_study",
    ),
]
FollowLinks = Annotated[
    bool,
    _flag("--follow-links", text="Follow links that lead out of a folder of DICOM files or of a data set."),
]
LabelMap = Annotated[
    str | None,
    _option(
        "--label-map",
        metavar="MAP",
        text="Values of the reference masks and their tissues, such as 500=1,200=2,600=3: 0 background, 1 LV, "
        "2 myocardium, 3 RV.",
        show_default="the column label_map",
    ),
]

# Networks and motion.

ModelName = Annotated[
    str | None,
    _option(
        "--model",
        metavar="NAME|FILE",
        text="Shipped model, or path of a .safetensors file.",
        show_default="default",
        autocompletion=complete_model,
    ),
]
MethodName = Annotated[
    str | None,
    _option(
        "--method",
        metavar="NAME",
        text="Method that estimates the motion, such as syn: docs/benchmark.md lists them.",
        show_default="cardiomorphnet",
        autocompletion=complete_method,
    ),
]
MethodNames = Annotated[
    str | None,
    _option(
        "--methods",
        metavar="NAME,NAME",
        text="Methods to compare, separated by commas: docs/benchmark.md lists them.",
        show_default="all, and 'truth' where it is known",
        autocompletion=complete_methods,
    ),
]
ExcludedMethods = Annotated[
    str | None,
    _option(
        "--exclude",
        metavar="NAME,NAME",
        text="Methods to leave out, such as the slowest: syn.",
        autocompletion=complete_methods,
    ),
]
ProtocolName = Annotated[
    Protocol,
    typer.Option(
        help="native: the subject's own grid. acdc: that of published ACDC tables, 1.8 x 1.8 x 10 mm, nearest labels.",
    ),
]
KnownModel = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Shipped model, or path of a .safetensors file.", autocompletion=complete_model
    ),
]
Device = Annotated[
    str,
    _option(
        "--device",
        metavar="NAME",
        text="Device of the networks: auto (a GPU if there is one), cpu, cuda or cuda:1.",
        panel=EXECUTION,
    ),
]
KeepMotion = Annotated[
    SaveMotion | None,
    typer.Option(
        help="Motion to store: full (every frame), ed2es (displacement field between ED and ES) or none.",
        show_default="full",
    ),
]
# Indices.

ReferenceRanges = Annotated[
    Path | None,
    _option("--reference", metavar="FILE", text="Reference ranges by sex (CSV).", show_default="Petersen 2017"),
]
Samples = Annotated[
    int | None,
    _option(
        "--samples",
        metavar="N",
        text="Posterior samples for the 95 % intervals; 0 for no intervals.",
        min=0,
        show_default="50",
    ),
]
DrawSeed = Annotated[
    int | None,
    _option("--seed", metavar="N", text="Random seed of the posterior samples.", show_default="1"),
]
CalibrationFile = Annotated[
    Path | None,
    _option(
        "--calibration",
        metavar="FILE",
        text="Calibration of the intervals that cmnet calibrate wrote.",
        show_default="that of the weights",
    ),
]
NewCalibration = Annotated[Path, _option("--out", "-o", metavar="FILE", text="Calibration to write.")]
Population = Annotated[
    str | None,
    _option(
        "--population",
        metavar="TEXT",
        text="The subjects in words, for the card: study, scanners, readers.",
        show_default="the name of the manifest",
    ),
]
Experimental = Annotated[
    bool | None,
    _flag(
        "--experimental",
        text="Also compute the table experimental: longitudinal strain from short-axis slices, which is not reliable.",
    ),
]

# Simulation.

Subjects = Annotated[int, _option("--subjects", metavar="N", text="Number of phantoms.", min=1)]
Frames = Annotated[int, _option("--frames", metavar="N", text="Number of frames per cardiac cycle.", min=2)]
Seed = Annotated[int, _option("--seed", metavar="N", text="Random seed; the same seed gives the same cines.")]
DefectFraction = Annotated[
    float,
    _option(
        "--defect-fraction",
        metavar="FRACTION",
        text="Fraction of the phantoms in which one segment has reduced motion.",
        min=0,
        max=1,
    ),
]
SourceManifest = Annotated[
    Path | None,
    _option("--from", metavar="FILE", text="Manifest with reference masks: simulate cines of its subjects instead."),
]
Variants = Annotated[
    int,
    _option(
        "--variants", metavar="K", text="With --from: cines per subject, each with another torsion and noise.", min=1
    ),
]
MotionClass = Annotated[
    SimulatedMotion,
    _option(
        "--motion",
        metavar="CLASS",
        text="With --from: velocity warps the ED mask onto that of ES by a stationary velocity; cylinder contracts the "
        "heart around its long axis in closed form, with new noise in every frame.",
    ),
]

# Training.

StageOption = Annotated[
    TrainingStage | None,
    typer.Option(
        help="What to train: SegNet first; then CardioMorphNet (motion), or the shape motion network by "
        "through-plane, rotation, shape-motion and motion-posterior."
    ),
]
TrainedMethod = Annotated[
    str | None,
    _option(
        "--method",
        metavar="NAME",
        text="Train a method that cmnet is compared with, in place of --stage: docs/benchmark.md lists them.",
        autocompletion=complete_method,
    ),
]
TrainSettings = Annotated[
    str | None,
    _option(
        "--config",
        metavar="NAME|FILE",
        text="Settings: default (those of cmnet), paper (those of the article) or a TOML file. "
        "An unknown key is an error.",
        show_default="default",
    ),
]
InitWeights = Annotated[
    str | None,
    _option(
        "--init",
        metavar="NAME|FILE",
        text="Weights to start from.",
        show_default="none for segnet; otherwise the weights of the preceding stage in --out",
    ),
]
TeacherWeights = Annotated[
    list[str] | None,
    _option(
        "--teacher",
        metavar="NAME|FILE",
        text="With --stage segnet: weights whose SegNet's probabilities are targets beside the masks; several are "
        "averaged (repeatable).",
        show_default="none",
    ),
]
FreshMotion = Annotated[
    bool,
    _flag(
        "--fresh-motion",
        text="With --stage motion: take only SegNet from --init and train the motion network from random weights.",
    ),
]
Resume = Annotated[
    bool,
    _flag(
        "--resume",
        text="Continue the interrupted training in --out; the weights become those of an uninterrupted training.",
    ),
]
TensorBoard = Annotated[
    bool, _flag("--tensorboard", text="Also log the metrics for TensorBoard; needs the package tensorboard.")
]

# Corrections.

MasksToEdit = Annotated[Path, _option("--out", "-o", metavar="FOLDER", text="Folder to write the masks to.")]
BidsDerivatives = Annotated[Path, _option("--out", "-o", metavar="FOLDER", text="Folder to write the data set to.")]
AllFrames = Annotated[bool, _flag("--all-frames", text="Export every frame; by default, ED and ES.")]
ReplaceEdited = Annotated[
    bool, _flag("--force", text="Also replace masks in the folder that were edited.", panel=EXECUTION)
]
EditedMasks = Annotated[
    Path | None,
    _option(
        "--masks",
        metavar="FOLDER",
        text="Folder of edited masks, named as cmnet export-masks names them.",
        show_default="none: interrupted or outdated corrections are completed",
    ),
]
Undo = Annotated[
    list[str] | None,
    _option("--undo", metavar="ID", text="Take the correction of this subject back (repeatable)."),
]

# Reports.

PagesOf = Annotated[
    list[str] | None,
    _option(
        "--pages",
        metavar="all|flagged|none|ID",
        text="Subjects that get a page of their own: all, those with quality flags, none, or one subject (repeatable).",
        show_default="all; in a large cohort, the first of the worklist",
    ),
]
ShareSafe = Annotated[
    bool,
    _flag(
        "--share-safe",
        text="Write a report without ids, paths, host names and groups of fewer than 11, to RUN/share-safe.",
    ),
]
Terminal = Annotated[bool, _flag("--terminal", text="Print a summary to the terminal instead of writing pages.")]
Figures = Annotated[
    FigureFormat | None,
    _option("--figures", metavar="svg|png", text="Also save the figures of each subject as files; png needs Chromium."),
]
Animation = Annotated[
    AnimationFormat | None,
    _option("--animation", metavar="gif|mp4", text="Also save the animated cine of each subject; mp4 needs ffmpeg."),
]
Pdf = Annotated[bool, _flag("--pdf", text="Also save each page as PDF; needs Chromium.")]

# Subjects.

ParticipantLabel = Annotated[
    list[str] | None,
    _option(
        "--participant-label",
        metavar="ID",
        text="Process only this subject, given with or without 'sub-' (repeatable).",
        panel=SUBJECTS,
    ),
]
Pilot = Annotated[
    int | None,
    _option(
        "--pilot",
        metavar="N",
        text="Process only the first N subjects, as a test of the set-up.",
        panel=SUBJECTS,
        min=1,
    ),
]

# Execution.

Workers = Annotated[
    int,
    _option(
        "--workers",
        metavar="N",
        text="Number of worker processes; 0 processes all subjects in the main process.",
        panel=EXECUTION,
        min=0,
    ),
]
EngineName = Annotated[
    str,
    _option(
        "--engine",
        metavar="NAME",
        text="Where workers run: local, slurm, or the address or scheduler file of a running Dask cluster.",
        panel=EXECUTION,
    ),
]
MemoryLimit = Annotated[
    str | None,
    _option(
        "--memory-limit",
        metavar="SIZE",
        text="Memory limit per worker, such as 8GB.",
        panel=EXECUTION,
        show_default="equal parts of the memory",
    ),
]
SubjectTimeout = Annotated[
    float | None,
    _option(
        "--subject-timeout",
        metavar="SECONDS",
        text="Stop processing a subject after this time and count it as failed; 0 for no limit.",
        panel=EXECUTION,
        min=0,
        show_default="an hour and a minute per MB of its image",
    ),
]
SbatchOptions = Annotated[
    list[str] | None,
    _option(
        "--sbatch",
        metavar="OPTION",
        text="With --engine slurm: option for sbatch, such as --sbatch=--time=02:00:00 (repeatable).",
        panel=EXECUTION,
    ),
]
TaskWorkers = Annotated[
    int, _option("--workers", metavar="N", text="Number of worker processes per task.", panel=EXECUTION, min=1)
]
Chunk = Annotated[int, _option("--chunk", metavar="N", text="Number of subjects per task.", panel=EXECUTION, min=1)]
MaxParallel = Annotated[
    int | None,
    _option(
        "--max-parallel",
        metavar="N",
        text="Maximum number of tasks that run at the same time.",
        panel=EXECUTION,
        show_default="no limit",
        min=1,
    ),
]
WhenStale = Annotated[
    OnStale,
    typer.Option(
        help="Subjects whose results were computed with other inputs, settings or weights: rerun or skip them, or stop "
        "with an error.",
        rich_help_panel=EXECUTION,
    ),
]
Force = Annotated[bool, _flag("--force", text="Also process subjects whose results are up to date.", panel=EXECUTION)]
GroupReadable = Annotated[
    bool,
    _flag(
        "--group-readable",
        text="Let the group of the run folder read it; by default, only you can.",
        panel=EXECUTION,
    ),
]
DryRun = Annotated[
    bool, _flag("--dry-run", text="List what would be processed, without processing it.", panel=EXECUTION)
]
SubmissionName = Annotated[str, _option("--submission", metavar="NAME", text="Submission that the task belongs to.")]
ShardNumber = Annotated[
    int, _option("--shard", metavar="N", text="Shard of the submission that the task processes.", min=0)
]

# Messages.

AsJson = Annotated[bool, _flag("--json", text="Print the result as JSON.", panel=MESSAGES)]
Quiet = Annotated[bool, _flag("--quiet", "-q", text="Print errors only.", panel=MESSAGES)]
Verbose = Annotated[
    bool, _flag("--verbose", "-v", text="Print a line per subject, and the tracebacks of errors.", panel=MESSAGES)
]
ShareSafeMessages = Annotated[
    bool,
    _flag("--share-safe", text="Replace ids, paths and host names in what is printed.", panel=MESSAGES),
]
