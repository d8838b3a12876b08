"""The manifest: a table with one row a subject and visit, read into cases, or written from a data set on disk.

Reading checks the text of every cell and lists all problems at once. Whether files exist is asked later, by
``validate`` for the whole cohort and when a subject's turn comes, so that one missing file costs one subject.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cmnet_cli.cases import COLUMNS, Case, Problem, read_row, write_row
from cmnet_core.errors import CaseError, ErrorCode, ManifestError
from cmnet_core.io import nifti
from cmnet_core.io.atomic import replacing
from cmnet_core.io.nifti import LabelScheme

__all__ = [
    "COLUMNS",
    "Case",
    "Manifest",
    "Problem",
    "check_manifest",
    "from_acdc",
    "from_nifti",
    "read_manifest",
    "write_manifest",
]

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_PARQUET = (".parquet", ".pq")
_REQUIRED = ("subject_id", "image")
_FIRST_ROW = 2  # the header is row 1, as a spreadsheet counts


@dataclass(frozen=True, slots=True)
class Manifest:
    """The cases of a cohort, and a digest of what the table holds, whatever its format and column order."""

    cases: tuple[Case, ...]
    digest: str


def read_manifest(path: Path) -> Manifest:
    """Read a manifest (CSV, TSV or Parquet).

    Raises:
        ManifestError: With every problem of every row.
    """
    manifest, problems = check_manifest(path)
    if problems:
        raise ManifestError(
            f"{path}: {len(problems)} problem(s) in the manifest.\n" + "\n".join(f"  {p}" for p in problems) + "\n",
            hint="Correct them; nothing ran.",
            code=problems[0].code,
        )
    return manifest


def check_manifest(path: Path) -> tuple[Manifest, tuple[Problem, ...]]:
    """Read a manifest as far as it can be read.

    Returns:
        The rows that can be used, and every problem of the others.

    Raises:
        ManifestError: The file cannot be read as a table at all.
    """
    table = _read_table(path)
    problems = _table_problems(table)
    if problems:
        return Manifest((), _digest(())), tuple(problems)
    cases: list[Case] = []
    texts: list[dict[str, str]] = []
    for row, cells in table.rows:
        case, found = read_row(row, cells, folder=path.parent)
        problems += found
        if not found:
            cases.append(case)
            texts.append(cells)
    problems += _duplicates(cases)
    return Manifest(tuple(cases), _digest(texts)), tuple(sorted(problems, key=lambda p: p.row or 0))


def write_manifest(path: Path, cases: Sequence[Case]) -> None:
    """Write cases as CSV, TSV or Parquet, as the suffix says.

    Paths inside the manifest's folder are written relative to it, so that the two can be moved together; all others
    are absolute.

    Raises:
        ManifestError: The suffix is none of these.
    """
    _known_suffix(path)
    rows = [write_row(case, folder=path.parent) for case in cases]
    used = {column for cells in rows for column in cells}
    extra = sorted(used - set(COLUMNS))
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c in used or c in _REQUIRED] + extra, dtype=str).fillna(
        ""
    )
    with replacing(path) as temporary:
        if path.suffix in _PARQUET:
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, sep=_SEPARATORS[path.suffix], index=False)


def from_acdc(folder: Path) -> tuple[Case, ...]:
    """List the patients of ACDC: the tree with ``training/`` and ``testing/``, or one folder of patients.

    The 4-D cine is taken where it is there, else the two frames of ED and ES. ``Info.cfg`` counts frames from 1.

    Raises:
        ManifestError: There are no patients, or some lack what is needed; all are listed.
    """
    patients = sorted(path.parent for path in folder.rglob("patient*/Info.cfg"))
    cases: list[Case] = []
    problems: list[str] = []
    for patient in patients:
        try:
            cases.append(_acdc_case(patient, row=_FIRST_ROW + len(cases)))
        except (OSError, ValueError, LookupError) as error:
            problems.append(f"  {patient}: {error}")
    _require_found(folder, cases, problems, looked_for="patientNNN/Info.cfg")
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
        for row, ((subject, session), path) in enumerate(_matching(folder, pattern).items(), start=_FIRST_ROW)
        if path not in of_masks
    ]
    _require_found(folder, cases, [], looked_for=pattern)
    return tuple(cases)


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns, and the rows by number, each with its cells that are not empty."""

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]


def _read_table(path: Path) -> _Table:
    _known_suffix(path)
    try:
        table = _parquet_as_text(path) if path.suffix in _PARQUET else _text_table(path)
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path}: reading the manifest failed: {error}.",
            hint="Check the path; save the table as CSV in UTF-8 with one header row.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        ) from error
    columns = tuple(str(column).strip() for column in table.columns)
    rows = []
    for number, values in enumerate(table.itertuples(index=False, name=None), start=_FIRST_ROW):
        cells = {c: text for c, value in zip(columns, values, strict=True) if (text := str(value).strip())}
        if cells:
            rows.append((number, cells))
    return _Table(columns, rows)


def _text_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep=_SEPARATORS[path.suffix],
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,  # blank lines count, or row numbers would not be those of the editor
        encoding="utf-8-sig",
    )


def _parquet_as_text(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    return table.astype(object).where(table.notna(), "").astype(str)


def _known_suffix(path: Path) -> None:
    if path.suffix not in (*_SEPARATORS, *_PARQUET):
        raise ManifestError(
            f"{path}: a manifest is a .csv, .tsv or .parquet file, found '{path.suffix}'.",
            hint="Save the table as CSV.",
            code=ErrorCode.MANIFEST_UNREADABLE,
        )


def _table_problems(table: _Table) -> list[Problem]:
    missing = [column for column in _REQUIRED if column not in table.columns]
    if missing:
        hints = [_rename_hint(name, table.columns) for name in missing]
        return [
            Problem(None, name, ErrorCode.MANIFEST_COLUMN, "There is no such column.", hint)
            for name, hint in zip(missing, hints, strict=True)
        ]
    if not table.rows:
        return [Problem(None, None, ErrorCode.MANIFEST_EMPTY, "The manifest has no rows.", "Add one row a subject.")]
    return []


def _rename_hint(missing: str, columns: Iterable[str]) -> str:
    by_lower = {column.lower().replace(" ", "_"): column for column in columns}
    alike = difflib.get_close_matches(missing, by_lower, n=1, cutoff=0.6)
    if alike:
        return f"Rename '{by_lower[alike[0]]}' to '{missing}'."
    return f"Add it, or check that commas separate the columns; found: {', '.join(sorted(columns)) or 'none'}."


def _duplicates(cases: Sequence[Case]) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for case in cases:
        # File systems that ignore case would give both the same folder.
        row = first.setdefault(case.case_id.lower(), case.row)
        if row != case.row:
            message = f"'{case.case_id}' stands in row {row} already."
            hint = "Give each row an id of its own, or tell visits apart in the column 'session'."
            problems.append(Problem(case.row, "subject_id", ErrorCode.MANIFEST_ROW, message, hint))
    return problems


def _digest(rows: Iterable[Mapping[str, str]]) -> str:
    canonical = sorted(json.dumps(cells, sort_keys=True, ensure_ascii=True) for cells in rows)
    return hashlib.sha256("\n".join(canonical).encode()).hexdigest()


def _require_found(folder: Path, cases: Sequence[Case], problems: Sequence[str], *, looked_for: str) -> None:
    if problems:
        raise ManifestError(
            f"{folder}: {len(problems)} subject(s) cannot be listed.\n" + "\n".join(problems) + "\n",
            hint="Download them again, or move them out of the folder.",
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
    for path in sorted(folder.rglob("*")):
        match = regex.fullmatch(path.relative_to(folder).as_posix())
        if match and path.is_file():
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
