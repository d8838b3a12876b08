"""The command line as such: quick to answer, and clear."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmnet_cli.app import app
from cmnet_core.errors import ErrorCode, ManifestError

SLOW_TO_IMPORT = ("torch", "pandas", "nibabel", "scipy", "matplotlib", "pyarrow", "numpy")


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from cmnet_cli.app import app; app(['--help'], standalone_mode=False); "
        f"sys.exit(' '.join(n for n in {SLOW_TO_IMPORT} if n in sys.modules) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "indices" in ran.stdout or "doctor" in ran.stdout


def test_help_answers_within_half_a_second() -> None:
    # Seconds of the processor, which do not depend on what else it has to do.
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "cmnet_cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["infre"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("infre", "Did you mean 'infer'?"),
        ("infer --manfest cohort.csv", "Possible options: --manifest"),
        ("infer -m COHORT --method syyn", "Did you mean 'syn'?"),
        ("infer -m COHORT --model defualt", "Did you mean 'default'?"),
        ("infer -m COHORT --participant-label 990010", "The most similar is in row 2."),
    ],
)
def test_a_mistyped_name_is_answered_by_a_similar_one(tmp_path: Path, words: str, suggestion: str) -> None:
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("subject_id,image\n9900010,a.nii.gz\n")
    given = [str(cohort) if word == "COHORT" else word for word in words.split()]
    ran = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "run")])
    assert ran.exit_code in (2, 3)
    assert suggestion in ran.output


def test_a_deliberate_error_is_message_hint_and_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ManifestError("Expected a cohort.", hint="Give one.", code=ErrorCode.MANIFEST_EMPTY)

    monkeypatch.setattr("cmnet_cli.commands.doctor.doctor", fail)
    ran = CliRunner().invoke(app, ["doctor"])
    assert ran.exit_code == 3
    for message in ("Expected a cohort.", "Give one.", "manifest-empty"):
        assert message in ran.output


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cmnet_cli.commands.doctor.doctor", interrupt)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 130
