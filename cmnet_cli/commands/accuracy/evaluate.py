"""The command evaluate: metrics of every subject, and their summaries over all subjects and by group."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.csv_safety import guard
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.config import EvaluateConfig
from cmnet_cli.console import Messages
from cmnet_cli.evaluation.corrections import write_corrections
from cmnet_cli.evaluation.masks import cases_with_masks
from cmnet_cli.evaluation.page import Summaries, markdown, print_summaries
from cmnet_cli.evaluation.summary import (
    compare_methods,
    subject_row,
    summarise_agreement,
    summarise_overlaps,
    summarise_subjects,
)
from cmnet_cli.execution.plan import ExecutionSettings, plan_after_stage, select_cases
from cmnet_cli.execution.runner import open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, summarise_dry_run, summarise_stage
from cmnet_cli.runs.run_folder import OpenRun, open_run, record_command, record_end
from cmnet_cli.seals import recording
from cmnet_cli.stages.correction_changes import CorrectionChanges, CorrectionChangesStage
from cmnet_cli.stages.evaluate import EvaluateStage, Evaluation
from cmnet_cli.tables.schema import TABLES, write_table
from cmnet_core.io.atomic import write_text

Row = dict[str, Any]


def evaluate(
    run: Path,
    manifest: Path | None,
    config: EvaluateConfig,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    label_map: str | None = None,
) -> CommandSummary:
    """Compare the results of a run with reference masks.

    Args:
        run: The run folder.
        manifest: The manifest that names the masks; None for that of the run.
        config: Settings of the evaluation.
        settings: Selection of subjects and execution.
        messages: Where to print.
        label_map: Values of all masks and their tissues, in place of the column of the manifest.

    Raises:
        ManifestError: There is no such run, or no subject has reference masks of ED and ES.
    """
    opened = open_run(run.absolute())
    cells = {"label_map": label_map} if label_map else None
    masks = read_manifest(manifest.absolute() if manifest else opened.folder.cohort, cells=cells)
    cases = masks.cases
    selected = select_cases(cases, settings)
    corrected = plan_after_stage("infer", opened, [case for case in selected if _is_corrected(case, opened)])
    no_masks = not any(case.has_masks for case in selected)
    # What corrections changed can be stated without reference masks.
    labelled = [] if no_masks and corrected.to_run else cases_with_masks(selected, messages, "evaluate")
    plan = plan_after_stage("infer", opened, labelled)
    left_out = len(plan.states) - len(plan.to_run)
    if settings.dry_run:
        return summarise_dry_run("evaluate", opened.folder, plan)
    found: list[Evaluation] = []
    changes: list[CorrectionChanges] = []
    with open_execution(opened.folder, "evaluate", settings, messages) as context:
        record_command(
            opened.folder, "evaluate", settings=asdict(config), manifest=str(manifest.absolute()) if manifest else ""
        )
        result = run_stage(EvaluateStage(opened.folder.root, config), plan, opened, context, on_receipt=found.append)
        if corrected.to_run:
            stage = CorrectionChangesStage(opened.folder.root)
            result.failed += run_stage(stage, corrected, opened, context, on_receipt=changes.append).failed
        write_corrections(opened.folder, changes, messages)
        if found:
            write_evaluation(opened, found, messages)
            record_end(opened.folder, "evaluate")
    summary = summarise_stage("evaluate", opened.folder, plan, result, left_out=left_out)
    return replace(summary, unusable_rows=masks.left_out)


def _is_corrected(case: Case, opened: OpenRun) -> bool:
    return opened.folder.case(case.case_id).correction.tracking_sidecar.exists()


def write_evaluation(opened: OpenRun, found: Sequence[Evaluation], messages: Messages) -> None:
    """Write the metrics of every subject and their summaries, and print the summary over all subjects."""
    overlaps = [row for item in found for row in item.overlaps]
    pairs = [row for item in found for row in item.agreement]
    subjects = [subject_row(item) for item in found]
    summaries = Summaries(
        overlaps=list(summarise_overlaps(overlaps)),
        agreement=list(summarise_agreement(pairs)),
        quantities=list(summarise_subjects(subjects)),
        tests=list(compare_methods(overlaps)),
        subjects=subjects,
    )
    tables = {
        "evaluation": overlaps,
        "folding": [row for item in found for row in item.folding],
        "agreement": pairs,
        "evaluation_subjects": subjects,
        "evaluation_summary": summaries.overlaps,
        "evaluation_quantities": summaries.quantities,
        "evaluation_tests": summaries.tests,
        "agreement_summary": summaries.agreement,
    }
    for name, listed in tables.items():
        write_table(opened.folder.table(name), name, listed)
    pages = (opened.folder.evaluation_lines, opened.folder.evaluation_page)
    with recording(pages[0].parent, [path.name for path in pages]):
        write_text(pages[0], as_csv(subjects, [column.name for column in TABLES["evaluation_subjects"]]))
        write_text(pages[1], markdown(summaries))
    print_summaries(summaries, messages)
    messages.result(f"All metrics, by group and by subject: {opened.folder.evaluation_page}")


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return rows as CSV with a header; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guard(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    return text.getvalue()
