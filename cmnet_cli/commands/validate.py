"""The command validate: every problem of a manifest and of its files, on one screen."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem
from cmnet_cli.cohort.manifest import check_manifest
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.base import Outcome
from cmnet_cli.engines.select import map_cases
from cmnet_cli.stages.validate import NAME, ValidateStage

_HEAD = ("row", "column", "code", "problem", "what to do")
_SHOWN = 500


def validate(manifest: Path, messages: Messages, *, deep: bool, workers: int, as_json: bool) -> bool:
    """Print all problems of a manifest.

    Returns:
        Whether every row can be used.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    problems, rows = check_cohort(manifest, messages, deep=deep, workers=workers)
    if as_json:
        messages.result(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
    elif problems:
        messages.listing(_HEAD, [_cells(problem) for problem in problems[:_SHOWN]])
        if len(problems) > _SHOWN:
            messages.result(f"and {len(problems) - _SHOWN} more: --json lists all")
        messages.note(f"{manifest}: {_counted(problems)}; {rows} subjects in all")
    else:
        messages.result(f"{manifest}: {rows} subjects, no problems")
    return all(problem.warning for problem in problems)


def check_cohort(path: Path, messages: Messages, *, deep: bool, workers: int = 0) -> tuple[list[Problem], int]:
    """List all problems of a manifest and of the files that it names, and count the rows that could be read.

    Args:
        path: The manifest.
        messages: Where to show how far it is.
        deep: Decode every voxel too.
        workers: Processes to share the rows among; 0 works in this one.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    manifest, problems = check_manifest(path)
    found, by_id = list(problems), {case.case_id: case for case in manifest.cases}
    with progress(messages, NAME, total=len(manifest.cases)) as ticker:
        for outcome in map_cases(ValidateStage(deep), manifest.cases, workers=workers):
            of_row = outcome.receipt or _failure(by_id[outcome.case_id], outcome)
            found += of_row
            ticker.tick(failed=bool(of_row))
    return sorted(found, key=lambda problem: problem.row or 0), len(manifest.cases)


def _failure(case: Case, outcome: Outcome[tuple[Problem, ...]]) -> tuple[Problem, ...]:
    """What no check foresaw, such as a file that takes all memory, costs its own row."""
    failure = outcome.failure
    return () if failure is None else (Problem(case.row, "image", failure.code, failure.message, failure.hint),)


def _cells(problem: Problem) -> tuple[str, ...]:
    row = "" if problem.row is None else f"row {problem.row}"
    one_line = (" ".join(text.split()) for text in (problem.message, problem.hint))
    return (row, problem.column or "", str(problem.code), *one_line)


def _counted(problems: Sequence[Problem]) -> str:
    kinds = Counter(str(problem.code) for problem in problems)
    warnings = sum(problem.warning for problem in problems)
    told = ", ".join(f"{number} {code}" for code, number in kinds.most_common())
    return f"{len(problems)} problems, {warnings} of them warnings ({told})"
