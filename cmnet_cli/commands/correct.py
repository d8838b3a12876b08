"""The commands of corrections: export masks, apply edited masks, and take corrections back."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from cmnet_cli.cohort.case import Case
from cmnet_cli.commands.process import update_tables
from cmnet_cli.config import IndicesConfig, InferConfig, load_config
from cmnet_cli.console import Messages, progress
from cmnet_cli.derivatives.correction import read_correction, remove_correction
from cmnet_cli.derivatives.tracking import DEFAULT_METHOD, read_facts
from cmnet_cli.engines.base import LOCAL
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.execution.build_stage import build_indices_stage, build_infer_stage
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings, plan_after_stage, plan_stage, select_cases
from cmnet_cli.execution.runner import ExecutionContext, StageResult, open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, UnusableFile, print_plan, summarise_dry_run, summarise_stage
from cmnet_cli.report.write import is_up_to_date, update_report, write_report
from cmnet_cli.runs.paths import MaskFolder, RunFolder
from cmnet_cli.runs.provenance import State
from cmnet_cli.runs.run_folder import OpenRun, open_run, read_record
from cmnet_cli.runs.verdicts import Verdict, read_verdicts
from cmnet_cli.seals import is_whole_parquet
from cmnet_cli.stages import correct as correct_stage
from cmnet_cli.stages.correct import Corrected, CorrectStage, read_edits
from cmnet_cli.stages.export_masks import Exported, ExportMasksStage, itksnap_labels, slicer_colours
from cmnet_cli.stages.infer import NAME as INFER
from cmnet_cli.tables.parts import list_parts
from cmnet_cli.tables.schema import has_this_schema
from cmnet_core.errors import CaseError, ErrorCode, ManifestError
from cmnet_core.io.atomic import write_text

Masks = dict[str, dict[int, Path]]

_MASK_NAME = re.compile(r"(?P<case>sub-.+)_frame-(?P<frame>\d+)_dseg\.nii(\.gz)?")
_IMAGE_NAME = re.compile(r"(?P<case>sub-.+)_frame-\d+_cine\.nii\.gz")
_IMAGE_SUFFIXES = frozenset({".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img", ".dcm", ".vtk"})
_NAMING = "Name masks as cmnet export-masks does: sub-ID_frame-NNN_dseg.nii.gz, with frames from 0, as NIfTI."


def export_masks(
    run: Path, out: Path, settings: ExecutionSettings, messages: Messages, *, all_frames: bool
) -> CommandSummary:
    """Export label maps and images of single frames, to be edited.

    Args:
        run: The run folder.
        out: The folder to write to.
        settings: Which cases to export, and where to run.
        messages: The console.
        all_frames: Whether all frames are exported, or ED and ES alone.

    Raises:
        ManifestError: There is no such run, or no subject was chosen.
    """
    opened = open_run(run.absolute())
    selected = _chosen(opened, settings)
    stage = ExportMasksStage(opened.folder.root, out.absolute(), all_frames, settings.force)
    plan = plan_after_stage(INFER, opened, selected)
    left_out = len(selected) - len(plan.to_run)
    if settings.dry_run:
        print_plan(plan, messages, dry_run=True)
        return summarise_dry_run(stage.name, opened.folder, plan)
    exported: list[Exported] = []
    with open_execution(opened.folder, stage.name, settings, messages) as context:
        target = MaskFolder(stage.out)
        write_text(target.itksnap_labels, itksnap_labels())
        write_text(target.slicer_colours, slicer_colours())
        result = run_stage(stage, plan, opened, context, on_receipt=exported.append)
    without = sum(not item.with_images for item in exported)
    if without:
        messages.note(f"The images of {without} subject(s) are no longer there: their masks were exported alone.")
    messages.note(f"{sum(len(item.frames) for item in exported)} masks of {len(exported)} subject(s) in {stage.out}")
    return summarise_stage(stage.name, opened.folder, plan, result, left_out=left_out)


def _chosen(opened: OpenRun, settings: ExecutionSettings) -> Sequence[Case]:
    """Return the subjects that the user names, or those with the verdict ``correct``."""
    if settings.participant_label or settings.pilot:
        return select_cases(opened.cases, settings)
    readings = read_verdicts(opened.folder, opened.order)
    wanted = {case_id for case_id, reading in readings.items() if reading.verdict == Verdict.CORRECT}
    if not wanted:
        raise ManifestError(
            "No subject was chosen, and none has the verdict 'correct'.",
            hint="Name subjects with --participant-label ID, or take the first N with --pilot N.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return [case for case in opened.cases if case.case_id in wanted]


def correct(
    run: Path, masks: Path | None, settings: ExecutionSettings, messages: Messages, *, device: str
) -> CommandSummary:
    """Apply edited masks, and compute rows and pages of their subjects again.

    Without masks, corrections that were interrupted or whose inputs have changed are computed again.

    Args:
        run: The run folder.
        masks: The folder of edited masks, or None.
        settings: Which cases to correct, and where.
        messages: The console.
        device: The device that the networks run on.

    Raises:
        ManifestError: There is no such run, no mask names a subject of it, or infer is not recorded in it.
    """
    opened = open_run(run.absolute())
    folder = opened.folder
    selected = select_cases(opened.cases, settings)
    found: Masks = {}
    unusable: list[UnusableFile] = []
    if masks is not None:
        found, unusable = find_masks(masks.absolute(), opened.cases)
    if settings.engine == LOCAL:
        resolve_device(device)
    infer = build_infer_stage(folder.root, _infer_config(folder), device)
    stage = CorrectStage(folder.root, infer.config, device, infer.model_digest, found)
    wanted = [case for case in selected if _has_work(case, folder, found, only_given=masks is not None)]
    plan = plan_stage(stage, wanted, folder, settings)
    # Whether given masks were edited is known once they are read.
    plan = CasePlan(tuple(case for case in wanted if case.case_id in found or case in plan.to_run), plan.states)
    if settings.dry_run:
        _print_dry_run(plan, found, folder, messages)
        return replace(summarise_dry_run(stage.name, folder, plan), unusable_files=tuple(unusable))
    corrected: list[Corrected] = []
    with open_execution(folder, stage.name, settings, messages, device=device) as context:
        result = run_stage(stage, plan, opened, context, on_receipt=corrected.append) if plan.to_run else StageResult()
        _print_corrected(corrected, messages)
        result.failed += update_results(opened, context).failed
    idle = {item.case_id for item in corrected if not item.computed}
    result.done = [case_id for case_id in result.done if case_id not in idle]
    summary = summarise_stage(stage.name, folder, plan, result)
    return replace(summary, unusable_files=tuple(unusable), unchanged=len(idle))


def undo(run: Path, labels: Sequence[str], settings: ExecutionSettings, messages: Messages) -> CommandSummary:
    """Take the corrections of subjects back: their automatic results count again.

    Args:
        run: The run folder.
        labels: Ids of the subjects.
        settings: How to run.
        messages: The console.

    Raises:
        ManifestError: There is no such run, or it has no such subject.
    """
    opened = open_run(run.absolute())
    folder = opened.folder
    selected = select_cases(opened.cases, replace(settings, participant_label=tuple(labels)))
    corrected = [case for case in selected if folder.case(case.case_id).correction.folder.exists()]
    plan = CasePlan(tuple(corrected), {case.case_id: (State.DONE, "corrected") for case in corrected})
    if settings.dry_run:
        print_plan(plan, messages, dry_run=True)
        return summarise_dry_run(correct_stage.NAME, folder, plan)
    with open_execution(folder, correct_stage.NAME, settings, messages) as context:
        for case in selected:
            removed = remove_correction(folder.case(case.case_id))
            messages.note(f"{case.case_id}: {'correction removed' if removed else 'has no correction'}")
        result = update_results(opened, context)
    result.done = [case.case_id for case in corrected]
    unchanged = len(selected) - len(corrected)
    return replace(summarise_stage(correct_stage.NAME, folder, plan, result), unchanged=unchanged)


def find_masks(folder: Path, cases: Sequence[Case]) -> tuple[Masks, list[UnusableFile]]:
    """Find the masks in a folder and its subfolders, and the files that name no subject or frame.

    Args:
        folder: The folder of edited masks.
        cases: The cohort.

    Raises:
        ManifestError: There is no such folder, or no mask in it names a subject.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"{folder} is not a folder.",
            hint="Give the folder that cmnet export-masks wrote.",
            code=ErrorCode.CORRECTION,
        )
    known = {case.case_id for case in cases}
    masks: Masks = {}
    unusable: list[UnusableFile] = []
    for path in sorted(item for item in folder.rglob("*") if item.suffix.lower() in _IMAGE_SUFFIXES):
        image, named = _IMAGE_NAME.fullmatch(path.name), _MASK_NAME.fullmatch(path.name)
        if image and image["case"] in known:
            continue
        if named is None or named["case"] not in known:
            reason = "it names no subject and frame" if named is None else "the run has no such subject"
            unusable.append(UnusableFile(str(path), reason, _NAMING))
            continue
        frames = masks.setdefault(named["case"], {})
        if int(named["frame"]) in frames:
            twin = frames[int(named["frame"])]
            unusable.append(UnusableFile(str(path), f"{twin.name} is a mask of the same frame", "Keep one of them."))
            continue
        frames[int(named["frame"])] = path
    if not masks:
        raise ManifestError(f"{folder} has no mask of a subject of the run.", hint=_NAMING, code=ErrorCode.CORRECTION)
    return masks, unusable


def _infer_config(folder: RunFolder) -> InferConfig:
    settings = read_record(folder)["commands"].get(INFER, {}).get("settings")
    if settings is None:
        raise ManifestError(
            f"run.json of {folder.root} does not record cmnet infer, whose weights a correction needs.",
            hint="Run the same cmnet infer again: it finds all subjects done and records its settings.",
            code=ErrorCode.RUN,
        )
    config = load_config(InferConfig, None, **settings)
    if config.method != DEFAULT_METHOD:
        raise ManifestError(
            f"The motion of {folder.root} is that of the method {config.method}, which cannot be computed from masks.",
            hint=f"Correct a run of cmnet infer --method {DEFAULT_METHOD}.",
            code=ErrorCode.CORRECTION,
        )
    return config


def _has_work(case: Case, folder: RunFolder, masks: Masks, *, only_given: bool) -> bool:
    if case.case_id in masks:
        return True
    return not only_given and bool(folder.case(case.case_id).correction.edited_labels)


def _print_dry_run(plan: CasePlan, masks: Masks, folder: RunFolder, messages: Messages) -> None:
    """List the frames whose masks were edited, and the masks that cannot be used."""
    for case in plan.to_run:
        of_case = folder.case(case.case_id)
        try:
            edits = read_edits(masks.get(case.case_id, {}), of_case, read_facts(of_case))
        except CaseError as error:
            messages.failure(f"row {case.row} ({error.code})", error.message, error.hint)
            continue
        edited = ", ".join(map(str, edits.changed)) or ("stored masks" if case.case_id not in masks else "none")
        unchanged = f"; unchanged: {', '.join(map(str, edits.unchanged))}" if edits.unchanged else ""
        messages.result(f"{case.case_id}: edited frames {edited}{unchanged}")


def _print_corrected(corrected: Sequence[Corrected], messages: Messages) -> None:
    for item in corrected:
        frames = ", ".join(map(str, item.edited))
        if item.computed:
            messages.note(f"{item.case_id}: corrected by frame(s) {frames}")
        else:
            before = f"; frame(s) {frames} were corrected before" if item.edited else ""
            messages.note(f"{item.case_id}: masks unchanged, nothing to do{before}")


def update_results(opened: OpenRun, context: ExecutionContext) -> StageResult:
    """Compute the rows again that are not those of the present corrections, and write the pages of their subjects.

    Rows and pages of all other subjects, and the record of the run, remain as they are.

    Args:
        opened: The run, which is locked.
        context: Engine, lock and logs.
    """
    folder, messages = opened.folder, context.messages
    if not folder.table("indices").exists():
        messages.note("There are no tables yet: cmnet indices computes them from the corrected masks.")
        return StageResult()
    changed, was_up_to_date = _outdated_rows(opened), is_up_to_date(folder)
    # An earlier correction may have been interrupted while its rows were merged.
    if changed or list_parts(folder):
        settings = read_record(folder)["commands"].get("indices", {}).get("settings", {})
        config = load_config(IndicesConfig, None, **{name: value for name, value in settings.items() if value != ""})
        _, result, _ = update_tables(build_indices_stage(folder.root, config), opened, changed, context)
    else:
        result = StageResult()
    if not folder.report.exists() or (was_up_to_date and not changed):
        return result

    def with_progress(subjects: Sequence[str]) -> Iterator[str]:
        with progress(messages, "report", total=len(subjects)) as ticker:
            for subject in subjects:
                yield subject
                ticker.tick(failed=False)

    if was_up_to_date:
        failed = {case.case_id for case in result.failed}
        update_report(folder.root, {case.case_id for case in changed} - failed, progress=with_progress)
    else:
        # The report was older than the tables before, or an earlier correction was interrupted.
        write_report(folder.root, progress=with_progress)
    if folder.shared_report.exists():
        messages.note("The share-safe report is older than the tables: cmnet report --share-safe writes it again.")
    return result


def _outdated_rows(opened: OpenRun) -> list[Case]:
    """Return the cases whose row was not computed from the masks that count now."""
    folder = opened.folder
    table = folder.table("indices")
    if not (is_whole_parquet(table) and has_this_schema(table)):
        return list(opened.cases)
    rows = pq.read_table(table, columns=["case_id", "corrected_mask_sha256"])
    digests: Mapping[str, str | None] = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    outdated = []
    for case in opened.cases:
        of_case = folder.case(case.case_id)
        correction = read_correction(of_case)
        digest = None if correction is None else correction.mask_sha256
        computed = of_case.correction.tracking_sidecar.stat().st_mtime if correction else 0.0
        if digests.get(case.case_id) != digest or computed > table.stat().st_mtime:
            outdated.append(case)
    return outdated
