"""Several methods on one cohort: a row each, in both directions; what fails or is missing costs its own row."""

import dataclasses
from pathlib import Path

import pytest
from torch import Tensor

from cmnet_cli.exit_code import ExitCode
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.methods import registry
from cmnet_core.types import Spacing
from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

METHODS = "none,cardiomorphnet,broken,missing"
CALLS: list[str] = []


def broken(fixed: Tensor, moving: Tensor, spacing: Spacing) -> Tensor:
    CALLS.append("broken")
    raise ImageError("It is broken.", hint="Mend it.", code=ErrorCode.IMAGE_VALUES)


@pytest.fixture(scope="module")
def methods() -> dict[str, registry.MethodEntry]:
    """The known methods, one that always fails, and one that is not installed."""
    none = registry.METHODS["none"]
    entries = {**registry.METHODS, "broken": registry._pairwise("broken", broken)}
    return entries | {"missing": dataclasses.replace(none, package="no-such-package")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, methods: dict[str, registry.MethodEntry]) -> Path:
    """A finished benchmark of two subjects; tests only read it."""
    folder = tmp_path_factory.mktemp("benchmark")
    manifest, run = write_cohort(folder, 2), folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        _know(methods, patch)
        ran = cmnet("benchmark", "--manifest", manifest, "--out", run, "--model", tiny_model, "--methods", METHODS)
    assert ran.exit_code == ExitCode.SOME_FAILED, ran.output
    return run


def _know(methods: dict[str, registry.MethodEntry], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registry, "METHODS", methods)
    patch.setattr("cmnet_cli.commands.benchmark.METHODS", methods)


def test_every_method_has_its_row_and_says_what_is_missing(run: Path) -> None:
    by_name = {row["method"]: row for row in rows(run, "benchmark_methods")}
    assert list(by_name) == METHODS.split(",")
    assert [by_name[name]["n"] for name in by_name] == [2, 2, 0, 0]
    assert by_name["none"]["message"] is None
    assert by_name["broken"]["message"] == "It is broken."
    assert "pip install no-such-package" in by_name["missing"]["message"]


def test_no_motion_compares_the_two_masks_in_both_directions(run: Path) -> None:
    none = [row for row in rows(run, "benchmark") if row["method"] == "none"]
    assert len(none) == 2 * 3 * 3
    directions = {row["comparison"]: row["dsc_pct"] for row in none if row["structure"] == "lv"}
    assert directions["ed-to-es"] == directions["es-to-ed"] == directions["pooled"]
    assert 50 < directions["pooled"] < 90


def test_regularity_and_cost_are_measured(run: Path) -> None:
    motions = rows(run, "benchmark_motions")
    still = next(row for row in motions if row["method"] == "none")
    assert (still["njd_field_ed_to_es"], still["njd_heart_es_to_ed"], still["sd_log_j_ed_to_es"]) == (0, 0, 0)
    assert still["endpoint_myo_mm"] is None
    own = [row for row in motions if row["method"] == "cardiomorphnet"]
    assert all(row["cpu_s"] > 0 and row["sd_log_j_es_to_ed"] > 0 for row in own)


def test_methods_are_tested_in_pairs(run: Path) -> None:
    tests = rows(run, "benchmark_tests")
    assert {(row["first"], row["second"]) for row in tests} == {("none", "cardiomorphnet")}
    assert all(row["n"] == 2 for row in tests if row["group"] == "all")


def test_pages_have_every_method(run: Path) -> None:
    folder = RunFolder(run)
    page, latex = folder.benchmark_page.read_text(), folder.benchmark_latex.read_text()
    assert "| none | 2 |" in page
    assert "It is broken." in page
    assert "none & " in latex
    assert latex.count("\\\\") == 4
    html = folder.benchmark_report.read_text()
    assert "Benchmark of 2 methods on 2 subjects" in html
    assert html.count("<svg") >= 7
    assert [name for name in ("none", "cardiomorphnet") if f"Error map of {name}" in html] == ["none", "cardiomorphnet"]


def test_finished_results_are_not_computed_again(
    run: Path, tiny_model: Path, methods: dict[str, registry.MethodEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    _know(methods, monkeypatch)
    before, calls = {path: path.stat().st_mtime_ns for path in run.rglob("*_motion.npz")}, len(CALLS)
    manifest = run.parent / "cohort.csv"
    ran = cmnet(
        "benchmark", "--manifest", manifest, "--out", run, "--model", tiny_model, "--methods", "none,broken",
        "--protocol", "acdc",
    )  # fmt: skip
    assert ran.exit_code == ExitCode.SOME_FAILED
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*_motion.npz")} == before
    assert len(CALLS) == calls + 2
    both = {row["comparison"]: row["dsc_pct"] for row in rows(run, "benchmark") if row["structure"] == "myo"}
    assert both["pooled"] == pytest.approx((both["ed-to-es"] + both["es-to-ed"]) / 2)


def test_known_motion_is_the_ceiling_and_no_motion_errs_by_it(tiny_model: Path, tmp_path: Path) -> None:
    """The true motion has no error; that of no motion is the length of the true one."""
    assert cmnet("phantom", tmp_path / "phantoms", "--subjects", 1, "--frames", 2).exit_code == 0
    manifest, run = tmp_path / "phantoms" / "cohort.csv", tmp_path / "run"
    ran = cmnet("benchmark", "--manifest", manifest, "--out", run, "--model", "default", "--methods", "none,truth")
    assert ran.exit_code == 0, ran.output
    none, truth = rows(run, "benchmark_motions")
    assert truth["endpoint_myo_mm"] == pytest.approx(0.0, abs=0.05)
    assert truth["ecc_error_pct"] == pytest.approx(0.0, abs=1.0)
    assert none["endpoint_myo_mm"] > 2.0
    assert none["ecc_error_pct"] > 3.0
    pooled = [row for row in rows(run, "benchmark") if (row["comparison"], row["structure"]) == ("pooled", "lv")]
    dice = {row["method"]: row["dsc_pct"] for row in pooled}
    assert dice["truth"] > 90.0
    assert dice["truth"] > dice["none"] + 5.0
    assert {row["first"] for row in rows(run, "benchmark_tests")} <= {"none"}


def test_unknown_method_ends_the_command(run: Path, tiny_model: Path) -> None:
    ran = cmnet("benchmark", "--manifest", run.parent / "cohort.csv", "--out", run, "--methods", "none,sin")
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert "There is no method sin" in ran.output


def test_dry_run_writes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1), tmp_path / "run"
    ran = cmnet(
        "benchmark", "--manifest", manifest, "--out", run, "--model", tiny_model, "--methods", "none", "--dry-run"
    )
    assert ran.exit_code == 0, ran.output
    assert "pending" in ran.output
    assert not run.exists()
