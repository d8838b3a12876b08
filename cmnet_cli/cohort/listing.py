"""The subjects that were found on disk, and those that had to be left out of the manifest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.case import Case, read_row, write_row
from cmnet_cli.cohort.table import write_table
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_core.errors import ErrorCode, ManifestError

_COLUMNS = ("path", "reason", "remedy")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A folder or file of a data set that is no row of the manifest.

    Attributes:
        path: The folder, or the file.
        reason: Why it was left out, without ids of participants.
        remedy: What the user can do about it.
    """

    path: Path
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The subjects of a data set.

    Attributes:
        cases: The rows of the manifest.
        left_out: What was left out, in the order of the paths.
    """

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()


def listing_of(found: Iterable[Case | LeftOut], *, more: Sequence[LeftOut] = ()) -> Listing:
    """Combine what was found: cases are numbered as rows of a table, and each path is left out for one reason."""
    listed = list(found)
    left_out = {item.path: item for item in (*more, *(item for item in listed if isinstance(item, LeftOut)))}
    return Listing(
        tuple(item for item in listed if isinstance(item, Case)),
        tuple(left_out[path] for path in sorted(left_out)),
    )


def checked(case: Case, cells: dict[str, str], *, path: Path, source: str = "") -> Case | LeftOut:
    """Return a case with further cells of the manifest, or the first problem of its row as the reason to leave it out.

    Args:
        case: The case.
        cells: Cells that are added to its row.
        path: The folder or file of the case.
        source: Where the cells are from, with which the reason starts.
    """
    joined, problems = read_row(case.row, write_row(case, folder=path.parent) | cells, folder=path.parent)
    if not problems:
        return joined
    first = problems[0]
    reason = f"{source}{first.column}: {first.message}"
    return LeftOut(path, redact_ids(reason, (case.subject_id,)), first.hint)


def with_cells(listing: Listing, cells: Mapping[str, str]) -> Listing:
    """Return a listing in which every row has these cells of the manifest.

    Raises:
        ManifestError: A cell cannot be used.
    """
    joined = [checked(case, dict(cells), path=case.image[0]) for case in listing.cases] if cells else listing.cases
    wrong = next((item for item in joined if isinstance(item, LeftOut)), None)
    if wrong is not None:
        raise ManifestError(wrong.reason, hint=wrong.remedy, code=ErrorCode.CONFIG)
    return listing_of(joined, more=listing.left_out)


def write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    """Write the table of what was left out, in the format of the manifest; without entries, remove an earlier one."""
    if not left_out:
        path.unlink(missing_ok=True)
        return
    rows = [dict(zip(_COLUMNS, (str(item.path), item.reason, item.remedy), strict=True)) for item in left_out]
    write_table(path, _COLUMNS, rows)
