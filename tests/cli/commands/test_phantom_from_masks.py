"""The command phantom --from: cines simulated from labelled subjects."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.stages.benchmark.known_motion import has_truth, read_truth
from cmnet_cli.stages.evaluate import propagate_labels
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_cli.stages.training_case import load_training_case
from cmnet_core.imaging.preprocess import wide_window
from cmnet_core.labels import Label
from cmnet_core.stats.metrics import dice_pct
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort


def rows_of(manifest: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(manifest.read_text().splitlines()))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cines of one labelled subject; a second subject has no masks."""
    folder = tmp_path_factory.mktemp("real")
    source = write_cohort(folder, 2)
    source.write_text(source.read_text().replace("9900002_labels.nii.gz", ""))
    ran = cmnet("phantom", folder / "simulated", "--from", source, "--frames", 3, "--seed", 5, "--variants", 2)
    assert ran.exit_code == 4, ran.output
    assert "row 3 (label-geometry)" in ran.output
    assert "9900002" not in ran.output
    return folder / "simulated" / "cohort.csv"


def test_simulated_manifest_keeps_columns_of_the_source(simulated: Path) -> None:
    rows = rows_of(simulated)
    assert [row["subject_id"] for row in rows] == ["9900001-sim1", "9900001-sim2"]
    assert {(row["group"], row["clinic"], row["ed"], row["es"]) for row in rows} == {("DCM", "north", "0", "1")}


def test_training_reads_simulated_image_masks_and_motion(simulated: Path) -> None:
    for case in read_manifest(simulated).cases:
        heart = load_training_case(case, spacing_mm=1.5)
        assert heart.labelled == (0, 1, 2)
        assert heart.motion is not None
        assert float(heart.motion[0].abs().max()) < 0.01
        assert float(heart.motion[1].abs().max()) > 1.0


def test_ground_truth_of_simulated_cine(simulated: Path) -> None:
    names = [f"sub-9900001-sim{k}" for k in (1, 2)]
    first, second = (json.loads((simulated.parent / name / f"{name}_truth.json").read_text()) for name in names)
    assert first["hidden_motion_at_es"] != second["hidden_motion_at_es"]
    assert len(first["green_lagrange_strain_of_wall"]["ecc"]) == 3
    volumes = first["volumes_of_masks"]["lv_ml"]
    assert np.argmin(volumes) == first["es"]
    terms = json.loads((simulated.parent / "dataset_description.json").read_text())["License"]
    assert "remain under the terms" in terms


def test_existing_cines_are_kept_and_missing_ones_simulated_again(simulated: Path) -> None:
    source, folder = simulated.parent.parent / "cohort.csv", simulated.parent
    kept, lost = (folder / f"sub-9900001-sim{k}" / f"sub-9900001-sim{k}_cine.nii.gz" for k in (1, 2))
    before, written = lost.read_bytes(), kept.stat().st_mtime_ns
    arguments = ("phantom", folder, "--from", source, "--frames", 3, "--seed", 5, "--variants", 2)
    assert cmnet(*arguments).exit_code == 4
    assert kept.stat().st_mtime_ns == written
    lost.with_name("sub-9900001-sim2_truth.json").unlink()
    assert cmnet(*arguments).exit_code == 4
    assert lost.read_bytes() == before


def test_second_class_of_motion_has_the_same_files_and_another_motion(simulated: Path, tmp_path: Path) -> None:
    source = simulated.parent.parent / "cohort.csv"
    ran = cmnet("phantom", tmp_path, "--from", source, "--frames", 3, "--seed", 5, "--motion", "cylinder")
    assert ran.exit_code == 4, ran.output
    case = read_manifest(tmp_path / "cohort.csv").cases[0]
    moved, velocity = (load_training_case(one, spacing_mm=1.5) for one in (case, read_manifest(simulated).cases[0]))
    assert moved.motion is not None
    assert velocity.motion is not None
    assert float(moved.motion[0].abs().max()) < 0.01
    assert float((moved.motion[1] - velocity.motion[1]).abs().max()) > 0.3
    truth = json.loads((tmp_path / case.case_id / f"{case.case_id}_truth.json").read_text())
    assert truth["provenance"]["motion"] == "cylinder"


def test_benchmark_knows_the_motion_of_simulated_cines_in_both_directions(simulated: Path) -> None:
    case = read_manifest(simulated).cases[0]
    cine = load_cine(case)
    masks = load_labels(case, cine)
    assert masks is not None
    window = wide_window(cine, spacing_mm=1.5)
    assert has_truth(case)
    to_es, to_ed = read_truth(case, window, ed=0, es=1)
    for field, source, target in ((to_es, 0, 1), (to_ed, 1, 0)):
        found = propagate_labels(masks.at(source), field, window)
        dice = dice_pct(found, masks.at(target), Label.LV)
        assert dice is not None
        assert dice > 93.0
