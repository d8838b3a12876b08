"""The command validate: every problem of a manifest and of its files, on one screen."""

import dataclasses
import json
from pathlib import Path

from cmnet_cli.manifest import read_manifest
from cmnet_cli.screen import Screen
from cmnet_cli.stages.validate import validate_manifest


def validate(manifest: Path, screen: Screen, *, deep: bool, as_json: bool) -> int:
    """Print all problems of a manifest.

    Returns:
        How many there are.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    problems = validate_manifest(manifest, deep=deep)
    if as_json:
        screen.result(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
        return len(problems)
    for problem in problems:
        screen.failure(f"row {problem.row}, {problem.column} ({problem.code})", problem.message, problem.hint)
    if not problems:
        screen.result(f"{manifest}: {len(read_manifest(manifest).cases)} subjects, no problems")
    else:
        screen.note(f"{manifest}: {len(problems)} problems")
    return len(problems)
