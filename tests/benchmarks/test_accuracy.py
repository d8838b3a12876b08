"""The benchmark of accuracy: its measurements and their limits."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy
from benchmarks.accuracy import TARGETS, Measurement, Target, gcs_pct, judge, known_motion_errors, slice_rotations_rad
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.derivatives.tracking import open_tracking, read_field
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.io.nifti import read_cine, write_motion
from cmnet_core.labels import Label
from cmnet_core.types import LabelSequence, MotionField, Spacing
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort

SPACING = Spacing(8.0, 1.5, 2.0)


def ring(shrunk_to: float = 1.0) -> torch.Tensor:
    """A cavity within its wall, in three slices."""
    y, x = torch.meshgrid(torch.arange(40) * SPACING.y, torch.arange(40) * SPACING.x, indexing="ij")
    radius = torch.hypot(y - 30, x - 40) / shrunk_to
    labels = torch.where(radius < 22, int(Label.MYO), int(Label.BACKGROUND))
    return torch.where(radius < 12, int(Label.LV), labels).to(torch.uint8).expand(3, 40, 40).contiguous()


def pull_back(matrices: list[torch.Tensor]) -> MotionField:
    """The field on the ES grid, into ED, of an in-plane linear motion about the ring's middle, one matrix a slice."""
    y, x = torch.meshgrid(torch.arange(40) * SPACING.y - 30, torch.arange(40) * SPACING.x - 40, indexing="ij")
    places = torch.stack([y, x])
    moved = [torch.einsum("ij,jyx->iyx", torch.linalg.inv(matrix), places) - places for matrix in matrices]
    in_plane = torch.stack(moved, dim=1)
    return MotionField(torch.cat([torch.zeros_like(in_plane[:1]), in_plane]), SPACING, fixed=1, moving=0)


def turn(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_circumferential_strain_of_a_contracting_rotating_ring() -> None:
    # Green-Lagrange: ½ (0.9² - 1); its inverse, ½ (1 / 0.9² - 1), would be +11.7.
    affine = torch.diag(torch.tensor([SPACING.x, SPACING.y, SPACING.z, 1.0], dtype=torch.float64))
    masks = LabelSequence(torch.stack([ring(), ring(0.9)]), (0, 1), SPACING, affine)
    assert gcs_pct(pull_back([0.9 * torch.eye(2)] * 3), masks) == pytest.approx(-9.5, abs=0.01)
    assert gcs_pct(pull_back([0.9 * turn(0.3)] * 3), masks) == pytest.approx(-9.5, abs=0.01)


def test_strain_of_mask_circles_without_through_plane_motion() -> None:
    distance = torch.hypot(*torch.meshgrid(torch.arange(-99.5, 100), torch.arange(-99.5, 100), indexing="ij"))

    def masks(share: float) -> torch.Tensor:
        inside = [torch.where(distance < share * edge, 1, 0) for edge in (45, 90)]
        return torch.where(inside[0] > 0, int(Label.LV), inside[1] * int(Label.MYO))[None]

    assert accuracy.circles_gcs_pct(masks(1.0), masks(0.9)) == pytest.approx(-9.5, abs=0.1)
    assert accuracy.circles_gcs_pct(masks(1.0), torch.zeros_like(masks(1.0))) is None


def test_subjects_with_positive_strain_are_counted() -> None:
    strains = [accuracy.RealStrain(-12.0, -15.0), accuracy.RealStrain(14.0, -16.0), accuracy.RealStrain(-3.0, None)]
    (found,) = accuracy.strain_metrics(strains).values()
    assert found == Measurement(1, None, 3)
    assert "16.50" in accuracy.strain_remarks(strains)[1]


def test_torsion_is_the_rotation_between_slices() -> None:
    true = slice_rotations_rad(pull_back([turn(angle) for angle in (0.0, 0.1, 0.2)]), ring(), ring())
    half = slice_rotations_rad(pull_back([turn(angle) for angle in (0.3, 0.35, 0.4)]), ring(), ring())
    assert (true - true[0]).abs().tolist() == pytest.approx([0.0, 0.1, 0.2], abs=1e-3)
    assert accuracy.recovered_pct(true, true) == pytest.approx(100.0)
    assert accuracy.recovered_pct(half, true) == pytest.approx(50.0, rel=0.01)
    assert accuracy.recovered_pct(half, torch.zeros(3)) is None


def test_accuracy_targets_have_a_goal_beyond_the_floor() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    for target in TARGETS:
        assert (target.goal >= target.floor) if target.higher else (target.goal <= target.floor)
    target = Target("error", "mm", 6, 3, higher=False)
    notes = [judge(target, Measurement(value, None, 5)) for value in (3.0, 3.1, 6.0, 6.1)]
    assert notes == ["goal", "floor", "floor", "below"]
    higher = replace(target, floor=90, goal=95, higher=True)
    assert [judge(higher, Measurement(value, None, 5)) for value in (95.0, 94.9, 89.9)] == ["goal", "floor", "below"]
    assert judge(target, None) == "not measured"
    assert judge(target, Measurement(1.0, None, 4, failures=1)) == "below"


def test_accuracy_table_in_markdown_and_on_the_terminal() -> None:
    metrics = {"LVEF RMSE": Measurement(2.81, None, 20), "ED to ES Dice, lv": Measurement(95.5, 2.0, 19, failures=1)}
    lines = accuracy.markdown(metrics, ["one failed"]).splitlines()
    assert len(lines) == 2 + len(TARGETS) + 2
    assert "| LVEF RMSE, percentage points | 2.81 (n = 20) | 3 | 2.5 | floor |" in lines
    assert "| ED to ES Dice, lv, % | 95.50 ± 2.00 (n = 19, 1 failed) | 91.5 | 95 | below |" in lines
    assert lines[-1] == "* one failed"


def test_errors_against_ground_truth_motion(tmp_path: Path, tiny_model: Path) -> None:
    manifest = write_cohort(tmp_path, 1, frames=3)
    infer = ("infer", "-m", manifest, "-o", tmp_path / "run", "--model", tiny_model)
    assert cmnet(*infer).exit_code == 0
    case = replace(read_manifest(manifest).cases[0], ed=0, es=2)
    folder = RunFolder(tmp_path / "run").case(case.case_id)
    facts = open_tracking(folder).facts
    own = restore_motion(read_field(folder, facts, moving=0, fixed=2), facts.window)
    affine = read_cine(case.image[0], frame_ms=None).affine
    # The truth is the estimate, moved by 3 mm down the rows, 4 mm along the columns and 2 mm through the slices.
    shifted = replace(own, displacement_mm=own.displacement_mm + torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1, 1))
    write_motion(tmp_path / f"{case.case_id}_desc-ed2es_motion.nii.gz", shifted, affine=affine)
    errors = known_motion_errors(case, folder)
    assert errors.in_plane_mm == pytest.approx(5.0, abs=1e-3)
    assert errors.through_plane_mm == pytest.approx(2.0, abs=1e-3)
    # A shift hardly strains: the direction around the cavity is another one where the material is thought to come from.
    assert errors.gcs_error_pct < 0.5


def test_accuracy_benchmark_of_a_small_cohort(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process: starting Python four times would take most of the test.
    monkeypatch.setattr(accuracy, "cmnet", lambda *words: cmnet(*words))
    manifest = write_cohort(tmp_path, 2, frames=3)
    given = {"manifest": manifest, "long": manifest, "model": tiny_model, "out": tmp_path / "work"}
    given["json"] = tmp_path / "figures.json"
    accuracy.main([word for name, value in given.items() for word in (f"--{name}", str(value))])
    notes = capsys.readouterr().out
    assert all(target.name in notes for target in TARGETS)
    metrics = json.loads((tmp_path / "figures.json").read_text())
    assert metrics["SegNet Dice, mean of ED and ES, lv"]["reached"] == "goal"
    assert metrics["simulated cines, GCS error"]["reached"] == "not measured"
    # The tiny model hardly moves anything: round the cycle a mask stays where it is.
    assert metrics["long cine, cycle consistency, LV Dice"]["measured"]["value"] > 95
