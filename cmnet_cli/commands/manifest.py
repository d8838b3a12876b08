"""The command manifest: from a data set on disk to a table of its subjects."""

from collections.abc import Sequence
from pathlib import Path

from cmnet_cli.cases import Case
from cmnet_cli.manifest import from_acdc, from_nifti, write_manifest
from cmnet_cli.options import Layout, Scheme
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.nifti import LabelScheme


def find_cases(folder: Path, layout: Layout, *, pattern: str, labels: str | None, scheme: Scheme) -> tuple[Case, ...]:
    """List the subjects of a data set.

    Raises:
        ManifestError: There is no such folder, or nothing in it looks like that layout.
    """
    if not folder.is_dir():
        raise ManifestError(
            f"There is no folder {folder}.",
            hint="Give the folder that holds the data set.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )
    if layout is Layout.ACDC:
        return from_acdc(folder)
    return from_nifti(folder, pattern=pattern, labels=labels, scheme=LabelScheme(scheme))


def save_manifest(out: Path, cases: Sequence[Case]) -> None:
    """Write the manifest."""
    write_manifest(out, cases)
