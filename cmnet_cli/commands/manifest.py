"""The command manifest: from a data set on disk to a table of its subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort import datasets
from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.cohort.demographics import join_demographics
from cmnet_cli.cohort.manifest import write_manifest
from cmnet_cli.console import Messages
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.labels import LabelScheme


@dataclass(frozen=True, slots=True)
class NiftiNames:
    """How the files of the layout ``nifti`` are named, and who numbered the tissues of its masks."""

    pattern: str
    labels: str | None
    scheme: LabelScheme


def find_cases(
    folder: Path, layout: DatasetLayout, *, names: NiftiNames, demographics: Path | None
) -> tuple[Case, ...]:
    """List the subjects of a data set, with what another table says of them.

    Raises:
        ManifestError: There is no such folder, or nothing in it looks like that layout, or the table does not fit.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"There is no folder {folder}.",
            hint="Give the folder that holds the data set.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )
    chosen = DatasetLayout(datasets.detect_layout(folder)) if layout is DatasetLayout.AUTO else layout
    cases = _listed(folder, chosen, names)
    return cases if demographics is None else join_demographics(cases, demographics)


def _listed(folder: Path, layout: DatasetLayout, names: NiftiNames) -> tuple[Case, ...]:
    if layout is DatasetLayout.NIFTI:
        scheme = LabelScheme(names.scheme)
        return datasets.from_nifti(folder, pattern=names.pattern, labels=names.labels, scheme=scheme)
    listing = {
        DatasetLayout.ACDC: datasets.from_acdc,
        DatasetLayout.MNMS: datasets.from_mnms,
        DatasetLayout.UKB: datasets.from_ukb,
        DatasetLayout.UKBB_CARDIAC: datasets.from_ukbb_cardiac,
    }
    return listing[layout](folder)


def save_manifest(out: Path, cases: Sequence[Case]) -> None:
    """Write the manifest."""
    write_manifest(out, cases)


def tell_left_out(folder: Path, messages: Messages) -> None:
    """Say how many links of a data set were passed over, so that nobody is missing without a word."""
    links = datasets.links_out_of(folder)
    if links:
        messages.note(
            f"{links} links lead out of {folder} and were passed over: list the folder that they lead to, "
            "or name their files in the manifest yourself."
        )
