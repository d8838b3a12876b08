"""The commands that go over a cohort and fill a run folder: preprocess, infer and indices."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.cohort.manifest import Manifest, read_manifest
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig
from cmnet_cli.engines.base import LOCAL
from cmnet_cli.engines.devices import CPU, resolve_device
from cmnet_cli.execution.runner import (
    Job,
    Summary,
    at_work,
    go,
    make_plan,
    plan_after,
    select_cases,
    summarise,
    summarise_dry_run,
    tell_plan,
)
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import open_run, record_command, require_same_manifest, start_run
from cmnet_cli.stages import infer as infer_stage
from cmnet_cli.stages.indices import TABLES_OF_INDICES, IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.parts import PartWriter, merge_parts, new_part_folder
from cmnet_core.function.reference_ranges import SHIPPED, read_reference
from cmnet_core.inference.tracking import load_model

CASES_A_PART = 500


def preprocess(manifest: Path, out: Path, config: PreprocessConfig, job: Job) -> Summary:
    """Cut the network's window out of every cine of a manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used.
    """
    stage = PreprocessStage(out.absolute(), config)
    return _fill(stage, read_manifest(manifest.absolute()), {"settings": asdict(config)}, job)


def infer(manifest: Path, out: Path, config: InferConfig, *, device: str, job: Job) -> Summary:
    """Segment and track every cine of a manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used, or there is no such device.
        CheckpointError: The weights cannot be used.
    """
    read = read_manifest(manifest.absolute())
    if job.engine.engine == LOCAL:
        resolve_device(device)
    stage = infer_stage_of(out.absolute(), config, device)
    facts = {"settings": asdict(config), "model_digest": stage.model_digest}
    return _fill(stage, read, facts, job, device=device)


def infer_stage_of(root: Path, config: InferConfig, device: str) -> InferStage:
    """The stage of infer, with the digest of its weights.

    Raises:
        CheckpointError: The weights cannot be used.
    """
    # Loaded here for its digest, and so that weights that cannot be used are found out before anything is written.
    model = load_model(config.model, torch.device("cpu"))
    if Path(config.model).is_file():
        # Workers may run in another folder.
        config = replace(config, model=str(Path(config.model).absolute()))
    return InferStage(root, config, device, model.digest)


def _fill(
    stage: PreprocessStage | InferStage,
    manifest: Manifest,
    facts: dict[str, Any],
    job: Job,
    *,
    device: str = CPU,
) -> Summary:
    """Run a stage that stores files over the cases of a manifest that still need it."""
    folder = RunFolder(stage.root)
    chosen = select_cases(manifest.cases, job.who)
    require_same_manifest(folder, manifest)
    if job.how.dry_run:
        plan = make_plan(stage, chosen, folder, job.how)
        tell_plan(plan, job.messages, dry_run=True)
        return summarise_dry_run(stage.name, folder, plan)
    with at_work(folder, stage.name, job, device=device) as site:
        plan = make_plan(stage, chosen, folder, job.how)
        tell_plan(plan, job.messages, dry_run=False)
        opened = start_run(stage.root, manifest, stage.name, facts | {"workers": job.how.workers})
        tally = go(stage, plan, opened, site)
    return summarise(stage.name, opened, plan, tally)


def indices(run: Path, config: IndicesConfig, job: Job) -> Summary:
    """Compute the tables of a run from what infer stored.

    Raises:
        ManifestError: There is no such run, or the reference ranges cannot be used.
    """
    opened = open_run(run.absolute())
    reference = read_reference(Path(config.reference) if config.reference else SHIPPED)
    stage = IndicesStage(opened.folder.root, reference, SamplingSettings(config.samples, config.seed))
    chosen = select_cases(opened.cases, job.who)
    if job.how.dry_run:
        plan = plan_after(infer_stage.NAME, opened, chosen)
        tell_plan(plan, job.messages, dry_run=True)
        return summarise_dry_run("indices", opened.folder, plan)
    with at_work(opened.folder, "indices", job) as site:
        plan = plan_after(infer_stage.NAME, opened, chosen)
        record_command(opened.folder, "indices", settings=asdict(config), reference=stage.reference_tables)
        rows = PartWriter(new_part_folder(opened.folder), "local", extra=opened.extra, cases_per_part=CASES_A_PART)
        rows.add(dict.fromkeys(TABLES_OF_INDICES, ()))
        tally = go(stage, plan, opened, site, keep=lambda found: rows.add(found.tables()))
        rows.close()
        merge_parts(opened.folder, opened.order, extra=opened.extra)
    left_out = len(chosen) - len(plan.todo)
    return replace(summarise("indices", opened, plan, tally), left_out=left_out)
