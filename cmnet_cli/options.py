"""Options that several commands share, each written once, and the way they are put into a command's signature."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

_WHO = "Which subjects"
_HOW = "How to run"
_SAY = "What is shown"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY

DEFAULT_RUN = Path("cmnet-run")

ManifestFile = Annotated[
    Path, typer.Option("--manifest", "-m", help="Manifest: CSV, TSV or Parquet, one row a subject and visit.")
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Run folder to write to.")]
RunPath = Annotated[Path, typer.Option("--run", "-r", help="Run folder, as infer wrote it.")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Name of a shipped model, or a .safetensors file.", show_default="default")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", rich_help_panel=_HOW)]
Workers = Annotated[int, typer.Option(min=0, help="Processes to start; 0 works in this one.", rich_help_panel=_HOW)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.", rich_help_panel=_HOW)
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings in TOML; an unknown key is an error.", rich_help_panel=_HOW)
]


class OnStale(StrEnum):
    """What to do with a subject whose outputs were made from other inputs, settings or weights."""

    SKIP = "skip"
    RERUN = "rerun"
    ERROR = "error"


class SaveMotion(StrEnum):
    """How much of the motion a run keeps."""

    FULL = "full"
    ED2ES = "ed2es"
    NONE = "none"


class Layout(StrEnum):
    """How a data set on disk is laid out."""

    ACDC = "acdc"
    NIFTI = "nifti"


class Scheme(StrEnum):
    """Who numbered the tissues of reference masks."""

    ACDC = "acdc"
    MNMS = "mnms"
    CMNET = "cmnet"


class Stage(StrEnum):
    """The two stages of training, in their order."""

    SEGNET = "segnet"
    MOTION = "motion"


@dataclass(frozen=True, slots=True)
class WhoOptions:
    """Which subjects of the cohort to work on."""

    participant_label: Annotated[
        list[str] | None,
        typer.Option(help="Only this subject, with or without 'sub-'; repeat for more.", rich_help_panel=_WHO),
    ] = None
    pilot: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first N subjects, to see whether all is well.", rich_help_panel=_WHO),
    ] = None


@dataclass(frozen=True, slots=True)
class HowOptions:
    """How a stage goes over the cohort."""

    workers: Workers = 0
    force: Annotated[bool, typer.Option("--force", help="Do again what is done.", rich_help_panel=_HOW)] = False
    on_stale: Annotated[
        OnStale, typer.Option(help="Outputs made from other inputs, settings or weights.", rich_help_panel=_HOW)
    ] = OnStale.RERUN
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class AgainOptions:
    """How a stage goes over the cohort that is quick enough to be done again each time."""

    workers: Workers = 0
    dry_run: DryRun = False

    def as_how(self) -> HowOptions:
        """The same, with what does not matter here left at its default."""
        return HowOptions(workers=self.workers, dry_run=self.dry_run)


@dataclass(frozen=True, slots=True)
class SayOptions:
    """What a command prints."""

    json: Annotated[bool, typer.Option("--json", help="The result as JSON.", rich_help_panel=_SAY)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.", rich_help_panel=_SAY)] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line a subject, and tracebacks.", rich_help_panel=_SAY)
    ] = False


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
