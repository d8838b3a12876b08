"""Options that several commands share, each written once, and the way they are put into a command's signature."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cmnet_cli.config import SaveMotion
from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
from cmnet_cli.runs.provenance import OnStale

_WHO = "Which subjects"
_HOW = "How to run"
_SAY = "What is shown"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
DEFAULT_RUN = Path("cmnet-run")


def _option(*names: str, shown: str, text: str, panel: str | None = None, **more: Any) -> Any:
    """An option with a value, which the help shows as ``shown``."""
    return typer.Option(*names, metavar=shown, help=text, rich_help_panel=panel, **more)


def _flag(*names: str, text: str, panel: str | None = None) -> Any:
    """An option without a value; left alone, Typer would show it as if it took one."""
    return typer.Option(*names, metavar=" ", help=text, rich_help_panel=panel)


ManifestFile = Annotated[
    Path, _option("--manifest", "-m", shown="FILE", text="Manifest: CSV, TSV or Parquet, one row a subject and visit.")
]
ReferenceManifest = Annotated[
    Path | None, _option("--manifest", "-m", shown="FILE", text="Manifest with reference masks, if not the run's own.")
]
ReferenceRanges = Annotated[
    Path | None,
    _option("--reference", shown="FILE", text="Reference ranges by sex, in CSV.", show_default="Petersen 2017"),
]
Samples = Annotated[
    int | None,
    _option("--samples", shown="N", text="Draws behind the 95 % intervals; 0 for none.", min=0, show_default="20"),
]
DrawSeed = Annotated[int | None, _option("--seed", shown="N", text="What the draws start from.", show_default="1")]
NewManifest = Annotated[Path, _option("--out", "-o", shown="FILE", text="The manifest to write: CSV, TSV or Parquet.")]
OutFolder = Annotated[Path, _option("--out", "-o", shown="FOLDER", text="Run folder to write to.")]
NewFolder = Annotated[Path, typer.Argument(help="Folder to write to.")]
RunPath = Annotated[Path, _option("--run", "-r", shown="FOLDER", text="Run folder, as infer wrote it.")]
ModelName = Annotated[
    str | None,
    _option("--model", shown="NAME|FILE", text="A shipped model, or a .safetensors file.", show_default="default"),
]
InitWeights = Annotated[
    str | None,
    _option("--init", shown="NAME|FILE", text="Weights to start from.", show_default="for motion: the run's SegNet"),
]
Device = Annotated[str, _option("--device", shown="NAME", text="auto, cpu, cuda or cuda:1.", panel=_HOW)]
ConfigFile = Annotated[
    Path | None, _option("--config", shown="FILE", text="Settings in TOML; an unknown key is an error.", panel=_HOW)
]
IndicesConfigFile = Annotated[
    Path | None,
    _option(
        "--indices-config",
        shown="FILE",
        text="infer: settings of indices in TOML, for the rows that its tasks write.",
        panel=_HOW,
    ),
]
TrainSettings = Annotated[
    str | None,
    _option(
        "--config",
        shown="NAME|FILE",
        text="Settings: 'default' (cmnet's own), 'paper' (the article's), or a TOML file; an unknown key is an error.",
        panel=_HOW,
        show_default="default",
    ),
]
Workers = Annotated[
    int, _option("--workers", shown="N", text="Processes to start; 0 works in this one.", panel=_HOW, min=0)
]
EngineName = Annotated[
    str,
    _option(
        "--engine",
        shown="NAME",
        text="local, slurm, or the address or scheduler file of a running Dask cluster.",
        panel=_HOW,
    ),
]
MemoryLimit = Annotated[
    str | None,
    _option("--memory-limit", shown="SIZE", text="Of a worker, such as 8GB.", panel=_HOW, show_default="its share"),
]
SubjectTimeout = Annotated[
    float | None,
    _option("--subject-timeout", shown="SECONDS", text="Give a subject up after this time.", panel=_HOW, min=1),
]
SbatchOptions = Annotated[
    list[str] | None,
    _option("--sbatch", shown="OPTION", text="For --engine slurm, such as --sbatch=--time=02:00:00.", panel=_HOW),
]
TaskWorkers = Annotated[int, _option("--workers", shown="N", text="Processes a task.", panel=_HOW, min=1)]
Chunk = Annotated[int, _option("--chunk", shown="N", text="Subjects a task.", min=1)]
MaxParallel = Annotated[
    int | None, _option("--max-parallel", shown="N", text="Tasks that may run at once.", show_default="no limit", min=1)
]
Subjects = Annotated[int, _option("--subjects", shown="N", text="How many hearts.", min=1)]
Frames = Annotated[int, _option("--frames", shown="N", text="Frames in each cycle.", min=2)]
Seed = Annotated[int, _option("--seed", shown="N", text="What all chance starts from.")]
DefectFraction = Annotated[
    float, _option("--defect-share", shown="SHARE", text="Of hearts with a segment that moves less.", min=0, max=1)
]
SourceManifest = Annotated[
    Path | None,
    _option("--from", shown="FILE", text="Make cines from the real hearts of this manifest, by their masks."),
]
Variants = Annotated[
    int, _option("--variants", shown="K", text="With --from: cines of each heart, with other twists and noise.", min=1)
]
ParticipantLabel = Annotated[
    list[str] | None,
    _option(
        "--participant-label",
        shown="ID",
        text="Only this subject, with or without 'sub-'; may be repeated.",
        panel=_WHO,
    ),
]
Pilot = Annotated[
    int | None,
    _option("--pilot", shown="N", text="Only the first N subjects, to see whether all is well.", panel=_WHO, min=1),
]
DryRun = Annotated[bool, _flag("--dry-run", text="Say what would be done, and do nothing.", panel=_HOW)]
Force = Annotated[bool, _flag("--force", text="Do again what is done.", panel=_HOW)]
Deep = Annotated[bool, _flag("--deep", text="Decode every voxel too: finds damage within files, and doubtful images.")]
Resume = Annotated[
    bool, _flag("--resume", text="Go on where the training in --out stopped, to the same weights as without a stop.")
]
FreshMotion = Annotated[bool, _flag("--fresh-motion", text="motion: take SegNet alone from --init; learn motion anew.")]
TensorBoard = Annotated[
    bool, _flag("--tensorboard", text="Write figures for TensorBoard too; it needs the package tensorboard.")
]
WithoutNames = Annotated[
    bool,
    _flag("--share-safe", text="Print no ids, paths and hosts, so that it may be shared.", panel=_SAY),
]
PagesOf = Annotated[
    list[str] | None,
    _option(
        "--pages",
        shown="WHO",
        text="Who gets a page: all, flagged, none, or an id; may be repeated.",
        show_default="all, or in a large cohort the flagged",
    ),
]
ShareSafe = Annotated[
    bool, _flag("--share-safe", text="A report without ids, paths, hosts and small groups, in RUN/share-safe.")
]


Figures = Annotated[
    FigureFormat | None,
    _option("--figures", shown="svg|png", text="Each figure of a subject's page as a file too; png needs Chromium."),
]
Animation = Annotated[
    AnimationFormat | None,
    _option("--animation", shown="gif|mp4", text="The beating heart as a file too; mp4 needs ffmpeg."),
]
Pdf = Annotated[bool, _flag("--pdf", text="Each page as PDF too; needs Chromium.")]
Terminal = Annotated[bool, _flag("--terminal", text="Print a summary here and write no pages.")]
AsJson = Annotated[bool, _flag("--json", text="The result as JSON.", panel=_SAY)]
Quiet = Annotated[bool, _flag("--quiet", "-q", text="Errors only.", panel=_SAY)]
Verbose = Annotated[bool, _flag("--verbose", "-v", text="A line a subject, and tracebacks.", panel=_SAY)]


KeepMotion = Annotated[SaveMotion | None, typer.Option(help="How much of the motion to keep.", show_default="full")]

RefineSteps = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Fit the motion of each frame to the subject's own shapes by N iterations; 0: not at all.",
    ),
]

CloseCycle = Annotated[
    bool | None,
    typer.Option(
        "--close/--no-close",
        help="Spread the drift round the cycle over its steps, where the model has steps that can drift.",
    ),
]


WhenStale = Annotated[
    OnStale, typer.Option(help="Outputs made from other inputs, settings or weights.", rich_help_panel=_HOW)
]


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which subjects of the cohort to work on."""

    participant_label: ParticipantLabel = None
    pilot: Pilot = None


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How a stage goes over the cohort."""

    workers: Workers = 0
    force: Force = False
    on_stale: WhenStale = OnStale.RERUN
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class RecomputeOptions:
    """How a stage goes over the cohort that is quick enough to be done again each time."""

    workers: Workers = 0
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the subjects run on, and what one of them may take."""

    engine: EngineName = "local"
    memory_limit: MemoryLimit = None
    subject_timeout: SubjectTimeout = None
    sbatch: SbatchOptions = None


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How a cohort is cut into tasks, and what each of them may take."""

    chunk: Chunk = 200
    max_parallel: MaxParallel = None
    workers: TaskWorkers = 1
    on_stale: WhenStale = OnStale.RERUN
    memory_limit: MemoryLimit = None
    subject_timeout: SubjectTimeout = None
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class VerbosityOptions:
    """What a command prints on the way."""

    quiet: Quiet = False
    verbose: Verbose = False


@dataclass(frozen=True, slots=True)
class PrivacyOptions(VerbosityOptions):
    """What a command prints, and whether that may leave the room."""

    share_safe: WithoutNames = False


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take option groups: each field of a dataclass argument becomes an option of its own.

    Args:
        command: A function some of whose arguments are annotated with dataclasses of options.

    Returns:
        A function that Typer sees with one argument an option, and that hands ``command`` its groups again.
    """
    arguments = inspect.signature(command).parameters
    groups: dict[str, Any] = {
        name: item.annotation for name, item in arguments.items() if dataclasses.is_dataclass(item.annotation)
    }
    plain = [item.replace(kind=_KEYWORD) for name, item in arguments.items() if name not in groups]
    grouped = [_parameter(field) for group in groups.values() for field in dataclasses.fields(group)]

    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature([*plain, *grouped])  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in [*plain, *grouped]}
    return run


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    return inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=field.type)
