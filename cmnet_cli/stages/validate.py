"""Validate: check one row of a manifest and the headers of its files; nothing is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from cmnet_cli.cohort.case import Case, Problem
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_cli.stages.read_images import inspect_image, inspect_mask, load_cine, load_labels
from cmnet_core.errors import CaseError, ErrorCode
from cmnet_core.qc.flags import FLAGS
from cmnet_core.qc.image_checks import image_flags
from cmnet_core.types import CineSequence

NAME = "validate"
_INSPECT = "Inspect the image. If it is wrong, convert it again or leave the subject out."


@dataclass(frozen=True, slots=True)
class ValidateStage:
    """The checks of each case.

    Attributes:
        deep: Whether to decode every voxel, too, which finds damaged files and images of questionable quality.
    """

    deep: bool
    name: ClassVar[str] = NAME

    def open(self) -> Callable[[Case], tuple[Problem, ...]]:
        """Return the function that checks a case."""
        return lambda case: tuple(validate_case(case, deep=self.deep))


def validate_case(case: Case, *, deep: bool) -> Iterator[Problem]:
    """Yield the problems of the files of one row."""
    try:
        image = inspect_image(case)
    except CaseError as error:
        yield _problem(case, "image", error)
        return
    masks_usable = True
    for column, mask in (("labels", case.labels), ("labels_ed", case.labels_ed), ("labels_es", case.labels_es)):
        try:
            if mask is not None:
                inspect_mask(mask, image=image, frames=image.frames if column == "labels" else 1)
        except CaseError as error:
            masks_usable = False
            yield _problem(case, column, error)
    if deep and masks_usable:
        yield from _voxel_problems(case)


def _voxel_problems(case: Case) -> Iterator[Problem]:
    column = "image"
    try:
        cine = load_cine(case)
        yield from _warnings(case, cine)
        column = "labels" if case.labels else "labels_ed"
        load_labels(case, cine)
    except CaseError as error:
        yield _problem(case, column, error)


def _warnings(case: Case, cine: CineSequence) -> Iterator[Problem]:
    """Yield findings of image quality control, and what had to be corrected while the image was read."""
    for finding in image_flags(cine):
        yield Problem(case.row, "image", ErrorCode.IMAGE_QUALITY, finding, _INSPECT, warning=True)
    for name in cine.flags:
        message = f"{name}: {FLAGS[name].raised}."
        yield Problem(case.row, "image", ErrorCode.IMAGE_QUALITY, message, FLAGS[name].advice, warning=True)


def _problem(case: Case, column: str, error: CaseError) -> Problem:
    return Problem(case.row, column, error.code, redact_ids(error.message, (case.subject_id,)), error.hint)
