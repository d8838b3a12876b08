"""Selection of the subjects that have reference masks."""

from collections.abc import Sequence

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages
from cmnet_core.errors import ErrorCode, ManifestError


def cases_with_masks(cases: Sequence[Case], messages: Messages, command: str) -> list[Case]:
    """Return the cases with reference masks, and note how many have none.

    Args:
        cases: Rows of a manifest.
        messages: Where to print.
        command: The command that leaves the others out.

    Raises:
        ManifestError: No case has reference masks of ED and ES.
    """
    labelled = [case for case in cases if case.has_masks]
    if not labelled:
        raise ManifestError(
            "No subject of the manifest has reference masks of ED and ES.",
            hint="Name them in the columns labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    if len(labelled) < len(cases):
        without = len(cases) - len(labelled)
        messages.note(f"{without} of {len(cases)} subjects have no reference masks: left out of {command}")
    return labelled
