"""Both containers install the same, from files that exist, and hadolint has no remark on the Dockerfile."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE, APPTAINER = (ROOT / "containers" / name for name in ("Dockerfile", "cmnet.def"))


def test_hadolint_has_no_remark() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    ran = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_both_install_the_same_files() -> None:
    docker = DOCKERFILE.read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", docker, flags=re.MULTILINE) for name in line.split()}
    apptainer = APPTAINER.read_text(encoding="utf-8")
    assert {
        line.split()[0] for line in re.findall(r"^ +(\S+ /opt/cmnet/\S+)$", apptainer, flags=re.MULTILINE)
    } == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    # All else is kept out of the build, images of participants among it.
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert kept[0] == "*"
    assert {line[1:] for line in kept if line.startswith("!")} == copied
    for text, folder in ((docker, "/tmp/cmnet"), (apptainer, "/opt/cmnet")):
        assert f"-c {folder}/constraints.txt" in text
        assert f"'{folder}[jpeg]'" in text
    assert re.search(r"^ARG BASE=(\S+)$", docker, flags=re.MULTILINE)[1] in apptainer  # type: ignore[index]
