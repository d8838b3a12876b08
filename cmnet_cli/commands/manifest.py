"""The command manifest: from a data set on disk to a table of its subjects."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort import datasets
from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.cohort.demographics import join_demographics
from cmnet_cli.cohort.listing import Listing, with_cells, write_left_out
from cmnet_cli.cohort.manifest import write_manifest
from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import left_out_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.labels import LabelScheme

_MOST_REASONS = 20


@dataclass(frozen=True, slots=True)
class NiftiNames:
    """How the files of the layout ``nifti`` are named.

    Attributes:
        pattern: Path of each image within the folder, with ``{subject_id}``.
        labels: Path of each 4-D reference mask, or None where there are no masks.
        scheme: Label convention of the masks.
    """

    pattern: str
    labels: str | None
    scheme: LabelScheme


def manifest(
    folder: Path,
    out: Path,
    messages: Messages,
    *,
    layout: DatasetLayout,
    names: NiftiNames,
    demographics: Path | None,
    images: Mapping[str, str],
) -> bool:
    """Write the manifest of a data set, and a table of what had to be left out of it, and print their numbers.

    Args:
        folder: The folder of the data set.
        out: The manifest to write.
        messages: Where to print.
        layout: Layout of the data set.
        names: How files are named in the layout ``nifti``.
        demographics: A table with sex, age, height and weight, or None.
        images: Cells about links and label values, which every row receives.

    Returns:
        Whether nothing was left out.

    Raises:
        ManifestError: The folder does not exist, no subject in it can be used, or the table does not fit.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"There is no folder {folder}.",
            hint="Give the folder that holds the data set.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )
    follow_links = "follow_links" in images
    if layout is DatasetLayout.AUTO:
        layout = datasets.detect_layout(folder, follow_links=follow_links)
    listing = with_cells(_list_cases(folder, layout, names, follow_links=follow_links), images)
    if demographics is not None:
        listing, missing = join_demographics(listing, demographics)
        if missing:
            messages.note(f"{missing} of {len(listing.cases)} subjects have no row in {demographics}")
    left_out = left_out_table(out)
    write_left_out(left_out, listing.left_out)
    _print_left_out(listing, left_out, messages)
    if not listing.cases:
        raise ManifestError(
            f"{folder}: none of the {len(listing.left_out)} subjects can be used.",
            hint=f"{left_out} has the reason and a remedy of each.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    write_manifest(out, listing.cases)
    messages.result(f"{len(listing.cases)} subjects in {out}")
    return not listing.left_out


def _print_left_out(listing: Listing, table: Path, messages: Messages) -> None:
    """Print each reason once with its number of subjects: paths contain ids, and a biobank has many."""
    if listing.left_out:
        messages.note(f"{len(listing.left_out)} left out, with reason and remedy in {table}:")
    reasons = Counter((item.reason, item.remedy) for item in listing.left_out).most_common()
    for (reason, remedy), number in reasons[:_MOST_REASONS]:
        messages.failure(f"{number} left out", reason, remedy)
    if len(reasons) > _MOST_REASONS:
        messages.note(f"and {len(reasons) - _MOST_REASONS} more reasons")


def _list_cases(folder: Path, layout: DatasetLayout, names: NiftiNames, *, follow_links: bool) -> Listing:
    if layout is DatasetLayout.NIFTI:
        return datasets.from_nifti(
            folder, pattern=names.pattern, labels=names.labels, scheme=names.scheme, follow_links=follow_links
        )
    readers = {
        DatasetLayout.ACDC: datasets.from_acdc,
        DatasetLayout.MNMS: datasets.from_mnms,
        DatasetLayout.UKB: datasets.from_ukb,
        DatasetLayout.UKBB_CARDIAC: datasets.from_ukbb_cardiac,
    }
    return readers[layout](folder, follow_links=follow_links)
