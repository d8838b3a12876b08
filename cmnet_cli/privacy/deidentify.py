"""De-identification: ids removed from logs and errors, and outputs that may be shared outside the institution.

Logs and errors never name a participant: :func:`redact_ids` removes ids from their text, and
:meth:`Deidentifier.pseudonym` returns a name to use instead. Tables and pages contain ids unless ``--share-safe`` is
given.

To make an output share-safe, open one :class:`Deidentifier` per command and pass everything that is written through it.
Without ``--share-safe`` it changes nothing, so that callers need no branches::

    deidentifier = open_deidentifier(run.share_key, share_safe=share_safe)
    deidentifier.name("sub-9900001_ses-2")    # for titles, links and file names: 'sub-x5a0c3f9d21_ses-2'
    deidentifier.text(failure.message)        # ids, paths and host names replaced
    deidentifier.host(row["host"])            # 'host-1', 'host-2', ...
    deidentifier.row(row)                     # all of these for a row of a table
    deidentifier.count(7)                     # '7', or '10 or fewer'
    deidentifier.hides(7)                     # whether a group of 7 must be suppressed
"""

import hashlib
import hmac
import os
import platform
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cmnet_cli.seals import KEY_BYTES, open_key, seal_key
from cmnet_core.errors import ErrorCode, ManifestError

MIN_GROUP_SIZE = 11
"""Minimum size of a group that may be published, by the rules of UK Biobank."""

_ID = "<id>"
_CASE = re.compile(r"sub-(?P<subject>.+?)(?:_ses-(?P<session>[A-Za-z0-9-]+))?")
# The number of a visit says nothing; a longer label may be a date.
_VISIT_NUMBER = re.compile(r"\d{1,2}")
_PSEUDONYM = re.compile(r"sub-x[0-9a-f]{10}(_ses-(\d{1,2}|x[0-9a-f]{6}))?")
# An id within a file name or path; the same text as a word of its own is not matched.
_IN_A_NAME = r"(?<![A-Za-z0-9])(?:(?<=[/\\_'\"-]){id}(?![A-Za-z0-9])|{id}(?=[_/\\'\"]|\.[A-Za-z]))"
# Seven digits in a file name are a participant id of UK Biobank; as a word of its own they are a number.
_EID = re.compile(_IN_A_NAME.format(id=r"[1-9]\d{6}"))
# An id of this length that contains a digit cannot be an ordinary word of a message.
_UNMISTAKABLE = re.compile(r"(?=.*\d).{4,}")
_CASE_IN_TEXT = re.compile(r"\bsub-[A-Za-z0-9-]+(?:_ses-[A-Za-z0-9-]+)?(?![A-Za-z0-9])")
# The digest of a DICOM PatientID, which guesses can resolve, and the end of a StudyInstanceUID.
_STUDY = re.compile(r"\b(?P<kind>patient|study) (?P<quote>'?)(?P<value>[0-9a-f]{8}|[\d.]*\d)(?P=quote)(?![\w-])")
# The text of a cell in the manifest, as messages about it quote it.
_CELL = re.compile(r"\bfound '.*?'(?=[.,;:\s]|\Z)", re.DOTALL)
# Folders and files may have blanks in their names, within one sentence and up to a known ending or a colon.
_LETTER = r"(?:<id>|(?!\. )[^/:;,'\"<>()\n])"
_ENDING = r"\.(?:nii(?:\.gz)?|dcm|ima|zip|tar|gz|csv|tsv|parquet|json|jsonl|npz|safetensors|toml|html|md|txt|log|py)"
_PATH = re.compile(
    rf"(?<![\w.<>/])~?/(?P<folders>(?:{_LETTER}+/)*)"
    rf"(?P<name>{_LETTER}*?(?:{_ENDING}(?![\w.-])|(?=:))|[^\s/:;,'\"<>()]*)",
    re.IGNORECASE,
)
# What cmnet itself writes and consists of. Other files may have the names of persons.
_OWN_NAME = re.compile(
    r"[\w-]+\.py|\.share-key|index\.html|(run|digests|dataset_description|data_dictionary|submission|jobs)\.json|"
    r"cohort\.parquet|outcomes\.jsonl|(evaluation|comparison)\.md|evaluation_subjects\.csv|"
    r"sub-x[0-9a-f]{10}(_ses-(\d{1,2}|x[0-9a-f]{6}))?(_desc-[a-z0-9]+|_motion|_posterior|_[a-z]+)?(_[a-z]+)?\.[a-z.]+"
)
_OWN_TABLE = re.compile(r"tables/[a-z_]+\.parquet")


def subject_of(case_id: str) -> str:
    """Return the id of the subject of a case.

    >>> subject_of("sub-9900001_ses-2")
    '9900001'
    """
    found = _CASE.fullmatch(case_id)
    return found["subject"] if found else case_id


def ids_in(case_id: str) -> tuple[str, ...]:
    """Return what must not be printed of a case: the id of its subject, and the label of its visit, if not a number.

    >>> ids_in("sub-9900001_ses-2"), ids_in("sub-9900001_ses-20231105")
    (('9900001',), ('9900001', '20231105'))
    """
    found = _CASE.fullmatch(case_id)
    session = found["session"] if found else None
    hidden = session is not None and not _VISIT_NUMBER.fullmatch(session)
    return (subject_of(case_id), session) if session and hidden else (subject_of(case_id),)


def redact_ids(text: str, ids: Collection[str] = ()) -> str:
    """Remove ids of participants from a text: the given ones, and those with the format of UK Biobank.

    Ids are found within paths and file names. An id that cannot be an ordinary word is found everywhere.

    >>> redact_ids("/data/9900001_20209_2_0.zip: reading p1.nii failed", ["p1"])
    '/data/<id>_20209_2_0.zip: reading <id>.nii failed'
    """
    for known in sorted(filter(None, ids), key=len, reverse=True):
        alone = rf"(?<![A-Za-z0-9]){re.escape(known)}(?![A-Za-z0-9])"
        text = re.sub(alone if _UNMISTAKABLE.fullmatch(known) else _IN_A_NAME.format(id=re.escape(known)), _ID, text)
    return _EID.sub(_ID, text)


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """Replaces ids, paths and host names in outputs, if these must be share-safe.

    Attributes:
        share_safe: Whether anything is replaced.
        key: Secret key of the run from which pseudonyms are derived. It must remain in the run folder: with the key,
            the pseudonym of any id can be computed.
    """

    share_safe: bool
    key: bytes
    _hosts: dict[str, str] = field(default_factory=dict)

    def name(self, case_id: str) -> str:
        """Return the name of a case for titles, links and file names."""
        return self.pseudonym(case_id) if self.share_safe else case_id

    def subject(self, subject_id: str) -> str:
        """Return the name of a subject without its visit."""
        return self.name(f"sub-{subject_id}").removeprefix("sub-")

    def pseudonym(self, case_id: str) -> str:
        """Return the pseudonym of a case, which is constant within a run and reveals nothing without the run's key.

        The number of the visit is kept, so that the visits of a subject can be related. Other labels of visits, which
        may be dates, are replaced.
        """
        found = _CASE.fullmatch(case_id)
        subject, session = (found["subject"], found["session"]) if found else (case_id, None)
        name = f"sub-x{self._digest(subject, 10)}"
        return f"{name}_ses-{self._session(subject, session)}" if session else name

    def session(self, subject_id: str, session: str) -> str:
        """Return the label of a subject's visit."""
        return self._session(subject_id, session) if self.share_safe else session

    def _session(self, subject: str, session: str) -> str:
        if _VISIT_NUMBER.fullmatch(session):
            return session
        # The subject is part of it: equal dates of two subjects must not be recognised as equal.
        return f"x{self._digest(f'{subject}/{session}', 6)}"

    def _digest(self, text: str, digits: int) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()[:digits]

    def run_name(self, root: Path) -> str:
        """Return a name of a run under which a browser stores what belongs to its report.

        It is the same in every report of the run; that of a share-safe report does not reveal the path.
        """
        if self.share_safe:
            return self._digest("run", 12)
        return hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]

    def text(self, text: str, ids: Collection[str] = ()) -> str:
        """Return a message without ids, the name of this machine, cells, and names of folders and of files of the user.

        Persons and studies of DICOM files are replaced by pseudonyms, which remain different for different ones.
        """
        if not self.share_safe:
            return text
        text = _CASE_IN_TEXT.sub(lambda found: self._pseudonym_in_text(found[0]), text)
        text = _STUDY.sub(self._pseudonym_of_study, text)
        text = _PATH.sub(_hide_path, _CELL.sub("found '<text>'", text))
        for host in {platform.node(), *self._hosts} - {""}:
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", self.host(host) or "", text)
        return redact_ids(text, ids)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of a table with ids, paths and host names replaced."""
        if not self.share_safe:
            return dict(row)
        replaced: dict[str, Callable[[str], Any]] = {
            "case_id": self.name,
            "subject_id": self.subject,
            "host": self.host,
            "session": partial(self.session, str(row.get("subject_id", ""))),
        }
        ids = ids_in(str(row.get("case_id", "")))
        return {
            name: replaced.get(name, partial(self.text, ids=ids))(value) if isinstance(value, str) else value
            for name, value in row.items()
        }

    def host(self, name: str | None) -> str | None:
        """Return the name of a machine."""
        if not self.share_safe or not name:
            return name
        return self._hosts.setdefault(name, f"host-{len(self._hosts) + 1}")

    def count(self, number: int) -> str:
        """Return a count of subjects as text."""
        return f"{MIN_GROUP_SIZE - 1} or fewer" if self.hides(number) else str(number)

    def hides(self, number: int) -> bool:
        """Whether a group of this size must be suppressed."""
        return self.share_safe and 0 < number < MIN_GROUP_SIZE

    def _pseudonym_in_text(self, found: str) -> str:
        # The text may already contain pseudonyms.
        return found if _PSEUDONYM.fullmatch(found) else self.pseudonym(found)

    def _pseudonym_of_study(self, found: re.Match[str]) -> str:
        return f"{found['kind']} {found['quote']}x{self._digest(found['value'], 6)}{found['quote']}"


def _hide_path(found: re.Match[str]) -> str:
    """Return a path without its folders, and without its name unless cmnet has given it."""
    name = found["name"]
    if found[0] == "/":
        return "/"
    folder = found["folders"].rstrip("/").rpartition("/")[2]
    if _OWN_NAME.fullmatch(name) or _OWN_TABLE.fullmatch(f"{folder}/{name}"):
        return f".../{name}"
    ending = re.search(rf"{_ENDING}$", name, re.IGNORECASE)
    return f".../<name>{ending[0] if ending else ''}"


def redact_defect(trace: str) -> str:
    """Return the traceback of a defect without ids of participants, folders and names of files other than modules."""
    return open_deidentifier(None, share_safe=True).text(trace)


def open_deidentifier(key_file: Path | None, *, share_safe: bool) -> Deidentifier:
    """Open the pseudonyms of a run, and create its key if it has none.

    Args:
        key_file: The file of the run's key; None outside a run, where pseudonyms are valid for one command.
        share_safe: Whether to replace anything.
    """
    key = secrets.token_bytes(KEY_BYTES) if key_file is None else _read_or_create_key(key_file)
    return Deidentifier(share_safe, key)


def _read_or_create_key(path: Path) -> bytes:
    """Return the key in a file; the first of several processes creates it, atomically.

    Raises:
        ManifestError: The file is damaged: with a known key, such as an empty one, pseudonyms could be resolved.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".tmp-{secrets.token_hex(6)}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(seal_key(secrets.token_bytes(KEY_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
    try:
        key = open_key(path.read_bytes())
    except PermissionError as error:
        raise ManifestError(
            f"Only its owner may read {path}, which resolves the pseudonyms of this run.",
            hint="Ask the user who began the run to repeat the command with --group-readable.",
            code=ErrorCode.RUN,
        ) from error
    if key is None:
        raise ManifestError(
            f"{path} is damaged: it does not hold a key of {KEY_BYTES} bytes.",
            hint=f"cmnet verify --repair --run {path.parent} restores it from its copy.",
            code=ErrorCode.RUN,
        )
    return key
