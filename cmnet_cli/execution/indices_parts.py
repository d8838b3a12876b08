"""Computing the rows of the stage indices and writing them as parts, which a merge combines into the tables."""

from collections.abc import Sequence
from pathlib import Path

from cmnet_cli.execution.plan import CasePlan
from cmnet_cli.execution.runner import ExecutionContext, StageResult, run_stage
from cmnet_cli.runs.run_folder import OpenRun
from cmnet_cli.stages.indices import TABLES_OF_INDICES, IndicesStage
from cmnet_cli.tables.parts import PartWriter


def write_indices_parts(
    stage: IndicesStage,
    plan: CasePlan,
    opened: OpenRun,
    context: ExecutionContext,
    *,
    folder: Path,
    name: str,
    extra: Sequence[str],
    cases_per_part: int | None = None,
) -> StageResult:
    """Compute the rows of the planned cases and write them as parts.

    Args:
        stage: The stage indices.
        plan: The cases to run.
        opened: The run, or the cases of one shard of it.
        context: Engine, lock and logs.
        folder: Folder of the parts.
        name: Name of the parts; an earlier part of this name is replaced.
        extra: The manifest's additional columns, which are copied into the table of indices.
        cases_per_part: Number of cases per part; None writes one part.
    """
    rows = PartWriter(folder, name, extra=extra, cases_per_part=cases_per_part)
    # Every table exists, even where no case has a row in it.
    rows.add(dict.fromkeys(TABLES_OF_INDICES, ()))
    result = run_stage(stage, plan, opened, context, on_receipt=lambda case_rows: rows.add(case_rows.tables()))
    rows.close()
    return result
