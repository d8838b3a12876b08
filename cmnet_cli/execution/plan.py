"""The plan of a command: the selected cases, the state of each, and which of them to run."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cmnet_cli.cohort.case import Case
from cmnet_cli.engines.base import LOCAL, Stage
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import Expected, OnStale, State, stage_state
from cmnet_cli.runs.run_folder import OpenRun
from cmnet_core.errors import ErrorCode, ManifestError

ReceiptT_co = TypeVar("ReceiptT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """What the user chose about how a command works through a cohort. None of it changes the results of a case.

    Attributes:
        participant_label: Subjects to work on, with or without ``sub-``; empty for all.
        pilot: Number of subjects to work on, the first ones; None for all.
        workers: Worker processes; 0 runs the cases in this process.
        force: Whether to run finished cases again.
        on_stale: How to treat outputs made from other inputs, settings or weights.
        dry_run: Whether only to print what would be done.
        engine: ``local``, ``slurm``, or the address or scheduler file of a running Dask cluster.
        memory_limit: Memory limit of a worker, as in ``4GB``; None divides the memory among the workers.
        subject_timeout: Time limit of a case in seconds, or None.
        sbatch: sbatch options for the engine ``slurm``.
        group_readable: Whether the group of the run folder may read it.
    """

    participant_label: tuple[str, ...] = ()
    pilot: int | None = None
    workers: int = 0
    force: bool = False
    on_stale: OnStale = OnStale.RERUN
    dry_run: bool = False
    engine: str = LOCAL
    memory_limit: str | None = None
    subject_timeout: float | None = None
    sbatch: tuple[str, ...] = ()
    group_readable: bool = False


class StoredStage(Stage[Case, ReceiptT_co], Protocol[ReceiptT_co]):
    """A stage that stores files of each case, with a sidecar that lists their digests."""

    def expected(self, case: Case) -> Expected:
        """What the sidecar of a case must agree with for the case to count as done."""
        ...


@dataclass(frozen=True, slots=True)
class CasePlan:
    """What a command does with the selected cases.

    Attributes:
        to_run: Cases to run.
        states: State and reason of every selected case, by id.
    """

    to_run: tuple[Case, ...]
    states: dict[str, tuple[State, str]]

    def count(self, state: State) -> int:
        """Count the selected cases that are in a state."""
        return sum(of_case == state for of_case, _ in self.states.values())


def select_cases(cases: Sequence[Case], settings: ExecutionSettings) -> tuple[Case, ...]:
    """Select the cases that the settings name, in the order of the manifest.

    Raises:
        ManifestError: A participant is not in the manifest.
    """
    wanted = {label.removeprefix("sub-") for label in settings.participant_label}
    row_of = {case.subject_id: case.row for case in cases}
    unknown = wanted - row_of.keys()
    if unknown:
        # No message has the id of a subject that was not given.
        rows = [row_of[name] for text in sorted(unknown) for name in difflib.get_close_matches(text, row_of, n=1)]
        similar = f"The most similar is in row {', '.join(map(str, rows))}. " if rows else ""
        raise ManifestError(
            f"The manifest has no subject {', '.join(sorted(unknown))}.",
            hint=f"{similar}Give a subject_id of the manifest to --participant-label, with or without 'sub-'.",
            code=ErrorCode.MANIFEST_ROW,
        )
    selected = tuple(case for case in cases if not wanted or case.subject_id in wanted)
    return selected[: settings.pilot] if settings.pilot else selected


def plan_stage(stage: StoredStage[Any], cases: Iterable[Case], run: RunFolder, settings: ExecutionSettings) -> CasePlan:
    """Plan a stage that stores files: cases whose sidecar proves them done are not run again.

    Raises:
        ManifestError: A case is stale and the settings treat that as an error.
    """
    states, to_run = {}, []
    for case in cases:
        state, reason = stage_state(run.case(case.case_id).sidecar(stage.name), stage.expected(case))
        states[case.case_id] = (state, reason)
        rerun_stale = state == State.STALE and settings.on_stale != OnStale.SKIP
        if settings.force or state == State.PENDING or rerun_stale:
            to_run.append(case)
    stale = sum(state == State.STALE for state, _ in states.values())
    if stale and settings.on_stale == OnStale.ERROR and not settings.force:
        reasons = sorted({reason for state, reason in states.values() if state == State.STALE})
        raise ManifestError(
            f"{stale} subject(s) in {run.root} are stale: {'; '.join(reasons)}.",
            hint="Use --on-stale rerun to run them again, --on-stale skip to keep them, or another --out.",
            code=ErrorCode.RUN,
        )
    return CasePlan(tuple(to_run), states)


def plan_after_stage(stage: str, opened: OpenRun, cases: Sequence[Case]) -> CasePlan:
    """Plan a stage that is quick enough to be repeated: it runs all cases that an earlier stage has finished."""
    to_run = [case for case in cases if opened.folder.case(case.case_id).sidecar(stage).exists()]
    states = {case.case_id: (State.PENDING, f"{stage} has not finished") for case in cases}
    return CasePlan(tuple(to_run), states | {case.case_id: (State.PENDING, "") for case in to_run})
