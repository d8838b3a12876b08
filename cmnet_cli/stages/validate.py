"""One row of a manifest and every header it names, checked in one pass; nothing is written."""

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
_LOOK = "Look at the image. If it is as it should be, go on; else convert it again, or leave the subject out."


@dataclass(frozen=True, slots=True)
class ValidateStage:
    """The checks of each case.

    Attributes:
        deep: Decode every voxel too, which finds damage that headers do not show, and doubtful images.
    """

    deep: bool
    name: ClassVar[str] = NAME

    def open(self) -> Callable[[Case], tuple[Problem, ...]]:
        """Nothing to load; the function of a case."""
        return lambda case: tuple(validate_case(case, deep=self.deep))


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
        yield from _warnings(case, cine)
        column = "labels" if case.labels else "labels_ed"
        load_labels(case, cine)
    except CaseError as error:
        yield _problem(case, column, error)


def _warnings(case: Case, cine: CineSequence) -> Iterator[Problem]:
    """What is doubtful about an image, and what had to be repaired while it was read."""
    for doubt in image_flags(cine):
        yield Problem(case.row, "image", ErrorCode.IMAGE_QUALITY, doubt, _LOOK, warning=True)
    for name in cine.flags:
        told = f"{name}: {FLAGS[name].raised}."
        yield Problem(case.row, "image", ErrorCode.IMAGE_QUALITY, told, FLAGS[name].advice, warning=True)


def _problem(case: Case, column: str, error: CaseError) -> Problem:
    return Problem(case.row, column, error.code, redact_ids(error.message, (case.subject_id,)), error.hint)
