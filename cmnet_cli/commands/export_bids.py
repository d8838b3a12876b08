"""The command export-bids: the results of a run as BIDS derivatives."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages
from cmnet_cli.execution.plan import ExecutionSettings, plan_after_stage, select_cases
from cmnet_cli.execution.runner import open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, print_plan, summarise_dry_run, summarise_stage
from cmnet_cli.runs.bids import BidsFolder
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import description_of_derivatives, open_run
from cmnet_cli.stages.export_bids import ExportBidsStage
from cmnet_cli.stages.export_masks import COLOURS
from cmnet_cli.stages.infer import NAME as INFER
from cmnet_cli.tables.schema import TABLES, read_rows
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_json, write_text

_README = """Results of cmnet as BIDS derivatives. For research, not for diagnosis.

sub-*/anat/*_dseg.nii.gz are label maps of all frames of short-axis cine MRI, on the grid of the input; dseg.tsv has the
names of the labels. *_xfm.nii.gz are displacement fields in mm in the convention of ITK, for which BIDS has no names
yet; see .bidsignore. phenotype/indices.tsv has volumes, function and strain, one row for each subject and visit.
"""
_IDENTITY = ("case_id", "subject_id", "session")
_NOT_AVAILABLE = "n/a"


def export_bids(run: Path, out: Path, settings: ExecutionSettings, messages: Messages) -> CommandSummary:
    """Export label maps, displacement fields and indices of a run as BIDS derivatives.

    Args:
        run: The run folder.
        out: The folder to write to.
        settings: Which cases to export, and where to run.
        messages: The console.

    Raises:
        ManifestError: There is no such run, or two of its ids have the same letters and digits.
    """
    opened = open_run(run.absolute())
    selected = select_cases(opened.cases, settings)
    target = BidsFolder(out.absolute())
    _require_distinct_names(selected, target)
    stage = ExportBidsStage(opened.folder.root, target.root)
    plan = plan_after_stage(INFER, opened, selected)
    left_out = len(selected) - len(plan.to_run)
    if settings.dry_run:
        print_plan(plan, messages, dry_run=True)
        return summarise_dry_run(stage.name, opened.folder, plan)
    exported: list[str] = []
    with open_execution(opened.folder, stage.name, settings, messages) as context:
        write_json(target.description, description_of_derivatives())
        write_text(target.readme, _README)
        write_text(target.ignored, "*_xfm.nii.gz\n*_xfm.json\n")
        names = {"index": list(COLOURS), "name": [name for name, _ in COLOURS.values()]}
        write_text(target.label_table, _as_tsv(names, zip(*names.values(), strict=True)))
        result = run_stage(stage, plan, opened, context, on_receipt=exported.append)
        _write_indices(opened.folder, target, [case for case in selected if case.case_id in set(exported)])
    messages.note(f"{len(exported)} subject(s) in {target.root}")
    return summarise_stage(stage.name, opened.folder, plan, result, left_out=left_out)


def _require_distinct_names(cases: Sequence[Case], target: BidsFolder) -> None:
    counts = Counter(target.case(case).name for case in cases)
    twice = sum(count > 1 for count in counts.values())
    if twice:
        raise ManifestError(
            f"{twice} names would belong to several subjects or visits: BIDS allows only letters and digits in an id.",
            hint="Export these subjects to folders of their own with --participant-label.",
            code=ErrorCode.MANIFEST_ROW,
        )


def _write_indices(run: RunFolder, target: BidsFolder, cases: Sequence[Case]) -> None:
    """Write the rows of the exported cases, and the meaning and unit of every column."""
    if not run.table("indices").exists():
        return
    rows = {row["case_id"]: row for row in read_rows(run.table("indices"))}
    columns = [column for column in TABLES["indices"] if column.name not in _IDENTITY]
    header = ["participant_id", "session_id", *(column.name for column in columns)]
    lines = []
    for case in cases:
        names = target.case(case)
        if case.case_id in rows:
            values = (_cell(rows[case.case_id].get(column.name)) for column in columns)
            session = f"ses-{names.session}" if names.session else _NOT_AVAILABLE
            lines.append([f"sub-{names.subject}", session, *values])
    write_text(target.indices, _as_tsv(header, lines))
    described: dict[str, Mapping[str, str]] = {
        "MeasurementToolMetadata": {"Description": "cmnet, from short-axis cine MRI"},
        "session_id": {"Description": "Visit"},
    }
    for column in columns:
        units = {"Units": column.unit} if column.unit else {}
        described[column.name] = {"Description": column.meaning, **units}
    write_json(target.index_descriptions, described)


def _as_tsv(header: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> object:
    if isinstance(value, list):
        return ",".join(map(str, value)) or _NOT_AVAILABLE
    return _NOT_AVAILABLE if value is None or value == "" else value
