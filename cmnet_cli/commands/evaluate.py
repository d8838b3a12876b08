"""The command evaluate: rows of every subject, and their summary over all and by group."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.csv_safety import guard
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.config import EvaluateConfig
from cmnet_cli.console import Messages
from cmnet_cli.evaluation.page import Summaries, markdown, show
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
from cmnet_cli.runs.run_folder import OpenRun, open_run, record_command
from cmnet_cli.stages.evaluate import EvaluateStage, Evaluation, has_reference
from cmnet_cli.tables.schema import TABLES, write_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_text

Row = dict[str, Any]


def evaluate(
    run: Path, manifest: Path | None, config: EvaluateConfig, settings: ExecutionSettings, messages: Messages
) -> CommandSummary:
    """Compare a run with the reference masks that its manifest, or another one, names.

    Raises:
        ManifestError: There is no such run, or no subject has reference masks of both phases.
    """
    opened = open_run(run.absolute())
    cases = read_manifest(manifest.absolute()).cases if manifest else opened.cases
    chosen = select_cases(cases, settings)
    plan = plan_after_stage("infer", opened, _with_reference(chosen, messages))
    left_out = len(plan.states) - len(plan.to_run)
    if settings.dry_run:
        return summarise_dry_run("evaluate", opened.folder, plan)
    found: list[Evaluation] = []
    with open_execution(opened.folder, "evaluate", settings, messages) as context:
        record_command(opened.folder, "evaluate", settings=asdict(config))
        result = run_stage(EvaluateStage(opened.folder.root, config), plan, opened, context, on_receipt=found.append)
        if found:
            write_evaluation(opened, found, messages)
    return summarise_stage("evaluate", opened.folder, plan, result, left_out=left_out)


def _with_reference(cases: Sequence[Case], messages: Messages) -> list[Case]:
    compared = [case for case in cases if has_reference(case)]
    if not compared:
        raise ManifestError(
            "No subject of the manifest has reference masks of both phases.",
            hint="Name them in the columns labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    if len(compared) < len(cases):
        messages.note(f"{len(cases) - len(compared)} of {len(cases)} subjects have no reference masks: not evaluated")
    return compared


def write_evaluation(opened: OpenRun, found: Sequence[Evaluation], messages: Messages) -> None:
    """Write the rows and their summaries, and show the summary over all subjects."""
    overlaps = [row for item in found for row in item.overlaps]
    pairs = [row for item in found for row in item.agreement]
    subjects = [subject_row(item) for item in found]
    told = Summaries(
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
        "evaluation_summary": told.overlaps,
        "evaluation_quantities": told.quantities,
        "evaluation_tests": told.tests,
        "agreement_summary": told.agreement,
    }
    for name, listed in tables.items():
        write_table(opened.folder.table(name), name, listed)
    write_text(
        opened.folder.evaluation_lines, as_csv(subjects, [column.name for column in TABLES["evaluation_subjects"]])
    )
    write_text(opened.folder.evaluation_page, markdown(told))
    show(told, messages)
    messages.result(f"With every figure, by group and by subject: {opened.folder.evaluation_page}")


def as_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Rows as CSV with a head; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guard(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    return text.getvalue()
