"""Programs that replace SLURM: every job is accepted, and none is ever started."""

from pathlib import Path

import pytest

_SBATCH = """#!/bin/sh
case " $* " in *" --test-only "*) exit 0;; esac
echo $(( 1000 + $(date +%N | sed 's/^0*//') ))
"""
_NO_ANSWER = "#!/bin/sh\nexit 0\n"


def install_fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put sbatch, squeue and scontrol that accept everything in front of the search path."""
    folder.mkdir()
    for name, script in (("sbatch", _SBATCH), ("squeue", _NO_ANSWER), ("scontrol", _NO_ANSWER)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
