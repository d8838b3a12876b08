"""A subject that crashes, hangs, exhausts memory or has a damaged image costs only itself."""

from pathlib import Path

import pytest

from cmnet_cli.commands import process
from cmnet_cli.execution.build_stage import build_infer_stage
from cmnet_core.errors import ErrorCode
from tests.cli.commanding import cmnet, column, named_in_logs, rows, traceback_of
from tests.cli.commands.test_bad_input import BAD_IMAGES
from tests.cli.execution.failing_stages import ProcessEndingStage
from tests.phantoms import write_cohort

HANG, CRASH, HOG = "9900001", "9900005", "9900006"


def test_eleven_failing_subjects_of_thirty_three_leave_the_others_done(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, run = write_cohort(tmp_path, 33, frames=2, step_mm=0.4), tmp_path / "run"
    expected = {CRASH: ErrorCode.WORKER_DIED, HOG: ErrorCode.OUT_OF_MEMORY, HANG: ErrorCode.TIMEOUT}
    for number, (damage, code) in enumerate(BAD_IMAGES.values()):
        subject = str(9900010 + number)
        damage(tmp_path / f"{subject}.nii.gz")
        expected[subject] = code
    monkeypatch.setattr(
        process,
        "build_infer_stage",
        lambda *arguments: ProcessEndingStage(build_infer_stage(*arguments), crash=CRASH, hog=HOG, hang=HANG),
    )
    # Enough time for the good subjects while the machine is busy with other work.
    limits = ("--subject-timeout", 40, "--memory-limit", "1500MB")
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--workers", 2, *limits)
    assert (ran.exit_code, "22 done, 11 failed" in ran.output) == (4, True), ran.output
    assert "row 6 (worker-died)" in ran.output
    found = {row["subject_id"]: row["error_code"] for row in rows(run, "status") if row["state"] == "failed"}
    assert found == {subject: str(code) for subject, code in expected.items()}
    assert column(run, "status", "state").count("done") == 22
    logs = [row["log"] for row in rows(run, "status") if row["state"] == "failed"]
    assert len({log for log in logs if (run / "logs" / log).stat().st_size}) == 11
    assert "_decode" in traceback_of(run, HANG), "the traceback shows where it hung"
    assert not named_in_logs(run)
    assert cmnet("verify", "-r", run).exit_code == 0
