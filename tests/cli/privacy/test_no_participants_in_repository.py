"""UK Biobank's own rule for code: no seven-digit number that could be a participant's, in no file and in no name."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EID = re.compile(rb"(?<!\d)[1-6]\d{6}(?!\d)")
DIGEST = re.compile(rb"(?<![0-9a-z])[0-9a-f]{64}(?![0-9a-z])")
BUILT = {".venv", "build", "__pycache__", ".hypothesis"}


def files_of_the_repository() -> Iterator[Path]:
    """What git tracks or would take up; without git, all but what is built here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode == 0:
        yield from (ROOT / name.decode() for name in listed.stdout.split(b"\0") if name)
    else:
        yield from (path for path in ROOT.rglob("*") if not BUILT & set(path.parts))


def suspects(path: Path) -> list[str]:
    """Lines that hold such a number, and the name where it does; weights and pictures are numbers throughout.

    Within a SHA-256, whose digits are chance, no number is anybody's.
    """
    content = path.read_bytes() if path.is_file() else b""
    lines = [] if b"\0" in content[:8192] else content.splitlines()
    named = [f"{path}: its name"] if EID.search(str(path.relative_to(ROOT)).encode()) else []
    return named + [
        f"{path}:{number}" for number, line in enumerate(lines, start=1) if EID.search(DIGEST.sub(b"", line))
    ]


def test_repository_has_no_number_like_a_participant_id() -> None:
    assert [found for path in files_of_the_repository() for found in suspects(path)] == []


@pytest.mark.parametrize(("text", "caught"), [("sub-{}_ses-2", True), ("{}_20209_2_0.zip", True), ("1{}", False)])
def test_participant_id_pattern(text: str, *, caught: bool) -> None:
    assert bool(EID.search(text.format(2 * 10**6 + 3).encode())) == caught
    assert not EID.search(text.format(9900001).encode())


def test_participant_id_beside_a_digest_is_found() -> None:
    digest, number = "f" + f"{2 * 10**6 + 3}" + "f" * 56, f"{2 * 10**6 + 3}"
    assert not EID.search(DIGEST.sub(b"", f'"digest": "{digest}"'.encode()))
    for beside in (f"{digest} {number}", f"{number}-{digest}", digest[:-1], f"{digest}0"):
        assert EID.search(DIGEST.sub(b"", beside.encode()))
