"""The command manifest: from a data set on disk to a table of its subjects."""

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
) -> None:
    """Write the manifest of a data set and print how many subjects it has.

    Args:
        folder: The folder of the data set.
        out: The manifest to write.
        messages: Where to print.
        layout: Layout of the data set.
        names: How files are named in the layout ``nifti``.
        demographics: A table with sex, age, height and weight, or None.

    Raises:
        ManifestError: The folder does not exist or holds no files of the layout, or the table does not fit.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"There is no folder {folder}.",
            hint="Give the folder that holds the data set.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )
    cases = _list_cases(folder, datasets.detect_layout(folder) if layout is DatasetLayout.AUTO else layout, names)
    if demographics is not None:
        cases = join_demographics(cases, demographics)
    write_manifest(out, cases)
    links = datasets.links_out_of(folder)
    if links:
        messages.note(
            f"{links} links lead out of {folder} and were ignored: list the folder that they lead to, "
            "or add their files to the manifest yourself."
        )
    messages.result(f"{len(cases)} subjects in {out}")


def _list_cases(folder: Path, layout: DatasetLayout, names: NiftiNames) -> tuple[Case, ...]:
    if layout is DatasetLayout.NIFTI:
        return datasets.from_nifti(folder, pattern=names.pattern, labels=names.labels, scheme=names.scheme)
    readers = {
        DatasetLayout.ACDC: datasets.from_acdc,
        DatasetLayout.MNMS: datasets.from_mnms,
        DatasetLayout.UKB: datasets.from_ukb,
        DatasetLayout.UKBB_CARDIAC: datasets.from_ukbb_cardiac,
    }
    return readers[layout](folder)
