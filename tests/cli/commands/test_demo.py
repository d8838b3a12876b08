"""The commands phantom and demo: simulated phantoms, and a whole analysis of them."""

from pathlib import Path

from tests.cli.commanding import cmnet, rows


def test_demo_prints_indices_beside_ground_truth_and_writes_a_report(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "demo"
    ran = cmnet("demo", out, "--subjects", 1, "--frames", 3, "--model", tiny_model, "--workers", 0)
    assert ran.exit_code == 0, ran.output
    assert "Estimate (ground truth)" in ran.output
    assert (out / "run" / "report" / "index.html").is_file()
    assert ran.output.rstrip().endswith("index.html")
    [row] = rows(out / "run", "indices")
    assert row["subject_id"] == "phantom-001"
    assert (out / "run" / "report" / f"{row['case_id']}.html").is_file()


def test_phantom_manifest_passes_validation(tmp_path: Path) -> None:
    simulated = cmnet("phantom", tmp_path / "phantoms", "--subjects", 1, "--frames", 2)
    assert simulated.exit_code == 0
    manifest = tmp_path / "phantoms" / "cohort.csv"
    assert str(manifest) in simulated.output
    checked = cmnet("validate", "-m", manifest, "--deep")
    assert (checked.exit_code, "1 subjects, no problems" in checked.output) == (0, True)


def test_run_is_the_whole_analysis_and_continues(tmp_path: Path, tiny_model: Path) -> None:
    cmnet("phantom", tmp_path / "phantoms", "--subjects", 1, "--frames", 2)
    manifest, run = tmp_path / "phantoms" / "cohort.csv", tmp_path / "run"
    planned = cmnet("run", "-m", manifest, "-o", run, "--model", tiny_model, "--dry-run")
    assert (planned.exit_code, run.exists()) == (0, False), planned.output
    assert "4 steps" not in planned.output
    for expected in ("infer: 1 done", "infer: 0 done, 1 done before"):
        ran = cmnet("run", "-m", manifest, "-o", run, "--model", tiny_model)
        assert ran.exit_code == 0, ran.output
        assert "4 steps: infer, indices, evaluate, report. A remaining time is that of the present step." in ran.output
        assert expected in ran.output
        assert "indices: 1 done" in ran.output
        assert "evaluate: 1 done" in ran.output
        assert "hours of one worker" in ran.output
        assert f"Report: {run / 'report' / 'index.html'}" in ran.output
    assert {row["case_id"] for row in rows(run, "evaluation_subjects")} == {"sub-phantom-001"}
