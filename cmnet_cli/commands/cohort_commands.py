"""The commands that go over a cohort and fill a run folder: preprocess, infer and indices."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.commands.devices import resolve_device
from cmnet_cli.commands.going import (
    Job,
    Summary,
    go,
    make_plan,
    plan_after,
    select_cases,
    summarise,
    summarise_dry_run,
    tell_plan,
)
from cmnet_cli.commands.opening import OpenRun, open_run, record_command, start_run
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig
from cmnet_cli.layout import RunFolder
from cmnet_cli.manifest import Manifest, read_manifest
from cmnet_cli.stages import infer as infer_stage
from cmnet_cli.stages.indices import CaseRows, IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.intervals import Draws
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables import has_this_schema, read_rows, write_table
from cmnet_core.inference import load_model
from cmnet_core.reference import SHIPPED, read_reference


def preprocess(manifest: Path, out: Path, config: PreprocessConfig, job: Job) -> Summary:
    """Cut the network's window out of every cine of a manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used.
    """
    return _fill(PreprocessStage(out, config), read_manifest(manifest), {"settings": asdict(config)}, job)


def infer(manifest: Path, out: Path, config: InferConfig, *, device: str, job: Job) -> Summary:
    """Segment and track every cine of a manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used, or there is no such device.
        CheckpointError: The weights cannot be used.
    """
    read = read_manifest(manifest)
    # Loaded here for its digest, and so that weights that cannot be used are found out before anything is written.
    model = load_model(config.model, torch.device("cpu"))
    stage = InferStage(out, config, resolve_device(device), model.digest)
    return _fill(stage, read, {"settings": asdict(config), "model_digest": stage.model_digest}, job)


def _fill(stage: PreprocessStage | InferStage, manifest: Manifest, facts: dict[str, Any], job: Job) -> Summary:
    """Run a stage that stores files over the cases of a manifest that still need it."""
    chosen = select_cases(manifest.cases, job.who)
    plan = make_plan(stage, chosen, RunFolder(stage.root), job.how)
    tell_plan(plan, job.screen, dry_run=job.how.dry_run)
    if job.how.dry_run:
        return summarise_dry_run(stage.name, RunFolder(stage.root), plan)
    opened = start_run(stage.root, manifest, stage.name, facts | {"workers": job.how.workers})
    outcomes = go(stage, plan, opened, workers=job.how.workers, screen=job.screen)
    return summarise(stage.name, opened, plan, outcomes)


def indices(run: Path, config: IndicesConfig, job: Job) -> Summary:
    """Compute the tables of a run from what infer stored.

    Raises:
        ManifestError: There is no such run, or the reference ranges cannot be used.
    """
    opened = open_run(run)
    reference = read_reference(Path(config.reference) if config.reference else SHIPPED)
    stage = IndicesStage(run, reference, Draws(config.samples, config.seed))
    chosen = select_cases(opened.cases, job.who)
    plan = plan_after(infer_stage.NAME, opened, chosen)
    left_out = len(chosen) - len(plan.todo)
    if job.how.dry_run:
        tell_plan(plan, job.screen, dry_run=True)
        return summarise_dry_run("indices", opened.folder, plan)
    record_command(opened.folder, "indices", settings=asdict(config), reference=stage.reference_tables)
    outcomes = go(stage, plan, opened, workers=job.how.workers, screen=job.screen)
    write_index_tables(opened, [outcome.receipt for outcome in outcomes if outcome.receipt])
    return replace(summarise("indices", opened, plan, outcomes), left_out=left_out)


def write_index_tables(opened: OpenRun, found: Sequence[CaseRows]) -> None:
    """Write the tables indices, frames and motion; cases that were not asked for keep their rows."""
    fresh = {rows.indices["case_id"] for rows in found}
    extra = sorted({name for case in opened.cases for name in case.extra})
    tables = {
        "indices": [rows.indices for rows in found],
        "frames": [row for rows in found for row in rows.frames],
        "motion": [rows.motion for rows in found],
    }
    order = {case.case_id: number for number, case in enumerate(opened.cases)}
    for table, rows in tables.items():
        kept = [row for row in rows_of_before(opened, table) if row["case_id"] not in fresh]
        # A stable sort keeps the frames of a case in their order.
        ordered = sorted([*kept, *rows], key=lambda row: order[row["case_id"]])
        write_table(opened.folder.table(table), table, ordered, extra=extra if table == "indices" else ())


def rows_of_before(opened: OpenRun, table: str) -> list[dict[str, Any]]:
    """Rows that an earlier command wrote for cases of the cohort, if the schema is still the same."""
    path = opened.folder.table(table)
    if not path.exists() or not has_this_schema(path):
        return []
    known = {case.case_id for case in opened.cases}
    return [row for row in read_rows(path) if row["case_id"] in known]
