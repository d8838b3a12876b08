"""Who is meant, without saying who: ids out of logs and errors, and pages and tables that may leave the room.

Logs and errors never name a participant: :func:`redact_ids` takes ids out of their text, and
:meth:`Deidentifier.name` gives
a name to put in their place. What a user asks to see, a table or a page, holds the ids unless ``--share-safe`` is
given.

How to make an output share-safe: open a :class:`Deidentifier` once a command and send through it whatever is
written. It changes nothing where ``--share-safe`` is not given, so that callers need no branches::

    sharing = open_sharing(run.share_key, share_safe=share_safe)
    sharing.name("sub-9900001_ses-2")         # titles, links, file names: 'sub-x5a0c3f9d21_ses-2' in its place
    sharing.text(failure.message)             # ids, paths and host names replaced
    sharing.host(row["host"])                 # 'host-1' for every machine that differs
    sharing.row(row)                          # all of that for a row of a table
    sharing.count(7)                          # '7', or '10 or fewer'
    sharing.hides(7)                          # whether a group of 7 must not be shown by itself
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

MIN_GROUP_SIZE = 11
"""A smaller group is not shown by itself: UK Biobank's rule for what may be published."""

_ID = "<id>"
_KEY_BYTES = 32
_CASE = re.compile(r"sub-(?P<subject>.+?)(?:_ses-(?P<session>\d{1,2}))?")
# Part of a name or a path, not a word among words.
_IN_A_NAME = r"(?<![A-Za-z0-9])(?:(?<=[/\\_'\"-]){id}(?![A-Za-z0-9])|{id}(?=[_/\\'\"]|\.[A-Za-z]))"
# A number of seven digits in a name is taken for a participant; among words it is a count of something.
_EID = re.compile(_IN_A_NAME.format(id=r"[1-9]\d{6}"))
# So long an id, with a figure in it, is no word of a message.
_UNMISTAKABLE = re.compile(r"(?=.*\d).{4,}")
_CASE_IN_TEXT = re.compile(r"\bsub-[A-Za-z0-9-]+(?:_ses-[A-Za-z0-9-]+)?(?![A-Za-z0-9])")
_PATH = re.compile(r"(?<![\w.<>/])~?/(?:[^\s/:;,'\"<>()]+/)*(?P<name>[^\s/:;,'\"<>()]*)")


def subject_of(case_id: str) -> str:
    """The subject of a case.

    >>> subject_of("sub-9900001_ses-2")
    '9900001'
    """
    found = _CASE.fullmatch(case_id)
    return found["subject"] if found else case_id


def redact_ids(text: str, ids: Collection[str] = ()) -> str:
    """Take participants' ids out of a text: those that are given, and whatever looks like one of UK Biobank's.

    An id is found within a path or a file's name; one that could be nothing else, as a word of its own too.

    >>> hide_ids("/data/9900001_20209_2_0.zip: reading p1.nii failed", ["p1"])
    '/data/<id>_20209_2_0.zip: reading <id>.nii failed'
    """
    for known in sorted(filter(None, ids), key=len, reverse=True):
        alone = rf"(?<![A-Za-z0-9]){re.escape(known)}(?![A-Za-z0-9])"
        text = re.sub(alone if _UNMISTAKABLE.fullmatch(known) else _IN_A_NAME.format(id=re.escape(known)), _ID, text)
    return _EID.sub(_ID, text)


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """How the subjects of a run are named in what is written.

    Attributes:
        share_safe: Whether ids, paths and host names are replaced at all.
        key: What pseudonyms are derived from. It belongs to the run and stays with it: whoever has it can tell which
            pseudonym an id has.
    """

    share_safe: bool
    key: bytes
    _hosts: dict[str, str] = field(default_factory=dict)

    def name(self, case_id: str) -> str:
        """What a case is called in a title, a link or a file's name."""
        return self.pseudonym(case_id) if self.share_safe else case_id

    def subject(self, subject_id: str) -> str:
        """What a subject is called, without its visit."""
        return self.name(f"sub-{subject_id}").removeprefix("sub-")

    def pseudonym(self, case_id: str) -> str:
        """A name that stays the same within a run and that tells nothing to whoever lacks the run's key.

        A visit's number is kept, so that the visits of one subject are known to belong together.
        """
        found = _CASE.fullmatch(case_id)
        subject, session = (found["subject"], found["session"]) if found else (case_id, None)
        digest = hmac.new(self.key, subject.encode(), hashlib.sha256).hexdigest()[:10]
        return f"sub-x{digest}" + (f"_ses-{session}" if session else "")

    def text(self, text: str, ids: Collection[str] = ()) -> str:
        """A message without ids, folders and the name of this machine; file names stay, without their ids."""
        if not self.share_safe:
            return text
        text = _CASE_IN_TEXT.sub(lambda found: self._known_or_new(found[0]), text)
        text = _PATH.sub(lambda found: f".../{found['name']}" if found[0] != "/" else "/", text)
        for host in {platform.node(), *self._hosts} - {""}:
            text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", self.host(host) or "", text)
        return redact_ids(text, ids)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of a table, with whatever in it tells of somebody or of some machine replaced."""
        if not self.share_safe:
            return dict(row)
        replaced: dict[str, Callable[[str], Any]] = {
            "case_id": self.name,
            "subject_id": self.subject,
            "host": self.host,
        }
        ids = (subject_of(str(row.get("case_id", ""))),)
        return {
            name: replaced.get(name, partial(self.text, ids=ids))(value) if isinstance(value, str) else value
            for name, value in row.items()
        }

    def host(self, name: str | None) -> str | None:
        """A machine's name."""
        if not self.share_safe or not name:
            return name
        return self._hosts.setdefault(name, f"host-{len(self._hosts) + 1}")

    def count(self, number: int) -> str:
        """How many there are of something that is told of people."""
        return f"{MIN_GROUP_SIZE - 1} or fewer" if self.hides(number) else str(number)

    def hides(self, number: int) -> bool:
        """Whether a group of so many must not be shown by itself."""
        return self.share_safe and 0 < number < MIN_GROUP_SIZE

    def _known_or_new(self, found: str) -> str:
        return found if re.fullmatch(r"sub-x[0-9a-f]{10}(_ses-\d{1,2})?", found) else self.pseudonym(found)


def open_deidentifier(key_file: Path | None, *, share_safe: bool) -> Deidentifier:
    """Take up a run's pseudonyms, and make its key if it has none.

    Args:
        key_file: Where the run keeps its key; None outside a run, where pseudonyms last for one command.
        share_safe: Whether to replace anything.
    """
    key = secrets.token_bytes(_KEY_BYTES) if key_file is None else _key_of(key_file)
    return Deidentifier(share_safe, key)


def _key_of(path: Path) -> bytes:
    """The key in a file. Whoever comes first makes it, and it appears with all its bytes or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".tmp-{secrets.token_hex(6)}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
    return path.read_bytes()
