"""cmnet calibrate: a calibration from a user's own read subjects, and the intervals that it gives."""

import csv
import json
from pathlib import Path

import pytest

from cmnet_core.uncertainty.calibration import Calibration, read_calibration, write_calibration
from cmnet_core.uncertainty.conformal import QuantityCalibration
from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

SUBJECTS = 19
"""The fewest with which a coverage of 95 % can be calibrated."""


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of one heart under several names, and of two that differ from it, with reference masks."""
    folder = tmp_path_factory.mktemp("calibration")
    manifest = write_cohort(folder, 3)
    with manifest.open(newline="") as file:
        read = list(csv.DictReader(file))
    copies = [read[number % 3] | {"subject_id": f"99100{number:02d}"} for number in range(SUBJECTS)]
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(read[0]))
        writer.writeheader()
        writer.writerows(copies)
    for command in (
        ["infer", "--manifest", manifest, "--out", folder / "run", "--model", tiny_model],
        ["calibrate", "--run", folder / "run", "--out", folder / "own.json", "--population", "circles, one reader"],
        ["indices", "--run", folder / "run", "--calibration", folder / "own.json"],
    ):
        ran = cmnet(*command)
        assert ran.exit_code == 0, ran.output
    return folder


def test_card_names_the_population_and_every_quantity_that_masks_tell(analysis: Path) -> None:
    calibration = read_calibration(analysis / "own.json")
    quantities = calibration.quantities["indices"]
    assert {"lvedv_ml", "lvef_pct", "lvm_g", "rvesv_ml", "sv_difference_ml"} <= quantities.keys()
    assert "twist_deg" not in quantities
    assert {one.population for one in quantities.values()} == {"circles, one reader"}
    assert {one.subjects for one in quantities.values()} == {SUBJECTS}


def test_indices_use_the_given_calibration(analysis: Path, tmp_path: Path) -> None:
    quantities = {
        "lvm_g": QuantityCalibration(5.0, population_range=100.0),
        "lvedv_ml": QuantityCalibration(5.0, population_range=19.0),
        "lvsv_ml": QuantityCalibration(4.0, population_range=100.0),
    }
    digest = read_calibration(analysis / "own.json").digest
    write_calibration(tmp_path / "made.json", Calibration(digest, {"indices": quantities}, {}))
    ran = cmnet("indices", "--run", analysis / "run", "--calibration", tmp_path / "made.json", "--pilot", 1)
    assert ran.exit_code == 0
    row = rows(analysis / "run", "indices")[0]
    assert "intervals-not-calibrated" not in row["qc_flags"]
    assert (row["lvm_g_lo"], row["lvm_g_hi"]) == pytest.approx((row["lvm_g"] - 5, row["lvm_g"] + 5))
    # The same interval divided by the body surface area, or times the heart rate.
    assert row["lvm_index_g_m2_hi"] * row["bsa_m2"] == pytest.approx(row["lvm_g_hi"])
    litres = row["heart_rate_bpm"] / 1000
    assert row["cardiac_output_l_min_lo"] == pytest.approx(litres * (row["lvsv_ml"] - 4))
    # 10 mL are more than half of 19 mL.
    assert (row["lvedv_ml_lo"], row["lvedv_index_ml_m2_hi"]) == (None, None)
    assert "interval-uninformative" in row["qc_flags"]
    assert row["rvedv_ml_lo"] is None


def test_subjects_are_sampled_independently_of_each_other_and_of_another_seed(analysis: Path) -> None:
    own = analysis / "own.json"
    whole = {"calibration": own, "pilot": 4}

    def volumes(**options: object) -> list[tuple[float, float]]:
        given = [text for name, value in (whole | options).items() for text in (f"--{name}", value)]
        assert cmnet("indices", "--run", analysis / "run", *given).exit_code == 0
        return [(row["lvedv_ml"], row["lvedv_ml_hi"]) for row in rows(analysis / "run", "indices")[:4]]

    scaled = read_calibration(own)
    sampled = {"lvedv_ml": QuantityCalibration(2.0, typical_spread=0.0, population_range=1e6)}
    write_calibration(own, Calibration(scaled.digest, {"indices": sampled}, {}))
    again, other = volumes(), volumes(seed=2)
    write_calibration(own, scaled)
    # Subjects 0 and 3 have the same image; their samples differ.
    assert again[0][0] == again[3][0]
    assert again[0][1] != again[3][1]
    assert [volume for volume, _ in again] == [volume for volume, _ in other]
    assert all(first != second for (_, first), (_, second) in zip(again, other, strict=True))
    assert {row["subject_id"] for row in rows(analysis / "run", "indices")} == {
        f"99100{number:02d}" for number in range(SUBJECTS)
    }


def test_a_calibration_of_other_weights_is_refused(analysis: Path, tmp_path: Path) -> None:
    own = read_calibration(analysis / "own.json")
    write_calibration(tmp_path / "other.json", Calibration("0" * 64, own.quantities, own.provenance))
    ran = cmnet("indices", "--run", analysis / "run", "--calibration", tmp_path / "other.json", "--pilot", 1, "--json")
    assert ran.exit_code == 4
    assert {failed["error_code"] for failed in json.loads(ran.stdout)["failed"]} == {"checkpoint"}


def test_a_file_that_is_no_calibration_is_refused(analysis: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text("{}")
    ran = cmnet("indices", "--run", analysis / "run", "--calibration", tmp_path / "wrong.json")
    assert ran.exit_code == 3
    assert "wrong.json" in ran.output


def test_too_few_read_subjects_are_an_error(analysis: Path, tmp_path: Path) -> None:
    ran = cmnet("calibrate", "--run", analysis / "run", "--pilot", 3, "--out", tmp_path / "few.json")
    assert ran.exit_code == 3
    assert "needs 19" in " ".join(ran.output.split())
    assert not (tmp_path / "few.json").exists()
