"""The command validate: a list of all problems of a manifest and of the files that it names."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem
from cmnet_cli.cohort.manifest import Manifest, check_manifest
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.base import Outcome
from cmnet_cli.engines.select import map_cases
from cmnet_cli.stages.validate import NAME, ValidateStage
from cmnet_cli.tables.schema import name_in_table
from cmnet_core.errors import ErrorCode

_HEAD = ("row", "column", "code", "problem", "what to do")
_MAX_PRINTED = 500


def validate(
    manifest: Path,
    messages: Messages,
    *,
    deep: bool,
    workers: int,
    as_json: bool,
    cells: Mapping[str, str] | None = None,
) -> bool:
    """Print all problems of a manifest and of the files that it names.

    Args:
        manifest: The manifest.
        messages: Where to print.
        deep: Whether to decode every voxel, too.
        workers: Number of worker processes; 0 for none.
        as_json: Whether to print JSON.
        cells: Cells of every row, in place of those of the manifest.

    Returns:
        Whether every row can be used.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    problems, rows = check_cohort(manifest, messages, deep=deep, workers=workers, cells=cells)
    if as_json:
        messages.result(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
    elif problems:
        messages.listing(_HEAD, [_cells(problem) for problem in problems[:_MAX_PRINTED]])
        if len(problems) > _MAX_PRINTED:
            messages.result(f"and {len(problems) - _MAX_PRINTED} more; --json lists all of them")
        messages.note(f"{manifest}: {_counts(problems)}; {rows} subjects in total")
    else:
        messages.result(f"{manifest}: {rows} subjects, no problems")
    return all(problem.warning for problem in problems)


def check_cohort(
    path: Path, messages: Messages, *, deep: bool, workers: int = 0, cells: Mapping[str, str] | None = None
) -> tuple[list[Problem], int]:
    """List all problems of a manifest and of the files that it names, and count the rows that could be read.

    Args:
        path: The manifest.
        messages: Where to show the progress.
        deep: Whether to decode every voxel, too.
        workers: Number of worker processes; 0 for none.
        cells: Cells of every row, in place of those of the manifest.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    manifest, problems = check_manifest(path, cells=cells)
    found = [*_renamed_columns(manifest), *problems]
    by_id = {case.case_id: case for case in manifest.cases}
    with progress(messages, NAME, total=len(manifest.cases)) as ticker:
        for outcome in map_cases(ValidateStage(deep), manifest.cases, workers=workers):
            problems_of_row = outcome.receipt or _failure(by_id[outcome.case_id], outcome)
            found += problems_of_row
            ticker.tick(failed=bool(problems_of_row))
    return sorted(found, key=lambda problem: problem.row or 0), len(manifest.cases)


def _renamed_columns(manifest: Manifest) -> Iterator[Problem]:
    """Yield a warning for each column that has the name of a result."""
    for column in sorted({column for case in manifest.cases for column in case.extra}):
        if name_in_table(column) != column:
            message = "The table of indices has a column of this name."
            hint = f"It is copied as {name_in_table(column)}; nothing needs to be done."
            yield Problem(None, column, ErrorCode.MANIFEST_COLUMN, message, hint, warning=True)


def _failure(case: Case, outcome: Outcome[tuple[Problem, ...]]) -> tuple[Problem, ...]:
    """Return an unforeseen failure, such as a file that exceeds the memory, as a problem of its row."""
    failure = outcome.failure
    return () if failure is None else (Problem(case.row, "image", failure.code, failure.message, failure.hint),)


def _cells(problem: Problem) -> tuple[str, ...]:
    row = "" if problem.row is None else f"row {problem.row}"
    one_line = (" ".join(text.split()) for text in (problem.message, problem.hint))
    return (row, problem.column or "", str(problem.code), *one_line)


def _counts(problems: Sequence[Problem]) -> str:
    kinds = Counter(str(problem.code) for problem in problems)
    warnings = sum(problem.warning for problem in problems)
    by_code = ", ".join(f"{number} {code}" for code, number in kinds.most_common())
    return f"{len(problems)} problems, {warnings} of them warnings ({by_code})"
