"""A case: one row of the manifest, read from the text of its cells and written back."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from cmnet_cli.cohort.case_id import case_id_of, without_prefix
from cmnet_cli.privacy.deidentify import redact_ids
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.label_values import LabelMapping, parse_label_map, write_label_map
from cmnet_core.labels import LabelScheme

_T = TypeVar("_T")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORBIDDEN_IN_ID = re.compile(r"[^A-Za-z0-9_-]")
_NUMBER_AS_ID = re.compile(r"\d+\.0*|\d[.,]?\d*[eE]\+?\d+")  # 9900001.0, 9.90E+06
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Limits of usual file systems in bytes."""

_TOO_LONG = ("No file can have a name this long.", "Correct the path.")
_RANGES = {
    "frame_ms": (1.0, 1000.0),
    "heart_rate_bpm": (20.0, 300.0),
    "age_years": (0.0, 130.0),
    "height_cm": (30.0, 250.0),
    "weight_kg": (1.0, 400.0),
}


def _is_too_long(path: str) -> bool:
    length = len(path.encode("utf-8", "replace"))
    return length > _LONGEST_PATH or any(
        len(name.encode("utf-8", "replace")) > _LONGEST_NAME for name in Path(path).parts
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One subject at one visit.

    Attributes:
        row: Number of the row in the manifest; the header is row 1.
        subject_id: Id of the subject: letters, digits, ``-`` and ``_``.
        session: The visit, or None.
        image: A 4-D NIfTI file, a folder or zip of DICOM files, or the two 3-D NIfTI files of ED and ES.
        labels: 4-D reference mask, or None.
        labels_ed: Reference mask of the ED frame, or None.
        labels_es: Reference mask of the ES frame, or None.
        label_scheme: Label convention of the masks.
        label_map: Values of the masks that differ from it, and the tissue of each.
        dicom_study: Of DICOM files of several persons or studies, the one to read; None for the only one.
        follow_links: Whether links that lead out of a folder of DICOM files are followed.
        ed: End-diastolic frame of ``image``, from 0. For a pair of files, ED is always 0 and ES 1.
        es: End-systolic frame of ``image``, from 0.
        frame_ms: Time between two frames in ms; takes precedence over the header of the image.
        heart_rate_bpm: Heart rate; gives the time between two frames where ``frame_ms`` and the header lack it.
        sex: ``female``, ``male`` or None.
        age_years: Age at the visit.
        height_cm: Body height.
        weight_kg: Body weight.
        group: Any grouping, such as the diagnosis.
        site: Imaging centre.
        scanner: Scanner model or vendor.
        extra: Cells of further columns, which are copied to the tables of results.
    """

    row: int
    subject_id: str
    image: tuple[Path, ...]
    session: str | None = None
    labels: Path | None = None
    labels_ed: Path | None = None
    labels_es: Path | None = None
    label_scheme: LabelScheme = LabelScheme.CMNET
    label_map: LabelMapping = ()
    dicom_study: str | None = None
    follow_links: bool = False
    ed: int | None = None
    es: int | None = None
    frame_ms: float | None = None
    heart_rate_bpm: float | None = None
    sex: str | None = None
    age_years: float | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    group: str | None = None
    site: str | None = None
    scanner: str | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def case_id(self) -> str:
        """The name of this subject and visit in all outputs: ``sub-<id>`` or ``sub-<id>_ses-<n>``."""
        return case_id_of(self.subject_id, self.session)

    @property
    def has_masks(self) -> bool:
        """Whether the manifest names reference masks of ED and ES."""
        return self.labels is not None or (self.labels_ed is not None and self.labels_es is not None)


COLUMNS = tuple(f.name for f in fields(Case) if f.name not in ("row", "extra"))
"""The columns of a manifest, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a manifest or of a file that it names.

    Attributes:
        row: Number of the row, the header being row 1; None for a problem of the whole table.
        column: Name of the column; None for a problem of the whole row.
        code: Error code.
        message: What was expected and what was found.
        hint: What the user can do about it.
        warning: Whether the row can be used nevertheless.
    """

    row: int | None
    column: str | None
    code: ErrorCode
    message: str
    hint: str
    warning: bool = False

    def __str__(self) -> str:
        place = ", ".join(([f"row {self.row}"] if self.row else []) + ([self.column] if self.column else []))
        return f"{place}: {self.message} {self.hint}" if place else f"{self.message} {self.hint}"


def read_row(row: int, cells: Mapping[str, str], *, folder: Path) -> tuple[Case, list[Problem]]:
    """Read the cells of a row into a case, and list the problems of the cells.

    Args:
        row: Number of the row, the header being row 1.
        cells: The cells that are not empty, by column.
        folder: The folder to which paths are relative.
    """
    reader = _RowReader(row, cells, folder)
    return reader.case(), reader.problems


def write_row(case: Case, *, folder: Path) -> dict[str, str]:
    """Return the cells of a case that are not empty; paths inside ``folder`` are relative to it, others absolute."""
    pair = len(case.image) == 2
    cells = dict(case.extra)
    for column in COLUMNS:
        value = getattr(case, column)
        if column == "image":
            cells[column] = ";".join(_path_cell(part, folder) for part in case.image)
        elif isinstance(value, Path):
            cells[column] = _path_cell(value, folder)
        elif column == "label_map":
            cells |= {column: write_label_map(value)} if value else {}
        elif isinstance(value, bool):
            cells |= {column: "yes"} if value else {}
        elif isinstance(value, float):
            cells[column] = f"{value:.10g}"
        elif (
            value is not None
            and not (pair and column in ("ed", "es"))
            and (column != "label_scheme" or case.labels or case.labels_ed or case.labels_es)
        ):
            cells[column] = str(value)
    return cells


def raise_problems(path: Path, problems: Sequence[object], *, hint: str, code: ErrorCode) -> None:
    """Raise one error that lists all problems of a table or data set; do nothing if there are none.

    Raises:
        ManifestError: There are problems.
    """
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise ManifestError(f"{path}: {len(problems)} problem(s).{lines}\n", hint=hint, code=code)


class _BadCellError(Exception):
    """The text of one cell cannot be used: the reason, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


class _RowReader:
    """Reads the cells of one row into a case, and collects their problems."""

    def __init__(self, row: int, cells: Mapping[str, str], folder: Path) -> None:
        self.row = row
        self.cells = cells
        self.folder = folder
        self.problems: list[Problem] = []

    def case(self) -> Case:
        image = self._image()
        pair = len(image) == 2
        case = Case(
            row=self.row,
            subject_id=without_prefix(self._parsed("subject_id", _identifier) or "", "sub-"),
            session=self._parsed("session", lambda text: without_prefix(_identifier(text), "ses-")),
            image=image,
            labels=self._path("labels"),
            labels_ed=self._path("labels_ed"),
            labels_es=self._path("labels_es"),
            label_scheme=self._parsed("label_scheme", _scheme) or LabelScheme.CMNET,
            label_map=self._parsed("label_map", _label_map) or (),
            dicom_study=self._parsed("dicom_study", _study),
            follow_links=self._parsed("follow_links", _yes_or_no) or False,
            ed=0 if pair else self._parsed("ed", _frame),
            es=1 if pair else self._parsed("es", _frame),
            sex=self._parsed("sex", _sex),
            frame_ms=self._quantity("frame_ms"),
            heart_rate_bpm=self._quantity("heart_rate_bpm"),
            age_years=self._quantity("age_years"),
            height_cm=self._quantity("height_cm"),
            weight_kg=self._quantity("weight_kg"),
            group=self.cells.get("group"),
            site=self.cells.get("site"),
            scanner=self.cells.get("scanner"),
            extra={column: text for column, text in self.cells.items() if column not in COLUMNS},
        )
        self._check_together(case)
        return case

    def _parsed(self, column: str, parse: Callable[[str], _T]) -> _T | None:
        text = self.cells.get(column)
        try:
            return None if text is None else parse(text)
        except _BadCellError as error:
            self._add_problem(column, error.message, error.hint)
            return None

    def _add_problem(self, column: str, message: str, hint: str) -> None:
        message = redact_ids(message, (self.cells.get("subject_id", ""),))
        self.problems.append(Problem(self.row, column, ErrorCode.MANIFEST_ROW, message, hint))

    def _quantity(self, column: str) -> float | None:
        low, high = _RANGES[column]
        return self._parsed(column, lambda text: _number(text, low=low, high=high))

    def _path(self, column: str) -> Path | None:
        text = self.cells.get(column)
        if text and _is_too_long(text):
            self._add_problem(column, *_TOO_LONG)
            return None
        return self.folder / text if text else None

    def _image(self) -> tuple[Path, ...]:
        parts = [part.strip() for part in self.cells.get("image", "").split(";")]
        if len(parts) > 2 or not all(parts):
            self._add_problem(
                "image",
                f"Expected one path, or two as 'ED.nii.gz;ES.nii.gz', found '{self.cells.get('image', '')}'.",
                "Give a 4-D NIfTI file, a folder or zip of DICOM files, or the two files of ED and ES.",
            )
        elif any(_is_too_long(part) for part in parts):
            self._add_problem("image", *_TOO_LONG)
        elif len(set(parts)) < len(parts):
            self._add_problem("image", "The images of ED and ES are the same file.", "Give the file of each frame.")
        return tuple(self.folder / part for part in parts)

    def _check_together(self, case: Case) -> None:
        if not self.cells.get("subject_id"):
            self._add_problem(
                "subject_id",
                "The cell is empty or a missing value such as NA.",
                "Give the id of the subject in each row.",
            )
        for name, frame, mask in (("ed", case.ed, case.labels_ed), ("es", case.es, case.labels_es)):
            if mask and frame is None and name not in self.cells:
                self._add_problem(
                    name, f"labels_{name} is given without {name}.", "Give the frame of the mask, counted from 0."
                )
        if case.labels and (case.labels_ed or case.labels_es):
            self._add_problem(
                "labels", "Both labels and labels_ed or labels_es are given.", "Keep one of the two forms."
            )
        if case.ed is not None and case.ed == case.es:
            self._add_problem("es", f"ed and es are both {case.ed}.", "Correct one of them, or leave both empty.")


def _identifier(text: str) -> str:
    if not _ID.fullmatch(text):
        # The id is not repeated: it may identify a participant, and its characters may control a terminal.
        wrong = sorted(set(_FORBIDDEN_IN_ID.findall(text)))
        found = f"found {', '.join(map(ascii, wrong[:8]))} in it" if wrong else f"found {len(text)} characters"
        raise _BadCellError(
            f"Expected 1 to 64 letters, digits, '-' or '_', {found}.",
            "A table program made a number of this id: store the column as text."
            if _NUMBER_AS_ID.fullmatch(text)
            else "Choose an id without spaces, slashes and accented letters.",
        )
    return text


def _scheme(text: str) -> LabelScheme:
    if text not in list(LabelScheme):
        raise _BadCellError(f"Expected a label scheme, found '{text}'.", f"Choose one of {', '.join(LabelScheme)}.")
    return LabelScheme(text)


def _label_map(text: str) -> LabelMapping:
    try:
        return parse_label_map(text)
    except ValueError:
        raise _BadCellError(
            f"Expected values and their tissues such as 500=1,200=2,600=3, found '{text}'.",
            "The tissues are 0 background, 1 LV, 2 myocardium and 3 RV.",
        ) from None


def _study(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8}|[0-9.]{1,64}", text):
        raise _BadCellError(
            f"Expected the digest of a patient or the end of a StudyInstanceUID, found '{text}'.",
            "Copy it from the error that cmnet validate prints for a folder of several studies.",
        )
    return text


def _yes_or_no(text: str) -> bool:
    known = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in known:
        raise _BadCellError(f"Expected yes or no, found '{text}'.", "Write yes or no, or leave the cell empty.")
    return known[text.lower()]


def _frame(text: str) -> int:
    # Spreadsheets and pandas write integers as 5.0 if a cell of the column is empty.
    if not re.fullmatch(r"\d{1,6}(\.0*)?", text):
        raise _BadCellError(
            f"Expected a frame number, found '{text}'.", "Count frames from 0, or leave the cell empty."
        )
    return int(float(text))


def _sex(text: str) -> str:
    if text.lower() not in _SEXES:
        raise _BadCellError(
            f"Expected female or male, found '{text}'.", "Write f, m, female or male, or leave the cell empty."
        )
    return _SEXES[text.lower()]


def _number(text: str, *, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _BadCellError(
            f"Expected a number from {low:g} to {high:g}, found '{text}'.",
            "Write a number, or leave the cell empty; NA, n/a and NaN count as empty.",
        ) from None
    if not low <= value <= high:
        raise _BadCellError(
            f"Expected a number from {low:g} to {high:g}, found '{text}'.",
            "A code for a missing answer, such as -1 or -3 of UK Biobank, must be an empty cell."
            if value < 0
            else "Check the unit in the column's name.",
        )
    return value


def _path_cell(path: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(path))
    inside = absolute.is_relative_to(os.path.abspath(folder))
    return str(absolute.relative_to(os.path.abspath(folder)) if inside else absolute)
