"""Several methods on one cohort: a row each, in both directions; what fails or is missing costs its own row."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmnet_cli.exit_code import ExitCode
from cmnet_cli.runs.paths import RunFolder, SimulatedCaseFolder
from cmnet_cli.stages.benchmark.motion import read_benchmarked
from cmnet_cli.stages.benchmark.volume_curves import curve_frames
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io.nifti import read_cine, write_image, write_labels, write_motion
from cmnet_core.io.orientation import StackOrientation
from cmnet_core.methods import registry
from cmnet_core.types import LabelSequence, MotionField, Spacing
from tests.cli.commanding import cmnet, rows
from tests.phantoms import beating_circles, write_cohort

METHODS = "none,truth,cardiomorphnet,broken,missing"
ED, ES, LV_MM, CONTRACTION = 0, 2, 20.0, 0.3
"""Frames and radius of the LV of the first subject of the cohort, and the share by which it shrinks."""

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
    """A finished benchmark of two subjects, the first with its true motion; tests only read it."""
    folder = tmp_path_factory.mktemp("benchmark")
    manifest, run = write_cohort(folder, 2), folder / "run"
    _write_known_motion(folder)
    with pytest.MonkeyPatch.context() as patch:
        _know(methods, patch)
        ran = cmnet("benchmark", "--manifest", manifest, "--out", run, "--model", tiny_model, "--methods", METHODS)
    assert ran.exit_code == ExitCode.SOME_FAILED, ran.output
    return run


def _write_known_motion(folder: Path) -> None:
    """Write the motion of the LV beside the first image: the cavity shrinks, and the wall keeps its area."""
    image, files = folder / "9900001.nii.gz", SimulatedCaseFolder(folder, "sub-9900001")
    cine = read_cine(image, frame_ms=None)
    at = torch.stack(_positions_mm(cine.voxels[0], cine.spacing))
    radius, less = at.norm(dim=0), LV_MM**2 * (1 - (1 - CONTRACTION) ** 2)
    to_ed = torch.where(
        radius < LV_MM * (1 - CONTRACTION), 1 / (1 - CONTRACTION), (radius**2 + less).sqrt() / radius.clamp_min(1e-6)
    )
    to_es = torch.where(radius < LV_MM, 1 - CONTRACTION, (radius**2 - less).clamp_min(0.0).sqrt() / radius)
    for path, share, fixed, moving in (
        (files.ed2es_motion, to_ed, ES, ED),
        (files.es2ed_motion, to_es, ED, ES),
    ):
        in_plane = (share - 1) * at
        displacement = torch.stack([torch.zeros_like(radius), *in_plane])
        write_motion(path, MotionField(displacement, cine.spacing, fixed=fixed, moving=moving), affine=cine.affine)


def _positions_mm(volume: Tensor, spacing: Spacing) -> tuple[Tensor, Tensor]:
    """Rows and columns of every voxel in mm from the centre, where the LV is."""
    depth, *size = volume.shape
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(size, spacing.zyx[1:], strict=True)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return y.expand(depth, *size), x.expand(depth, *size)


def _know(methods: dict[str, registry.MethodEntry], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registry, "METHODS", methods)
    patch.setattr("cmnet_cli.commands.accuracy.benchmark.METHODS", methods)


def test_every_method_has_its_row_and_says_what_is_missing(run: Path) -> None:
    by_name = {row["method"]: row for row in rows(run, "benchmark_methods")}
    assert list(by_name) == METHODS.split(",")
    assert [by_name[name]["n"] for name in by_name] == [2, 1, 2, 0, 0]
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
    still = next(row for row in motions if (row["method"], row["subject_id"]) == ("none", "9900002"))
    assert (still["njd_field_ed_to_es"], still["njd_heart_es_to_ed"], still["sd_log_j_ed_to_es"]) == (0, 0, 0)
    assert still["endpoint_myo_mm"] is None
    own = [row for row in motions if row["method"] == "cardiomorphnet"]
    assert all(row["cpu_s"] > 0 and row["sd_log_j_es_to_ed"] > 0 for row in own)


def test_known_motion_is_the_ceiling_and_no_motion_errs_by_it(run: Path) -> None:
    """The true motion has no error; that of no motion is the true motion, here in closed form."""
    motions = {row["method"]: row for row in rows(run, "benchmark_motions") if row["subject_id"] == "9900001"}
    none, truth = motions["none"], motions["truth"]
    assert truth["endpoint_myo_mm"] == pytest.approx(0.0, abs=0.05)
    assert truth["ecc_error_pct"] == pytest.approx(0.0, abs=0.5)
    # Means over the area of the wall, from the radius at ED.
    radii = torch.linspace(LV_MM, LV_MM + 10.0, 201)
    at_es = (radii**2 - LV_MM**2 * (1 - (1 - CONTRACTION) ** 2)).sqrt()
    weights = radii / radii.sum()
    assert none["endpoint_myo_mm"] == pytest.approx(float((weights * (radii - at_es)).sum()), rel=0.05)
    circumferential = 100 * float((weights * (1 - (at_es / radii) ** 2) / 2).sum())
    assert none["ecc_error_pct"] == pytest.approx(circumferential, rel=0.1)
    dice = {row["method"]: row["dsc_pct"] for row in _pooled(run, "lv") if row["subject_id"] == "9900001"}
    assert dice["truth"] > 95.0
    at_ed = math.pi * LV_MM**2
    assert dice["none"] == pytest.approx(200 * 0.49 * at_ed / (1.49 * at_ed), abs=3.0)
    assert "truth" not in {row[which] for row in rows(run, "benchmark_tests") for which in ("first", "second")}


def _pooled(run: Path, structure: str) -> list[dict[str, object]]:
    return [row for row in rows(run, "benchmark") if (row["comparison"], row["structure"]) == ("pooled", structure)]


def test_missing_package_alone_is_named_and_fails_no_subject(
    tiny_model: Path, methods: dict[str, registry.MethodEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _know(methods, monkeypatch)
    manifest = write_cohort(tmp_path, 1)
    ran = cmnet(
        "benchmark", "--manifest", manifest, "--out", tmp_path / "run", "--model", tiny_model, "--methods",
        "none,missing",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "pip install no-such-package" in " ".join(ran.output.split())


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
    assert latex.count("\\\\") == 5
    html = folder.benchmark_report.read_text()
    assert "Benchmark of 3 methods on 2 subjects" in html
    assert html.count("<svg") >= 7
    assert [name for name in ("none", "cardiomorphnet") if f"Error map of {name}" in html] == ["none", "cardiomorphnet"]
    assert 'class="box lv"' not in html, "two subjects are drawn as points"


def test_lv_volume_of_one_subject_is_drawn_over_the_cycle_for_every_method(run: Path) -> None:
    html = RunFolder(run).benchmark_report.read_text()
    assert [name for name in ("none", "cardiomorphnet") if f"{name} and reference masks: LV volume" in html] == [
        "none",
        "cardiomorphnet",
    ]
    first, second = (RunFolder(run).case(f"sub-990000{number}") for number in (1, 2))
    curve = read_benchmarked(first, "none")
    assert curve is not None
    assert sorted(curve.lv_ml) == [0, 1, 2, 3]
    assert len(set(curve.lv_ml.values())) == 1, "without motion the volume is that of ED"
    other = read_benchmarked(second, "none")
    assert other is not None
    assert not other.lv_ml


def test_frames_of_a_curve_are_few_and_spread_over_the_cycle() -> None:
    assert curve_frames(2, ed=0, es=1) == []
    assert curve_frames(5, ed=0, es=2) == [1, 3, 4]
    chosen = curve_frames(50, ed=0, es=18)
    assert len(chosen) == 8
    assert chosen == sorted(set(chosen))
    assert chosen[-1] > 40


def test_finished_results_are_not_computed_again(
    run: Path,
    tiny_model: Path,
    methods: dict[str, registry.MethodEntry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _know(methods, monkeypatch)
    manifest, run = run.parent / "cohort.csv", Path(shutil.copytree(run, tmp_path / "run"))
    before, calls = {path: path.stat().st_mtime_ns for path in run.rglob("*_motion.npz")}, len(CALLS)
    ran = cmnet(
        "benchmark", "--manifest", manifest, "--out", run, "--model", tiny_model, "--methods", "none,broken",
        "--protocol", "acdc",
    )  # fmt: skip
    assert ran.exit_code == ExitCode.SOME_FAILED
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*_motion.npz")} == before
    assert len(CALLS) == calls + 2
    both = {row["comparison"]: row["dsc_pct"] for row in rows(run, "benchmark") if row["structure"] == "myo"}
    assert both["pooled"] == pytest.approx((both["ed-to-es"] + both["es-to-ed"]) / 2)


def test_comparison_does_not_depend_on_the_order_of_storage(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method sees every heart in the same orientation, and its motion is stored on the grid of the image."""

    def down_and_left(fixed: Tensor, moving: Tensor, spacing: Spacing) -> Tensor:
        return torch.tensor([0.0, 10.0, -4.0]).view(3, 1, 1, 1).expand(3, *fixed.shape)

    _know({**registry.METHODS, "shift": registry._pairwise("a shift", down_and_left)}, monkeypatch)
    cine, labels = beating_circles(frames=4, slices=2, size=80, spacing=Spacing(9.0, 2.0, 1.8))
    # A short axis in its usual position in the body.
    usual = torch.tensor(
        [[-5.0, 0.2, -1.5, 40.0], [5.4, -0.6, -1.3, -20.0], [-5.2, -1.68, 0.1, 90.0], [0, 0, 0, 1]], dtype=torch.float64
    )
    lines = ["subject_id,image,labels"]
    for subject, order in (("9900001", StackOrientation()), ("9900002", StackOrientation(True, True, False, True))):
        affine, spacing = order.orient_affine(usual, (2, 80, 80)), order.swapped(cine.spacing)
        masks = LabelSequence(order.orient(labels.labels), labels.frames, spacing, affine)
        write_image(tmp_path / f"{subject}.nii", order.orient(cine.voxels), affine=affine, frame_ms=40.0)
        write_labels(tmp_path / f"{subject}_labels.nii", masks, frame_ms=40.0)
        lines.append(f"{subject},{subject}.nii,{subject}_labels.nii")
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    ran = cmnet(
        "benchmark", "--manifest", tmp_path / "cohort.csv", "--out", run, "--model", tiny_model, "--methods",
        "none,shift",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    dice = {(row["method"], row["subject_id"]): row["dsc_pct"] for row in _pooled(run, "myo")}
    assert dice["shift", "9900002"] == pytest.approx(dice["shift", "9900001"], abs=0.2)
    assert dice["none", "9900002"] == pytest.approx(dice["none", "9900001"], abs=1e-6)
    assert abs(dice["shift", "9900001"] - dice["none", "9900001"]) > 2.0


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
