"""Every block of the tutorial runs, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]

# The same lines, for fewer and shorter cines.
COHORT, SMALL_COHORT = "--subjects 6 --frames 20", "--subjects 2 --frames 4"


def test_tutorial_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "bash", "bash", "python"]
    assert COHORT in blocks[0][1]

    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    cmnet = programs / "cmnet"
    cmnet.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cmnet_cli "$@"\n')
    cmnet.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "MPLBACKEND": "agg",
    }
    for language, block in blocks:
        program = ["bash", "-e", "-c"] if language == "bash" else [sys.executable, "-c"]
        ran = subprocess.run(
            [*program, block.replace(COHORT, SMALL_COHORT)], cwd=work, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, f"{block}\n{ran.stdout}\n{ran.stderr}"

    assert (work / "figure.pdf").read_bytes().startswith(b"%PDF")
    table = pd.read_csv(work / "table.csv", header=[0, 1], index_col=0)
    assert table["lvef_pct"]["count"].sum() == 2
    assert table["lvef_pct"]["mean"].between(10, 90).all()
    assert (work / "run" / "report" / "index.html").exists()
