"""Groups of options that several commands share, and how a command takes them."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cmnet_cli.config import Protocol
from cmnet_cli.options import (
    Chunk,
    DicomStudy,
    DryRun,
    EngineName,
    ExcludedMethods,
    FollowLinks,
    Force,
    GroupReadable,
    MaxParallel,
    MemoryLimit,
    MethodNames,
    ParticipantLabel,
    Pilot,
    ProtocolName,
    Quiet,
    ReplaceEdited,
    SbatchOptions,
    ShareSafeMessages,
    SubjectTimeout,
    TaskWorkers,
    Verbose,
    WhenStale,
    Workers,
)
from cmnet_cli.runs.provenance import OnStale


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Which files of a subject are read; each option replaces the column of the manifest."""

    study: DicomStudy = None
    follow_links: FollowLinks = False

    def cells(self, *, label_map: str | None = None) -> dict[str, str]:
        """The cells of the manifest that the options replace in every row."""
        given = {
            "dicom_study": self.study,
            "follow_links": "yes" if self.follow_links else None,
            "label_map": label_map,
        }
        return {column: text for column, text in given.items() if text}


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Subjects of the cohort to process."""

    participant_label: ParticipantLabel = None
    pilot: Pilot = None


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How a stage is run over the cohort."""

    workers: Workers = 0
    force: Force = False
    on_stale: WhenStale = OnStale.RERUN
    dry_run: DryRun = False
    group_readable: GroupReadable = False


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How files are exported."""

    workers: Workers = 0
    force: ReplaceEdited = False
    dry_run: DryRun = False


@dataclass(frozen=True, slots=True)
class RecomputeOptions:
    """How a stage is run that is quick enough to recompute every subject each time."""

    workers: Workers = 0
    dry_run: DryRun = False
    group_readable: GroupReadable = False


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where the subjects are processed, and the limits of memory and time."""

    engine: EngineName = "local"
    memory_limit: MemoryLimit = None
    subject_timeout: SubjectTimeout = None
    sbatch: SbatchOptions = None


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """Which methods are compared, and how."""

    methods: MethodNames = None
    exclude: ExcludedMethods = None
    protocol: ProtocolName = Protocol.NATIVE

    @staticmethod
    def listed(names: str | None) -> tuple[str, ...]:
        """Return the names of a list that is separated by commas."""
        return tuple(name.strip() for name in (names or "").split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How a cohort is divided into tasks of an array job, and their limits of memory and time."""

    chunk: Chunk = 200
    max_parallel: MaxParallel = None
    workers: TaskWorkers = 1
    on_stale: WhenStale = OnStale.RERUN
    memory_limit: MemoryLimit = None
    subject_timeout: SubjectTimeout = None
    dry_run: DryRun = False
    group_readable: GroupReadable = False


@dataclass(frozen=True, slots=True)
class VerbosityOptions:
    """How much a command prints."""

    quiet: Quiet = False
    verbose: Verbose = False


@dataclass(frozen=True, slots=True)
class PrivacyOptions(VerbosityOptions):
    """How much a command prints, and whether the text may be shared outside the institution."""

    share_safe: ShareSafeMessages = False


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a Typer command take groups of options: each field of such an argument becomes an option of its own.

    Typer declares one option per parameter of a function. The returned function has these parameters and passes them
    on to ``command`` as the dataclasses that it expects.

    Args:
        command: A command of which some parameters are annotated with dataclasses of options.
    """
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {
        item.name: item.annotation for item in parameters if dataclasses.is_dataclass(item.annotation)
    }
    options = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in parameters if item.name not in groups]
    options += [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for group in groups.values()
        for field in dataclasses.fields(group)
    ]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in options}
    return run
