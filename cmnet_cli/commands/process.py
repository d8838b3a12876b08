"""The commands that work through a cohort and fill a run folder: preprocess, infer and indices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig
from cmnet_cli.console import Messages
from cmnet_cli.engines.base import LOCAL
from cmnet_cli.engines.devices import CPU, resolve_device
from cmnet_cli.execution.build_stage import build_indices_stage, build_infer_stage, indices_facts, stage_facts
from cmnet_cli.execution.indices_parts import write_indices_parts
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings, plan_after_stage, plan_stage, select_cases
from cmnet_cli.execution.runner import ExecutionContext, StageResult, open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, print_plan, summarise_dry_run, summarise_stage
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import OpenRun, open_run, record_command, record_end, require_same_manifest, start_run
from cmnet_cli.runs.verdicts import excluded, read_verdicts, store_verdicts
from cmnet_cli.stages import indices as indices_stage
from cmnet_cli.stages import infer as infer_stage
from cmnet_cli.stages.indices import TABLES_OF_INDICES, IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.parts import merge_parts, new_part_folder, remove_damaged

_CASES_PER_PART = 500


def preprocess(
    manifest: Path,
    out: Path,
    config: PreprocessConfig,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    cells: Mapping[str, str] | None = None,
) -> CommandSummary:
    """Cut the network's window out of every cine of a manifest.

    Args:
        manifest: The manifest.
        out: The run folder.
        config: The settings of the stage.
        settings: Which cases to run, and where.
        messages: The console.
        cells: Cells of every row, in place of those of the manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used.
    """
    stage = PreprocessStage(out.absolute(), config)
    return _run_stored_stage(stage, read_manifest(manifest.absolute(), cells=cells), settings, messages)


def infer(
    manifest: Path,
    out: Path,
    config: InferConfig,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    device: str,
    cells: Mapping[str, str] | None = None,
) -> CommandSummary:
    """Segment and track every cine of a manifest.

    Args:
        manifest: The manifest.
        out: The run folder.
        config: The settings of the stage.
        settings: Which cases to run, and where.
        messages: The console.
        device: The device that the networks run on.
        cells: Cells of every row, in place of those of the manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used, or there is no such device.
        CheckpointError: The weights cannot be used.
    """
    cohort = read_manifest(manifest.absolute(), cells=cells)
    if settings.engine == LOCAL:
        resolve_device(device)
    stage = build_infer_stage(out.absolute(), config, device)
    return _run_stored_stage(stage, cohort, settings, messages, device=device)


def _run_stored_stage(
    stage: PreprocessStage | InferStage,
    manifest: Manifest,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    device: str = CPU,
) -> CommandSummary:
    """Run a stage that stores files on the cases of a manifest that still need it."""
    folder = RunFolder(stage.root)
    selected = select_cases(manifest.cases, settings)
    require_same_manifest(folder, manifest)
    if settings.dry_run:
        plan = plan_stage(stage, selected, folder, settings)
        print_plan(plan, messages, dry_run=True)
        return replace(summarise_dry_run(stage.name, folder, plan), unusable_rows=manifest.left_out)
    with open_execution(folder, stage.name, settings, messages, device=device) as context:
        plan = plan_stage(stage, selected, folder, settings)
        print_plan(plan, messages, dry_run=False)
        opened = start_run(stage.root, manifest, stage.name, stage_facts(stage) | {"workers": settings.workers})
        result = run_stage(stage, plan, opened, context)
    return replace(summarise_stage(stage.name, folder, plan, result), unusable_rows=manifest.left_out)


def indices(
    run: Path,
    config: IndicesConfig,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    verdicts: Path | None = None,
) -> CommandSummary:
    """Compute the tables of a run from what infer stored.

    Args:
        run: The run folder.
        config: The settings of the stage.
        settings: Which cases to run, and where.
        messages: The console.
        verdicts: Verdicts of readers to keep in the run; None for those that it has.

    Raises:
        ManifestError: There is no such run, or the reference ranges or the verdicts cannot be used.
    """
    opened = open_run(run.absolute())
    folder = opened.folder
    readings = read_verdicts(folder, opened.order, verdicts)
    stage = build_indices_stage(folder.root, config)
    selected: Sequence[Case] = select_cases(opened.cases, settings)
    if settings.dry_run:
        plan = plan_after_stage(infer_stage.NAME, opened, selected)
        print_plan(plan, messages, dry_run=True)
        return summarise_dry_run(indices_stage.NAME, folder, plan)
    with open_execution(folder, indices_stage.NAME, settings, messages) as context:
        if verdicts is not None:
            store_verdicts(folder, readings)
        record_command(folder, indices_stage.NAME, **indices_facts(config, stage))
        plan, result, selected = update_tables(stage, opened, selected, context)
        record_end(folder, indices_stage.NAME)
    if excluded(readings):
        messages.note(f"{len(excluded(readings))} excluded: {folder.verdicts.name} and the column verdict name them.")
    left_out = len(selected) - len(plan.to_run)
    return summarise_stage(indices_stage.NAME, folder, plan, result, left_out=left_out)


def update_tables(
    stage: IndicesStage, opened: OpenRun, selected: Sequence[Case], context: ExecutionContext
) -> tuple[CasePlan, StageResult, Sequence[Case]]:
    """Compute the rows of cases and merge them into the tables; those of all cases where a table is damaged.

    Args:
        stage: The stage indices.
        opened: The run, which is locked.
        selected: The cases.
        context: Engine, lock and logs.

    Returns:
        The plan, what became of its cases, and the cases whose rows were to be computed.
    """
    folder = opened.folder
    parts, tables = remove_damaged(folder, TABLES_OF_INDICES)
    if parts or tables:
        names = ", ".join(str(path.relative_to(folder.root)) for path in (*parts, *tables))
        context.messages.note(f"Damaged, and computed again from all subjects: {names}.")
        selected = opened.cases
    plan = plan_after_stage(infer_stage.NAME, opened, selected)
    result = write_indices_parts(
        stage,
        plan,
        opened,
        context,
        folder=new_part_folder(folder),
        name="local",
        extra=opened.extra,
        cases_per_part=_CASES_PER_PART,
    )
    verdicts = {case_id: reading.verdict for case_id, reading in read_verdicts(folder, opened.order, None).items()}
    merge_parts(folder, opened.order, extra=opened.extra, verdicts=verdicts)
    return plan, result, selected
