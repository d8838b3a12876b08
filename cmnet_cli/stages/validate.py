"""Every row of a manifest and every header it names, checked in one pass; nothing is written."""

from collections.abc import Iterator
from pathlib import Path

from cmnet_cli.manifest import Case, Problem, check_manifest
from cmnet_cli.stages.load import inspect_image, inspect_mask, load_cine, load_labels
from cmnet_core.errors import CaseError


def validate_manifest(path: Path, *, deep: bool) -> list[Problem]:
    """List all problems of a manifest and of the files that it names.

    Args:
        path: The manifest.
        deep: Decode every voxel too, which finds damage that headers do not show.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    manifest, problems = check_manifest(path)
    found = [*problems, *(problem for case in manifest.cases for problem in validate_case(case, deep=deep))]
    return sorted(found, key=lambda problem: problem.row or 0)


def validate_case(case: Case, *, deep: bool) -> Iterator[Problem]:
    """Yield the problems of the files of one row."""
    try:
        image = inspect_image(case)
    except CaseError as error:
        yield _problem(case, "image", error)
        return
    sound = True
    for column, mask in (("labels", case.labels), ("labels_ed", case.labels_ed), ("labels_es", case.labels_es)):
        try:
            if mask is not None:
                inspect_mask(mask, image=image, frames=image.frames if column == "labels" else 1)
        except CaseError as error:
            sound = False
            yield _problem(case, column, error)
    if deep and sound:
        yield from _voxel_problems(case)


def _voxel_problems(case: Case) -> Iterator[Problem]:
    column = "image"
    try:
        cine = load_cine(case)
        column = "labels" if case.labels else "labels_ed"
        load_labels(case, cine)
    except CaseError as error:
        yield _problem(case, column, error)


def _problem(case: Case, column: str, error: CaseError) -> Problem:
    return Problem(case.row, column, error.code, error.message, error.hint)
