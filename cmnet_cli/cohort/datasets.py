"""The subjects of data sets on disk, each in its own layout, as cases with their files and demographics.

Subjects are found by the names of files and in the small tables of a data set. Images are opened only where nothing
else determines the frame of a mask.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.case_id import without_prefix
from cmnet_cli.cohort.dataset_folders import COPY_AGAIN, FOLLOW_LINKS, folders_without_image, walk_files, walk_folders
from cmnet_cli.cohort.dataset_layout import DatasetLayout
from cmnet_cli.cohort.listing import LeftOut, Listing, checked, listing_of
from cmnet_cli.cohort.table import FIRST_ROW, is_missing, read_table
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_core.errors import CaseError, ErrorCode, ManifestError
from cmnet_core.io import nifti
from cmnet_core.labels import LabelScheme

# Heart MRI of UK Biobank: fields 20207 to 20214; 20209 has the short-axis cines.
_UKB = re.compile(
    r"(?P<subject>[A-Za-z0-9-]{1,64})_(?P<field>202(?:0[7-9]|1[0-4]))_(?P<instance>\d)_(?P<array>\d)(\.zip)?",
    re.IGNORECASE,
)
_UKB_SHORT_AXIS = "20209"
_KEEP_ONE = "Keep one copy of each visit: a zip file and its unpacked folder count as two."
_MOST_EXAMPLES = 2000
_SHORT_AXIS = re.compile(r"sax|(?<![a-z])sa(?![a-z])", re.IGNORECASE)
_NIFTI = re.compile(r".+\.nii(\.gz)?")
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


def from_acdc(folder: Path, *, follow_links: bool = False) -> Listing:
    """List the patients of ACDC, in the tree with ``training/`` and ``testing/`` or in one folder.

    The image is the 4-D cine, or the two frames of ED and ES where the cine is missing. ``Info.cfg`` counts frames
    from 1. A patient whose files are incomplete is left out.

    Raises:
        ManifestError: There are no patients.
    """
    unreadable: list[LeftOut] = []
    found = [
        _acdc_case(inner, row)
        for row, inner in enumerate(
            sorted(_acdc_folders(folder, unreadable, follow_links=follow_links)), start=FIRST_ROW
        )
    ]
    return _require_found(folder, listing_of(found, more=unreadable), expected="patientNNN/Info.cfg")


def from_mnms(folder: Path, *, follow_links: bool = False) -> Listing:
    """List the subjects of M&Ms: images ``<id>_sa.nii.gz``, masks ``<id>_sa_gt.nii.gz`` and a table of information.

    The table counts frames from 0. Masks are 4-D and empty except at ED and ES. A subject whose row of the table cannot
    be used is left out.

    Raises:
        ManifestError: There are no subjects.
    """
    left_out: list[LeftOut] = []
    paths = walk_files(folder, left_out, follow_links=follow_links)
    images = {match["subject"]: path for path in paths if (match := _MNMS.fullmatch(path.name))}
    information = _mnms_table(folder)
    found: list[Case | LeftOut] = []
    for row, (subject, path) in enumerate(sorted(images.items()), start=FIRST_ROW):
        masks = _existing(path.parent, f"{subject}_sa_gt.nii")
        case = Case(row, subject, (path,), labels=masks, label_scheme=LabelScheme.MNMS)
        number, cells = information.get(subject, (row, {}))
        found.append(checked(case, cells, path=path, source=f"row {number} of the table, "))
    left_out += folders_without_image(folder, images.items(), expected="<id>_sa.nii.gz")
    return _require_found(folder, listing_of(found, more=left_out), expected="<id>_sa.nii.gz")


def from_ukb(folder: Path, *, follow_links: bool = False) -> Listing:
    """List the short-axis cines of UK Biobank: ``EID_20209_<instance>_<array>.zip``, in one folder or nested folders.

    Unpacked folders of this name are also found. The last array of a visit is used. A visit is left out if a cine is
    stored twice, or if there are files of its other heart MRI fields only.

    Raises:
        ManifestError: There are no cines.
    """
    left_out: list[LeftOut] = []
    arrays: dict[tuple[str, str], dict[str, list[Path]]] = {}
    others: dict[tuple[str, str], Path] = {}
    for path in walk_files(folder, left_out, folders=True, follow_links=follow_links):
        match = _UKB.fullmatch(path.name)
        if match and match["field"] == _UKB_SHORT_AXIS:
            arrays.setdefault((match["subject"], match["instance"]), {}).setdefault(match["array"], []).append(path)
        elif match:
            others[match["subject"], match["instance"]] = path
    found: list[Case | LeftOut] = []
    for row, ((subject, instance), paths) in enumerate(sorted(arrays.items()), start=FIRST_ROW):
        twice = next((same for same in paths.values() if len(same) > 1), None)
        if twice:
            found.append(LeftOut(twice[0], "This cine is stored in two places.", _KEEP_ONE))
        else:
            found.append(Case(row, subject, (paths[max(paths)][0],), session=instance))
    left_out += [
        LeftOut(path, "There is no short-axis cine of this visit (field 20209).", "Download its field 20209.")
        for visit, path in others.items()
        if visit not in arrays
    ]
    return _require_found(folder, listing_of(found, more=left_out), expected="EID_20209_2_0.zip")


def from_ukbb_cardiac(folder: Path, *, follow_links: bool = False) -> Listing:
    """List the subjects of the NIfTI layout of ukbb_cardiac: one folder each with ``sa.nii.gz`` and its masks.

    Masks are ``seg_sa.nii.gz`` (4-D), or ``label_sa_ED.nii.gz`` or ``seg_sa_ED.nii.gz`` and the same for ES. The frames
    of these are found by comparing ``sa_ED.nii.gz`` and ``sa_ES.nii.gz`` with the cine. Without a cine, the image is
    the pair of these two. A subject whose files are incomplete is left out.

    Raises:
        ManifestError: There are no subjects.
    """
    left_out: list[LeftOut] = []
    images = re.compile(r"(sa|sa_ED|sa_ES)\.nii(\.gz)?")
    paths = walk_files(folder, left_out, follow_links=follow_links)
    subjects = sorted({path.parent for path in paths if images.fullmatch(path.name)})
    found = [_ukbb_cardiac_case(subject, row=row) for row, subject in enumerate(subjects, start=FIRST_ROW)]
    listed = ((subject.name, subject / "sa.nii.gz") for subject in subjects)
    left_out += folders_without_image(folder, listed, expected="sa.nii.gz")
    return _require_found(folder, listing_of(found, more=left_out), expected="<id>/sa.nii.gz")


def from_nifti(
    folder: Path,
    *,
    pattern: str = "{subject_id}.nii*",
    labels: str | None = None,
    scheme: LabelScheme,
    follow_links: bool = False,
) -> Listing:
    """List the 4-D NIfTI files of a folder whose paths match a pattern.

    A folder beside those of the subjects that has no such file is left out.

    Args:
        folder: The folder of the data set.
        pattern: Path inside the folder with ``{subject_id}`` and optionally ``{session}``; ``*`` stands for any text
            without a slash.
        labels: Pattern of the 4-D reference masks, or None.
        scheme: Label convention of the masks.
        follow_links: Whether to follow links that lead out of the folder.

    Raises:
        ManifestError: No file matches the pattern, or the pattern has no ``{subject_id}``.
    """
    left_out: list[LeftOut] = []
    masks = {} if labels is None else _matching(folder, labels, [], follow_links=follow_links)
    mask_files = set(masks.values())
    matching = _matching(folder, pattern, left_out, follow_links=follow_links)
    images = {key: path for key, path in matching.items() if path not in mask_files}
    found = [
        Case(
            row,
            without_prefix(subject, "sub-"),
            (path,),
            session=None if session is None else without_prefix(session, "ses-"),
            labels=masks.get((subject, session)),
            label_scheme=scheme,
        )
        for row, ((subject, session), path) in enumerate(images.items(), start=FIRST_ROW)
    ]
    named = ((name, path) for key, path in images.items() for name in key if name)
    left_out += folders_without_image(folder, named, expected=pattern)
    return _require_found(folder, listing_of(found, more=left_out), expected=pattern)


def detect_layout(folder: Path, *, follow_links: bool = False) -> DatasetLayout:
    """Detect the layout of a data set from the names of its files.

    Raises:
        ManifestError: The files match no layout, or several.
    """
    left_out: list[LeftOut] = []
    paths = walk_files(folder, left_out, folders=True, follow_links=follow_links)
    found = {layout for path in paths if (layout := _layout_of(path))}
    known = found - {DatasetLayout.NIFTI} or found
    if len(known) != 1:
        links = sum(item.remedy == FOLLOW_LINKS for item in left_out)
        follow = f"Links that lead out of the folder: {links}; give --follow-links if you trust them. " if links else ""
        raise ManifestError(
            f"{folder}: expected the files of one layout, found {', '.join(sorted(known)) or 'none that is known'}.",
            hint=f"{follow}Give the layout with --layout; for other names, {_pattern_hint(folder)}.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return known.pop()


def _layout_of(path: Path) -> DatasetLayout | None:
    matches: Mapping[DatasetLayout, Callable[[], bool]] = {
        DatasetLayout.ACDC: lambda: bool(
            re.fullmatch(r"Info\.cfg|patient\d+_(4d|frame\d+)(_gt)?\.nii(\.gz)?", path.name)
        ),
        DatasetLayout.UKB: lambda: bool((match := _UKB.fullmatch(path.name)) and match["field"] == _UKB_SHORT_AXIS),
        DatasetLayout.UKBB_CARDIAC: lambda: bool(
            re.fullmatch(r"((seg|label)_)?(sa|la_\dch)(_E[DS])?\.nii(\.gz)?", path.name)
        ),
        DatasetLayout.MNMS: lambda: bool(_MNMS.fullmatch(path.name)) or bool(re.search(r"_sa_gt\.nii", path.name)),
        DatasetLayout.NIFTI: lambda: bool(_NIFTI.fullmatch(path.name)),
    }
    return next((layout for layout, is_match in matches.items() if is_match()), None)


def _require_found(folder: Path, listing: Listing, *, expected: str) -> Listing:
    if not listing.cases and not listing.left_out:
        hint = "Check the folder and the layout"
        raise ManifestError(
            f"{folder}: expected files like {expected}, found none.",
            hint=f"{hint}; for other names, {_pattern_hint(folder)}.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return listing


def _pattern_hint(folder: Path) -> str:
    """How to name the files of a folder by a pattern; the example is a NIfTI file, a short axis if one is named so."""
    images = [path for path in islice(walk_files(folder, []), _MOST_EXAMPLES) if _NIFTI.fullmatch(path.name)]
    first = next((path for path in images if _SHORT_AXIS.search(path.name)), images[0] if images else None)
    example = "{subject_id}/sa.nii.gz"
    if first is not None:
        parts = first.relative_to(folder).parts
        labelled = re.search(r"(?<=sub-)[A-Za-z0-9]+", "/".join(parts))
        subject = labelled[0] if labelled else parts[-2] if len(parts) > 1 else first.name.partition(".")[0]
        example = "/".join(parts).replace(subject, "{subject_id}")
        example = redact_ids(re.sub(r"ses-[A-Za-z0-9]+", "ses-{session}", example))
    return f"--layout nifti --pattern '{example}'"


def _acdc_folders(folder: Path, unreadable: list[LeftOut], *, follow_links: bool) -> Iterator[Path]:
    """Yield the folders of patients, by their name or by ``Info.cfg``."""
    for inner, entries in walk_folders(folder, unreadable, follow_links=follow_links):
        if inner != folder and inner.name.startswith("patient"):
            described = any(entry.name == "Info.cfg" for entry in entries)
            if described or re.fullmatch(r"patient\d+", inner.name):
                yield inner


def _acdc_case(patient: Path, row: int) -> Case | LeftOut:
    try:
        lines = (patient / "Info.cfg").read_text().splitlines()
        info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        numbers = int(info["ED"]), int(info["ES"])
    except FileNotFoundError:
        return LeftOut(patient, "Info.cfg is missing, which names the frames of ED and ES.", COPY_AGAIN)
    except (OSError, ValueError, LookupError):
        return LeftOut(patient, "Info.cfg does not give ED and ES as numbers of frames.", COPY_AGAIN)
    frames = tuple(_existing(patient, f"{patient.name}_frame{number:02d}.nii") for number in numbers)
    masks = tuple(_existing(patient, f"{patient.name}_frame{number:02d}_gt.nii") for number in numbers)
    cine, problem = _acdc_cine(patient, frames=max(numbers))
    if cine is None and None in frames:
        reason = f"{problem}, and there are no files of the frames of ED and ES."
        return LeftOut(patient, redact_ids(reason, (patient.name,)), COPY_AGAIN)
    case = Case(
        row=row,
        subject_id=patient.name,
        image=(cine,) if cine else tuple(frame for frame in frames if frame),
        labels_ed=masks[0],
        labels_es=masks[1],
        label_scheme=LabelScheme.ACDC,
        ed=numbers[0] - 1 if cine else 0,
        es=numbers[1] - 1 if cine else 1,
    )
    known = (("height_cm", "Height"), ("weight_kg", "Weight"), ("group", "Group"))
    cells = {column: info[name] for column, name in known if not is_missing(info.get(name, ""))}
    return checked(case, cells, path=patient, source="Info.cfg, ")


def _acdc_cine(patient: Path, *, frames: int) -> tuple[Path | None, str]:
    """The 4-D cine of a patient, or the reason why there is none that holds a frame of this number."""
    cine = _existing(patient, f"{patient.name}_4d.nii")
    if cine is None:
        return None, "The 4-D cine is missing"
    try:
        found = nifti.inspect(cine).frames
    except CaseError as error:
        return None, f"The 4-D cine cannot be read: {error.message.rstrip('.')}"
    if found < frames:
        return None, f"Info.cfg names frame {frames}, the 4-D cine has {found} frames"
    return cine, ""


def _mnms_table(folder: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Return row number and cells of each subject, from the table that has the columns of M&Ms."""
    for path in sorted(folder.glob("[!.]*.csv")):
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


def _ukbb_cardiac_case(subject: Path, *, row: int) -> Case | LeftOut:
    cine, whole = _existing(subject, "sa.nii"), _existing(subject, "seg_sa.nii")
    phases = [_existing(subject, f"sa_{phase}.nii") for phase in ("ED", "ES")]
    masks = [
        _existing(subject, f"label_sa_{phase}.nii") or _existing(subject, f"seg_sa_{phase}.nii")
        for phase in ("ED", "ES")
    ]
    pair = tuple(phase for phase in phases if phase)
    if cine is None and len(pair) < 2:
        return LeftOut(subject, "Expected sa.nii.gz, or both sa_ED.nii.gz and sa_ES.nii.gz.", COPY_AGAIN)
    case = Case(row, without_prefix(subject.name, "sub-"), (cine,) if cine else pair)
    if cine is None:
        case = replace(case, ed=0, es=1, labels_ed=masks[0], labels_es=masks[1])
    elif whole is not None:
        case = replace(case, labels=whole)
    else:
        labelled = [phase if mask else None for phase, mask in zip(phases, masks, strict=True)]
        try:
            frames = [nifti.frame_of(cine, phase) if phase else None for phase in labelled]
        except CaseError as error:
            return LeftOut(subject, redact_ids(error.message, (subject.name,)), error.hint)
        kept = [mask if frame is not None else None for mask, frame in zip(masks, frames, strict=True)]
        case = replace(case, ed=frames[0], es=frames[1], labels_ed=kept[0], labels_es=kept[1])
    return checked(case, {}, path=subject)


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for suffix in (".gz", "") if (path := folder / f"{name}{suffix}").is_file()), None)


def _matching(
    folder: Path, pattern: str, left_out: list[LeftOut], *, follow_links: bool
) -> dict[tuple[str, str | None], Path]:
    """Return the files that match a pattern, by subject and session."""
    if "{subject_id}" not in pattern:
        raise ManifestError(
            f"The pattern '{pattern}' does not say where the subject's id is.",
            hint="Include {subject_id}, for instance '{subject_id}/sa.nii.gz'.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    regex = _pattern_regex(pattern)
    found = {}
    for path in walk_files(folder, left_out, follow_links=follow_links):
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
