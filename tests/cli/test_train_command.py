"""Training from the command line: two stages, a resume, and weights that infer takes."""

from pathlib import Path

import pytest

from cmnet_core.models.checkpoint import read_card
from tests.cli.commanding import cmnet, column
from tests.phantoms import write_cohort

SETTINGS = """
name = "small"
training_data = "circles"
validate_every = 3

[segnet]
window = [48, 48]
spacing_mm = 2.0
[segnet.schedule]
epochs = EPOCHS
[segnet.sizes]
widths = [4, 4, 4, 4, 4]

[motion]
window = [48, 48]
[motion.schedule]
epochs = 1
[motion.sizes]
features = [4, 4, 4, 4]
hidden = [4, 4]
decoder = [4, 4, 4, 4]
deform = [4, 4, 4, 4, 4]
"""


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A manifest of three small hearts."""
    return write_cohort(tmp_path, 3, frames=3)


def _settings(folder: Path, *, epochs: int = 1) -> Path:
    path = folder / f"train-{epochs}.toml"
    path.write_text(SETTINGS.replace("EPOCHS", str(epochs)))
    return path


def test_two_stages_make_weights_that_infer_takes(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "training"
    for stage in ("segnet", "motion"):
        ran = cmnet("train", "--stage", stage, "-m", cohort, "-o", out, "--config", _settings(tmp_path))
        assert ran.exit_code == 0, ran.output
        assert "epoch 1: " in ran.output
    weights = out / "weights" / "motion.safetensors"
    card = read_card(weights)
    assert (card.name, card.training_data, card.spacing_mm, card.window) == ("small", "circles", 2.0, (48, 48))
    assert set(card.training) == {"segnet", "motion"}
    assert {"dice_lv_ed_pct", "dice_lv_ed2es_pct"} <= set(card.metrics)
    assert cmnet("models", "info", weights).exit_code == 0
    # One epoch teaches next to nothing: the networks must load and run, whatever they say.
    ran = cmnet("infer", "-m", cohort, "-o", tmp_path / "run", "--model", weights)
    assert ran.exit_code in (0, 4)
    assert "defect" not in ran.output
    assert set(column(tmp_path / "run", "status", "state")) <= {"done", "failed"}


def test_a_resume_goes_on_after_the_last_epoch(cohort: Path, tmp_path: Path) -> None:
    options = ("train", "--stage", "segnet", "-m", cohort, "-o", tmp_path / "training")
    assert cmnet(*options, "--config", _settings(tmp_path)).exit_code == 0
    ran = cmnet(*options, "--config", _settings(tmp_path, epochs=2), "--resume")
    assert ran.exit_code == 0
    assert "epoch 2" in ran.output
    assert "epoch 1:" not in ran.output


def test_the_second_stage_needs_the_first(cohort: Path, tmp_path: Path) -> None:
    ran = cmnet("train", "--stage", "motion", "-m", cohort, "-o", tmp_path / "training")
    assert ran.exit_code == 3
    assert "--stage segnet" in ran.output


def test_a_bad_case_is_named_and_left_out_of_training(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "9900002.nii.gz").unlink()
    options = ("-m", cohort, "-o", tmp_path / "training", "--config", _settings(tmp_path))
    ran = cmnet("train", "--stage", "segnet", *options)
    assert ran.exit_code == 0
    assert "sub-9900002 left out (file-missing)" in ran.output


def test_a_manifest_without_masks_cannot_be_trained_on(cohort: Path, tmp_path: Path) -> None:
    cohort.write_text("subject_id,image\n9900001,9900001.nii.gz\n9900002,9900002.nii.gz\n")
    ran = cmnet("train", "--stage", "segnet", "-m", cohort, "-o", tmp_path / "training")
    assert ran.exit_code == 3
    assert "0 subjects to train on" in ran.output
