"""The subjects of data sets on disk, each in its own layout, as cases with their files and demographics.

Subjects are found by the names of files and in the small tables of a data set. Images are opened only where nothing
else determines the frame of a mask.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem, raise_problems, read_row, write_row
from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.cohort.table import FIRST_ROW, read_table
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_core.errors import CaseError, ErrorCode, ManifestError
from cmnet_core.io import nifti
from cmnet_core.labels import LabelScheme

_UKB = re.compile(r"(?P<subject>[A-Za-z0-9-]{1,64})_20209_(?P<instance>\d)_(?P<array>\d)(\.zip)?", re.IGNORECASE)
_MNMS = re.compile(r"(?P<subject>[A-Za-z0-9_-]{1,64})_sa\.nii(\.gz)?")
_MNMS_COLUMNS = {
    "ED": "ed",
    "ES": "es",
    "Age": "age_years",
    "Sex": "sex",
    "Height": "height_cm",
    "Weight": "weight_kg",
    "Pathology": "group",
    "Centre": "site",
}


def from_acdc(folder: Path) -> tuple[Case, ...]:
    """List the patients of ACDC, in the tree with ``training/`` and ``testing/`` or in one folder.

    The image is the 4-D cine, or the two frames of ED and ES where the cine is missing. ``Info.cfg`` counts frames
    from 1.

    Raises:
        ManifestError: There are no patients, or files of some are missing; all of these are listed.
    """
    inside = (path for path in _walk(folder) if path.parent != folder)
    patients = sorted(
        path.parent for path in inside if re.fullmatch(r"patient[^/]*/Info\.cfg", "/".join(path.parts[-2:]))
    )
    cases: list[Case] = []
    problems: list[str] = []
    for patient in patients:
        try:
            cases.append(_acdc_case(patient, row=FIRST_ROW + len(cases)))
        except (OSError, ValueError, LookupError) as error:
            problems.append(f"{patient}: {error}")
    _require_found(folder, cases, problems, expected="patientNNN/Info.cfg")
    return tuple(cases)


def from_mnms(folder: Path) -> tuple[Case, ...]:
    """List the subjects of M&Ms: images ``<id>_sa.nii.gz``, masks ``<id>_sa_gt.nii.gz`` and a table of information.

    The table counts frames from 0. Masks are 4-D and empty except at ED and ES.

    Raises:
        ManifestError: There are no subjects, or cells of the table cannot be used; all of these are listed.
    """
    images = {match["subject"]: path for path in _walk(folder) if (match := _MNMS.fullmatch(path.name))}
    information = _mnms_table(folder)
    cases: list[Case] = []
    problems: list[Problem] = []
    for row, (subject, path) in enumerate(sorted(images.items()), start=FIRST_ROW):
        masks = _existing(path.parent, f"{subject}_sa_gt.nii")
        case = Case(row, subject, (path,), labels=masks, label_scheme=LabelScheme.MNMS)
        number, cells = information.get(subject, (row, {}))
        joined, found = read_row(number, write_row(case, folder=folder) | cells, folder=folder)
        cases.append(replace(joined, row=row))
        problems += found
    _require_found(folder, cases, problems, expected="<id>_sa.nii.gz")
    return tuple(cases)


def from_ukb(folder: Path) -> tuple[Case, ...]:
    """List the short-axis cines of UK Biobank: ``EID_20209_<instance>_<array>.zip``, in one folder or nested folders.

    Unpacked folders of this name are also found. The last array of a visit is used.

    Raises:
        ManifestError: There are no cines, or one is stored twice.
    """
    found: dict[tuple[str, str], dict[str, Path]] = {}
    duplicates = 0
    for path in _walk(folder, folders=True):
        if match := _UKB.fullmatch(path.name):
            arrays = found.setdefault((match["subject"], match["instance"]), {})
            duplicates += match["array"] in arrays
            arrays[match["array"]] = path
    if duplicates:
        raise ManifestError(
            f"{folder}: {duplicates} file(s) of field 20209 are stored in two places.",
            hint="Keep one copy of each visit: a zip file and its unpacked folder count as two.",
            code=ErrorCode.MANIFEST_ROW,
        )
    cases = [
        Case(row, subject, (arrays[max(arrays)],), session=instance)
        for row, ((subject, instance), arrays) in enumerate(sorted(found.items()), start=FIRST_ROW)
    ]
    _require_found(folder, cases, [], expected="EID_20209_2_0.zip")
    return tuple(cases)


def from_ukbb_cardiac(folder: Path) -> tuple[Case, ...]:
    """List the subjects of the NIfTI layout of ukbb_cardiac: one folder each with ``sa.nii.gz`` and its masks.

    Masks are ``seg_sa.nii.gz`` (4-D), or ``label_sa_ED.nii.gz`` or ``seg_sa_ED.nii.gz`` and the same for ES. The frames
    of these are found by comparing ``sa_ED.nii.gz`` and ``sa_ES.nii.gz`` with the cine. Without a cine, the image is
    the pair of these two.

    Raises:
        ManifestError: There are no subjects, or files of some are missing; all of these are listed.
    """
    images = ("sa.nii.gz", "sa.nii", "sa_ED.nii.gz", "sa_ED.nii")
    subjects = sorted({path.parent for path in _walk(folder) if path.name in images})
    cases: list[Case] = []
    problems: list[str] = []
    for row, subject in enumerate(subjects, start=FIRST_ROW):
        try:
            cases.append(_ukbb_cardiac_case(subject, row=row))
        except (LookupError, CaseError) as error:
            reason = redact_ids(str(error.args[0]), (subject.name,))
            problems.append(f"folder {row - FIRST_ROW + 1} of {len(subjects)}, by name: {reason}")
    _require_found(folder, cases, problems, expected="<id>/sa.nii.gz")
    return tuple(cases)


def from_nifti(
    folder: Path, *, pattern: str = "{subject_id}.nii*", labels: str | None = None, scheme: LabelScheme
) -> tuple[Case, ...]:
    """List the 4-D NIfTI files of a folder whose paths match a pattern.

    Args:
        folder: The folder of the data set.
        pattern: Path inside the folder with ``{subject_id}`` and optionally ``{session}``; ``*`` stands for any text
            without a slash.
        labels: Pattern of the 4-D reference masks, or None.
        scheme: Label convention of the masks.

    Raises:
        ManifestError: No file matches the pattern, or the pattern has no ``{subject_id}``.
    """
    masks = {} if labels is None else _matching(folder, labels)
    mask_files = set(masks.values())
    cases = [
        Case(row, subject, (path,), session=session, labels=masks.get((subject, session)), label_scheme=scheme)
        for row, ((subject, session), path) in enumerate(_matching(folder, pattern).items(), start=FIRST_ROW)
        if path not in mask_files
    ]
    _require_found(folder, cases, [], expected=pattern)
    return tuple(cases)


def detect_layout(folder: Path) -> DatasetLayout:
    """Detect the layout of a data set from the names of its files.

    Raises:
        ManifestError: The files match no layout, or several.
    """
    found = {layout for path in _walk(folder, folders=True) if (layout := _layout_of(path))}
    known = found - {DatasetLayout.NIFTI} or found
    if len(known) != 1:
        raise ManifestError(
            f"{folder}: expected the files of one layout, found {', '.join(sorted(known)) or 'none that is known'}.",
            hint="Give the layout with --layout; for other names, --layout nifti --pattern '{subject_id}/….nii.gz'.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return known.pop()


def _layout_of(path: Path) -> DatasetLayout | None:
    matches: Mapping[DatasetLayout, Callable[[], bool]] = {
        DatasetLayout.ACDC: lambda: bool(
            re.fullmatch(r"Info\.cfg|patient\d+_(4d|frame\d+)(_gt)?\.nii(\.gz)?", path.name)
        ),
        DatasetLayout.UKB: lambda: bool(_UKB.fullmatch(path.name)),
        DatasetLayout.UKBB_CARDIAC: lambda: bool(
            re.fullmatch(r"((seg|label)_)?(sa|la_\dch)(_E[DS])?\.nii(\.gz)?", path.name)
        ),
        DatasetLayout.MNMS: lambda: bool(_MNMS.fullmatch(path.name)) or bool(re.search(r"_sa_gt\.nii", path.name)),
        DatasetLayout.NIFTI: lambda: bool(re.fullmatch(r".+\.nii(\.gz)?", path.name)),
    }
    return next((layout for layout, is_match in matches.items() if is_match()), None)


def links_out_of(folder: Path) -> int:
    """Return the number of links that lead out of a data set. Their targets are not part of it and are ignored."""
    root = os.path.realpath(folder)
    return sum(_leads_out(entry, root) for _, entries in _folders(folder) for entry in entries)


def _walk(folder: Path, *, folders: bool = False) -> Iterator[Path]:
    """Yield all files below a folder in a fixed order, without a call of ``stat`` per file: biobanks are large."""
    root = os.path.realpath(folder)
    for inner, entries in _folders(folder):
        for entry in entries:
            if (folders or not entry.is_dir(follow_symlinks=False)) and not _leads_out(entry, root):
                yield Path(inner, entry.name)


def _folders(folder: Path) -> Iterator[tuple[Path, list["os.DirEntry[str]"]]]:
    """Yield every folder with its sorted entries; links to folders are not followed."""
    pending = [folder]
    while pending:
        inner = pending.pop()
        try:
            with os.scandir(inner) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise ManifestError(
                f"{redact_ids(str(inner))}: the folder cannot be read: {error.strerror}.",
                hint="Ask for permission to read it; otherwise its subjects would be missing from the manifest.",
                code=ErrorCode.MANIFEST_UNREADABLE,
            ) from error
        yield inner, entries
        pending += [Path(entry.path) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _leads_out(entry: "os.DirEntry[str]", root: str) -> bool:
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root)


def _require_found(folder: Path, cases: Sequence[Case], problems: Sequence[str | Problem], *, expected: str) -> None:
    hint = "Download these subjects again, or move them out of the folder."
    raise_problems(folder, problems, hint=hint, code=ErrorCode.MANIFEST_ROW)
    if not cases:
        raise ManifestError(
            f"{folder}: expected files like {expected}, found none.",
            hint="Check the folder and the layout.",
            code=ErrorCode.MANIFEST_EMPTY,
        )


def _acdc_case(patient: Path, *, row: int) -> Case:
    lines = (patient / "Info.cfg").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = int(info["ED"]), int(info["ES"])
    frames = tuple(_existing(patient, f"{patient.name}_frame{number:02d}.nii") for number in numbers)
    masks = tuple(_existing(patient, f"{patient.name}_frame{number:02d}_gt.nii") for number in numbers)
    cine = _acdc_cine(patient, frames=max(numbers))
    if cine is None and None in frames:
        raise FileNotFoundError("neither the 4-D cine nor the frames of ED and ES exist")
    return Case(
        row=row,
        subject_id=patient.name,
        image=(cine,) if cine else tuple(frame for frame in frames if frame),
        labels_ed=masks[0],
        labels_es=masks[1],
        label_scheme=LabelScheme.ACDC,
        ed=numbers[0] - 1 if cine else 0,
        es=numbers[1] - 1 if cine else 1,
        height_cm=float(info["Height"]) if "Height" in info else None,
        weight_kg=float(info["Weight"]) if "Weight" in info else None,
        group=info.get("Group"),
    )


def _acdc_cine(patient: Path, *, frames: int) -> Path | None:
    cine = _existing(patient, f"{patient.name}_4d.nii")
    try:
        return cine if cine and nifti.inspect(cine).frames >= frames else None
    except CaseError:
        return None


def _mnms_table(folder: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Return row number and cells of each subject, from the table that has the columns of M&Ms."""
    for path in sorted(path for path in _walk(folder) if path.parent == folder and path.suffix == ".csv"):
        table = read_table(path)
        if {"External code", "ED", "ES"} <= set(table.columns):
            return {
                cells["External code"]: (row, _mnms_cells(cells))
                for row, cells in table.rows
                if "External code" in cells
            }
    return {}


def _mnms_cells(cells: Mapping[str, str]) -> dict[str, str]:
    known = {column: cells[name] for name, column in _MNMS_COLUMNS.items() if name in cells}
    scanner = cells.get("VendorName") or cells.get("Vendor")
    return known | ({"scanner": scanner} if scanner else {})


def _ukbb_cardiac_case(subject: Path, *, row: int) -> Case:
    cine, whole = _existing(subject, "sa.nii"), _existing(subject, "seg_sa.nii")
    phases = [_existing(subject, f"sa_{phase}.nii") for phase in ("ED", "ES")]
    masks = [
        _existing(subject, f"label_sa_{phase}.nii") or _existing(subject, f"seg_sa_{phase}.nii")
        for phase in ("ED", "ES")
    ]
    pair = tuple(phase for phase in phases if phase)
    if cine is None and len(pair) < 2:
        raise LookupError("expected sa.nii.gz, or both sa_ED.nii.gz and sa_ES.nii.gz")
    case = Case(row, subject.name, (cine,) if cine else pair)
    if cine is None:
        return replace(case, ed=0, es=1, labels_ed=masks[0], labels_es=masks[1])
    if whole is not None:
        return replace(case, labels=whole)
    labelled = [phase if mask else None for phase, mask in zip(phases, masks, strict=True)]
    frames = [nifti.frame_of(cine, phase) if phase else None for phase in labelled]
    kept = [mask if frame is not None else None for mask, frame in zip(masks, frames, strict=True)]
    return replace(case, ed=frames[0], es=frames[1], labels_ed=kept[0], labels_es=kept[1])


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for suffix in (".gz", "") if (path := folder / f"{name}{suffix}").is_file()), None)


def _matching(folder: Path, pattern: str) -> dict[tuple[str, str | None], Path]:
    """Return the files that match a pattern, by subject and session."""
    if "{subject_id}" not in pattern:
        raise ManifestError(
            f"The pattern '{pattern}' does not say where the subject's id is.",
            hint="Include {subject_id}, for instance '{subject_id}/sa.nii.gz'.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    regex = _pattern_regex(pattern)
    found = {}
    for path in _walk(folder):
        if match := regex.fullmatch(path.relative_to(folder).as_posix()):
            named = match.groupdict()
            found[named["subject"], named.get("session")] = path
    return found


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    known = {"{subject_id}": "(?P<subject>[A-Za-z0-9_-]+?)", "{session}": "(?P<session>[A-Za-z0-9_-]+?)", "*": "[^/]*"}
    repeated = {"{subject_id}": "(?P=subject)", "{session}": "(?P=session)"}
    pieces: list[str] = []
    for part in re.split(r"(\{subject_id\}|\{session\}|\*)", pattern):
        piece = known.get(part, re.escape(part))
        pieces.append(repeated[part] if part in repeated and piece in pieces else piece)
    return re.compile("".join(pieces))
