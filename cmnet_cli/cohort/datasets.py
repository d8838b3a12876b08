"""Data sets on disk, each in its own layout, to cases: who is there, which files are theirs, what is told of them.

Only names are looked at, and the small tables that come with a data set; images are opened where nothing else tells
which frame a mask belongs to.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case, Problem, read_row, write_row
from cmnet_cli.cohort.manifest import FIRST_ROW, read_table
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
    """List the patients of ACDC: the tree with ``training/`` and ``testing/``, or one folder of patients.

    The 4-D cine is taken where it is there, else the two frames of ED and ES. ``Info.cfg`` counts frames from 1.

    Raises:
        ManifestError: There are no patients, or some lack what is needed; all are listed.
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
            problems.append(f"  {patient}: {error}")
    _require_found(folder, cases, problems, looked_for="patientNNN/Info.cfg")
    return tuple(cases)


def from_mnms(folder: Path) -> tuple[Case, ...]:
    """List the subjects of M&Ms: ``<id>_sa.nii.gz``, masks ``<id>_sa_gt.nii.gz``, and the table of information.

    That table counts frames from 0. Masks are 4-D, empty but for ED and ES.

    Raises:
        ManifestError: There are no subjects, or cells of the table cannot be used; all are listed.
    """
    images = {match["subject"]: path for path in _walk(folder) if (match := _MNMS.fullmatch(path.name))}
    told = _mnms_table(folder)
    cases: list[Case] = []
    problems: list[Problem] = []
    for row, (subject, path) in enumerate(sorted(images.items()), start=FIRST_ROW):
        masks = _one_of(path.parent, f"{subject}_sa_gt.nii")
        case = Case(row, subject, (path,), labels=masks, label_scheme=LabelScheme.MNMS)
        number, cells = told.get(subject, (row, {}))
        joined, found = read_row(number, write_row(case, folder=folder) | cells, folder=folder)
        cases.append(replace(joined, row=row))
        problems += found
    _require_found(folder, cases, [f"  {problem}" for problem in problems], looked_for="<id>_sa.nii.gz")
    return tuple(cases)


def from_ukb(folder: Path) -> tuple[Case, ...]:
    """List the short-axis cines of UK Biobank: ``EID_20209_<instance>_<array>.zip``, in one folder or nested.

    Folders of that name, unpacked, count too. Where a visit has several arrays, the last one is taken.

    Raises:
        ManifestError: There are none, or one stands in two places.
    """
    found: dict[tuple[str, str], dict[str, Path]] = {}
    twice = 0
    for path in _walk(folder, folders=True):
        if match := _UKB.fullmatch(path.name):
            arrays = found.setdefault((match["subject"], match["instance"]), {})
            twice += match["array"] in arrays
            arrays[match["array"]] = path
    if twice:
        raise ManifestError(
            f"{folder}: {twice} file(s) of field 20209 stand in two places.",
            hint="Give the folder that holds each visit once; a zip and its unpacked folder count as two.",
            code=ErrorCode.MANIFEST_ROW,
        )
    cases = [
        Case(row, subject, (arrays[max(arrays)],), session=instance)
        for row, ((subject, instance), arrays) in enumerate(sorted(found.items()), start=FIRST_ROW)
    ]
    _require_found(folder, cases, [], looked_for="EID_20209_2_0.zip")
    return tuple(cases)


def from_ukbb_cardiac(folder: Path) -> tuple[Case, ...]:
    """List the subjects of ukbb_cardiac's NIfTI layout: a folder each, with ``sa.nii.gz`` and masks beside it.

    Masks are ``seg_sa.nii.gz`` (4-D), or ``label_sa_ED.nii.gz`` or ``seg_sa_ED.nii.gz`` and the same of ES; the
    number of their frames is found by comparing ``sa_ED.nii.gz`` and ``sa_ES.nii.gz`` with the cine. Without a cine
    the two frames are the image.

    Raises:
        ManifestError: There are no subjects, or some lack what is needed; all are listed.
    """
    images = ("sa.nii.gz", "sa.nii", "sa_ED.nii.gz", "sa_ED.nii")
    subjects = sorted({path.parent for path in _walk(folder) if path.name in images})
    cases: list[Case] = []
    problems: list[str] = []
    for row, subject in enumerate(subjects, start=FIRST_ROW):
        try:
            cases.append(_ukbb_cardiac_case(subject, row=row))
        except (LookupError, CaseError) as error:
            told = redact_ids(str(error.args[0]), (subject.name,))
            problems.append(f"  folder {row - FIRST_ROW + 1} of {len(subjects)}, by name: {told}")
    _require_found(folder, cases, problems, looked_for="<id>/sa.nii.gz")
    return tuple(cases)


def from_nifti(
    folder: Path, *, pattern: str = "{subject_id}.nii*", labels: str | None = None, scheme: LabelScheme
) -> tuple[Case, ...]:
    """List the 4-D NIfTI files of a folder whose paths follow a pattern.

    Args:
        folder: Where to look.
        pattern: Path inside the folder with ``{subject_id}`` and, if need be, ``{session}``; ``*`` is any text
            without a slash.
        labels: Pattern of the 4-D reference masks, or None.
        scheme: Who numbered the tissues of the masks.

    Raises:
        ManifestError: No file follows the pattern, or the pattern names no subject.
    """
    masks = {} if labels is None else _matching(folder, labels)
    of_masks = set(masks.values())
    cases = [
        Case(row, subject, (path,), session=session, labels=masks.get((subject, session)), label_scheme=scheme)
        for row, ((subject, session), path) in enumerate(_matching(folder, pattern).items(), start=FIRST_ROW)
        if path not in of_masks
    ]
    _require_found(folder, cases, [], looked_for=pattern)
    return tuple(cases)


def detect_layout(folder: Path) -> str:
    """Tell the layout of a data set by the names of its files.

    Returns:
        ``acdc``, ``mnms``, ``ukb``, ``ukbb_cardiac`` or ``nifti``.

    Raises:
        ManifestError: Nothing is known, or several layouts lie side by side.
    """
    found = {layout for path in _walk(folder, folders=True) if (layout := _layout_of(path))}
    known = found - {"nifti"} or found
    if len(known) != 1:
        raise ManifestError(
            f"{folder}: expected the files of one layout, found {', '.join(sorted(known)) or 'none that is known'}.",
            hint="Name the layout with --layout; for other names use --layout nifti --pattern '{subject_id}/….nii.gz'.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return known.pop()


def _layout_of(path: Path) -> str | None:
    signs: Mapping[str, Callable[[], bool]] = {
        "acdc": lambda: bool(re.fullmatch(r"Info\.cfg|patient\d+_(4d|frame\d+)(_gt)?\.nii(\.gz)?", path.name)),
        "ukb": lambda: bool(_UKB.fullmatch(path.name)),
        "ukbb_cardiac": lambda: bool(re.fullmatch(r"((seg|label)_)?(sa|la_\dch)(_E[DS])?\.nii(\.gz)?", path.name)),
        "mnms": lambda: bool(_MNMS.fullmatch(path.name)) or bool(re.search(r"_sa_gt\.nii", path.name)),
        "nifti": lambda: bool(re.fullmatch(r".+\.nii(\.gz)?", path.name)),
    }
    return next((layout for layout, shown in signs.items() if shown()), None)


def links_out_of(folder: Path) -> int:
    """How many links in a data set lead out of it. They are passed over: what they lead to is not part of it."""
    root = os.path.realpath(folder)
    return sum(_leads_out(entry, root) for _, entries in _folders(folder) for entry in entries)


def _walk(folder: Path, *, folders: bool = False) -> Iterator[Path]:
    """All files below a folder, in a fixed order; a whole biobank is listed without asking for each file's state."""
    root = os.path.realpath(folder)
    for inner, entries in _folders(folder):
        for entry in entries:
            if (folders or not entry.is_dir(follow_symlinks=False)) and not _leads_out(entry, root):
                yield Path(inner, entry.name)


def _folders(folder: Path) -> Iterator[tuple[Path, list["os.DirEntry[str]"]]]:
    """Every folder with what lies in it, sorted; links to folders are not gone into."""
    waiting = [folder]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(inner) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise ManifestError(
                f"{redact_ids(str(inner))}: the folder cannot be read: {error.strerror}.",
                hint="Ask for the right to read it: whoever is in it would be missing without a word.",
                code=ErrorCode.MANIFEST_UNREADABLE,
            ) from error
        yield inner, entries
        waiting += [Path(entry.path) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _leads_out(entry: "os.DirEntry[str]", root: str) -> bool:
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root)


def _require_found(folder: Path, cases: Sequence[Case], problems: Sequence[str], *, looked_for: str) -> None:
    if problems:
        raise ManifestError(
            f"{folder}: {len(problems)} problem(s) keep it from being listed.\n" + "\n".join(problems) + "\n",
            hint="Download these subjects again, or move them out of the folder.",
            code=ErrorCode.MANIFEST_ROW,
        )
    if not cases:
        raise ManifestError(
            f"{folder}: expected files like {looked_for}, found none.",
            hint="Check the folder and the layout.",
            code=ErrorCode.MANIFEST_EMPTY,
        )


def _acdc_case(patient: Path, *, row: int) -> Case:
    lines = (patient / "Info.cfg").read_text().splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = int(info["ED"]), int(info["ES"])
    frames = tuple(_one_of(patient, f"{patient.name}_frame{number:02d}.nii") for number in numbers)
    masks = tuple(_one_of(patient, f"{patient.name}_frame{number:02d}_gt.nii") for number in numbers)
    cine = _acdc_cine(patient, frames=max(numbers))
    if cine is None and None in frames:
        raise FileNotFoundError("neither the 4-D cine nor the frames of ED and ES are there")
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
    cine = _one_of(patient, f"{patient.name}_4d.nii")
    try:
        return cine if cine and nifti.inspect(cine).frames >= frames else None
    except CaseError:
        return None


def _mnms_table(folder: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Row number and cells of each subject, from the table whose columns are those of M&Ms."""
    for path in sorted(path for path in _walk(folder) if path.parent == folder and path.suffix == ".csv"):
        table = read_table(path)
        if {"External code", "ED", "ES"} <= set(table.columns):
            told = [(row, cells) for row, cells in table.rows if "External code" in cells]
            return {cells["External code"]: (row, _mnms_cells(cells)) for row, cells in told}
    return {}


def _mnms_cells(cells: Mapping[str, str]) -> dict[str, str]:
    told = {ours: cells[theirs] for theirs, ours in _MNMS_COLUMNS.items() if theirs in cells}
    scanner = cells.get("VendorName") or cells.get("Vendor")
    return told | ({"scanner": scanner} if scanner else {})


def _ukbb_cardiac_case(subject: Path, *, row: int) -> Case:
    cine, whole = _one_of(subject, "sa.nii"), _one_of(subject, "seg_sa.nii")
    phases = [_one_of(subject, f"sa_{phase}.nii") for phase in ("ED", "ES")]
    masks = [
        _one_of(subject, f"label_sa_{phase}.nii") or _one_of(subject, f"seg_sa_{phase}.nii") for phase in ("ED", "ES")
    ]
    pair = tuple(phase for phase in phases if phase)
    if cine is None and len(pair) < 2:
        raise LookupError("expected sa.nii.gz, or both sa_ED.nii.gz and sa_ES.nii.gz")
    case = Case(row, subject.name, (cine,) if cine else pair)
    if cine is None:
        return replace(case, ed=0, es=1, labels_ed=masks[0], labels_es=masks[1])
    if whole is not None:
        return replace(case, labels=whole)
    drawn = [phase if mask else None for phase, mask in zip(phases, masks, strict=True)]
    frames = [nifti.frame_of(cine, phase) if phase else None for phase in drawn]
    kept = [mask if frame is not None else None for mask, frame in zip(masks, frames, strict=True)]
    return replace(case, ed=frames[0], es=frames[1], labels_ed=kept[0], labels_es=kept[1])


def _one_of(folder: Path, name: str) -> Path | None:
    return next((path for suffix in (".gz", "") if (path := folder / f"{name}{suffix}").is_file()), None)


def _matching(folder: Path, pattern: str) -> dict[tuple[str, str | None], Path]:
    """Files by subject and session."""
    if "{subject_id}" not in pattern:
        raise ManifestError(
            f"The pattern '{pattern}' does not say where the subject's id stands.",
            hint="Write for instance '{subject_id}/sa.nii.gz'.",
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
    again = {"{subject_id}": "(?P=subject)", "{session}": "(?P=session)"}
    pieces: list[str] = []
    for part in re.split(r"(\{subject_id\}|\{session\}|\*)", pattern):
        piece = known.get(part, re.escape(part))
        pieces.append(again[part] if part in again and piece in pieces else piece)
    return re.compile("".join(pieces))
