"""Training from the command line: two stages, a resume, and weights that infer takes."""

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import Result
from rich.console import Console

from cmnet_cli.commands.training.settings import TrainConfig
from cmnet_cli.config import find_config, load_config
from cmnet_cli.console import Messages, live_table
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import read_rows
from cmnet_cli.training.log import print_epoch
from cmnet_core.imaging.appearance import NO_VARIATION
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.build import SegNetSizes
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.checkpoint import load_tensors, read_card
from cmnet_core.training import loop, segnet_stage
from cmnet_core.training.loop import EpochRecord
from cmnet_core.training.motion_stage import METRICS as MOTION_METRICS
from cmnet_core.training.segnet_stage import METRICS as SEGNET_METRICS
from cmnet_core.training.state import read_progress
from tests.cli.commanding import cmnet, column
from tests.phantoms import write_cohort
from tests.tiny_model import RECURRENT_MOTION, write_tiny_model

REPOSITORY = Path(__file__).parents[3]

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
widths = [4, 4, 4, 4]

[motion]
window = [48, 48]
[motion.schedule]
epochs = EPOCHS
[motion.sizes]
features = [4, 4, 4, 4]
hidden = [4, 4]
decoder = [4, 4, 4, 4]
deform = [4, 4, 4, 4, 4]
"""


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A manifest of three small subjects."""
    return write_cohort(tmp_path, 3, frames=3)


def _settings(folder: Path, *, epochs: int = 1, every_batch: bool = False) -> Path:
    path = folder / f"train-{epochs}.toml"
    text = SETTINGS.replace("EPOCHS", str(epochs))
    path.write_text("checkpoint_minutes = 0\n" + text if every_batch else text)
    return path


def test_train_both_stages_and_infer_with_the_weights(cohort: Path, tmp_path: Path) -> None:
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
    # After one epoch the networks are nearly untrained: they must load and run.
    ran = cmnet("infer", "-m", cohort, "-o", tmp_path / "run", "--model", weights)
    assert ran.exit_code in (0, 4)
    assert "defect" not in ran.output
    assert set(column(tmp_path / "run", "status", "state")) <= {"done", "failed"}


def _train(cohort: Path, out: Path, config: Path, *options: object, stage: str = "segnet") -> Result:
    return cmnet("train", "--stage", stage, "-m", cohort, "-o", out, "--config", config, *options)


KILLED = """
import os, signal, sys
from cmnet_cli import app
from cmnet_core.training import loop

save, calls = loop.save_state, []

def save_or_die(*arguments):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)

loop.save_state = save_or_die
app.app(sys.argv[1:])
"""


@pytest.mark.parametrize("stage", ["segnet", "motion"])
def test_resume_of_a_killed_training_gives_the_same_weights(tmp_path: Path, tiny_model: Path, stage: str) -> None:
    cohort, config = write_cohort(tmp_path, 6, frames=3), _settings(tmp_path, epochs=2, every_batch=True)
    init = ("--init", tiny_model, "--fresh-motion") if stage == "motion" else ()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _train(cohort, whole, config, *init, stage=stage).exit_code == 0
    line = ["train", "--stage", stage, "-m", cohort, "-o", parts, "--config", config, *init]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, line)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    progress = read_progress(RunFolder(parts).training_state(stage))
    assert progress.batch > 0
    assert not RunFolder(parts).weights(stage).exists()
    assert _train(cohort, parts, config, *init, "--resume", stage=stage).exit_code == 0
    expected, found = (load_tensors(RunFolder(out).weights(stage))[0] for out in (whole, parts))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = [read_rows(RunFolder(out).training_log(stage)) for out in (whole, parts)]
    assert [row["epoch"] for row in logs[1]] == [1, 2]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_paper_settings_train_both_stages_on_disjoint_subjects(tmp_path: Path) -> None:
    """The shipped settings, shortened to one epoch at a small size, end with weights that infer can run."""
    cohort, out, config = write_cohort(tmp_path, 6, frames=3), tmp_path / "training", tmp_path / "paper.toml"
    shipped = find_config("paper").read_text(encoding="utf-8")
    small = {
        "epochs = 200": "epochs = 1",
        "[segnet]": "[segnet]\nwindow = [48, 48]\nspacing_mm = 2.0",
        "[motion]": "[motion]\nwindow = [48, 48]",
        'name = "paper"': 'name = "paper"\nvalidate_every = 5',
    }
    for old, new in small.items():
        shipped = shipped.replace(old, new)
    config.write_text(shipped)
    for stage in ("segnet", "motion"):
        ran = _train(cohort, out, config, stage=stage)
        assert ran.exit_code == 0, ran.output
    weights = RunFolder(out).weights("motion")
    assert read_card(weights).motion == MotionSizes()
    ran = cmnet("infer", "-m", cohort, "-o", tmp_path / "run", "--model", weights, "--pilot", 1)
    assert ran.exit_code in (0, 4), ran.output
    assert "defect" not in ran.output


def test_resume_refuses_other_settings_weights_or_cases(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out, config = tmp_path / "training", _settings(tmp_path)
    assert _train(cohort, out, config).exit_code == 0
    state = RunFolder(out).training_state("segnet").read_bytes()
    longer = _train(cohort, out, _settings(tmp_path, epochs=2), "--resume")
    assert "segnet.schedule.epochs was 1, is 2" in longer.output
    same_sizes = write_tiny_model(tmp_path / "other.safetensors", seed=2)
    from_others = _train(cohort, out, config, "--init", same_sizes, "--resume")
    assert "weights to start from was none, is " in from_others.output
    cohort.write_text("\n".join(cohort.read_text().splitlines()[:-1]) + "\n")
    fewer = _train(cohort, out, config, "--resume")
    assert "cases was " in fewer.output
    for ran in (longer, from_others, fewer):
        assert (ran.exit_code, "(resume)" in ran.output, "epoch 1" in ran.output) == (3, True, False)
    assert RunFolder(out).training_state("segnet").read_bytes() == state


def test_init_refuses_weights_of_another_architecture(cohort: Path, tmp_path: Path) -> None:
    recurrent = write_tiny_model(tmp_path / "recurrent.safetensors", motion=RECURRENT_MOTION)
    wider = tmp_path / "wider.toml"
    wider.write_text(_settings(tmp_path).read_text().replace("[4, 4, 4, 4", "[8, 4, 4, 4"))
    for stage, message in (("segnet", "widths is (4, 4, 4, 4) there, (8, 4, 4, 4)"), ("motion", "deform is (4,")):
        ran = _train(cohort, tmp_path / "training", wider, "--init", recurrent, stage=stage)
        assert (ran.exit_code, "(checkpoint)" in ran.output) == (3, True)
        assert message in ran.output
    anew = _train(cohort, tmp_path / "training", wider, "--init", recurrent, "--fresh-motion", stage="motion")
    assert anew.exit_code == 0, anew.output
    assert read_card(tmp_path / "training" / "weights" / "motion.safetensors").motion.deform == (8, 4, 4, 4, 4)


@pytest.mark.parametrize(("stage", "options"), [("segnet", ()), ("motion", ("--fresh-motion",))])
def test_init_accepts_shipped_weights_with_shipped_settings(stage: str, options: tuple[str, ...]) -> None:
    """Without a manifest the command ends right after it has accepted the weights."""
    ran = cmnet("train", "--stage", stage, "-m", "nowhere.csv", "--init", "default", "--config", "default", *options)
    assert (ran.exit_code, "(manifest-unreadable)" in ran.output) == (3, True)


def test_motion_stage_needs_a_trained_segnet(cohort: Path, tmp_path: Path) -> None:
    ran = cmnet("train", "--stage", "motion", "-m", cohort, "-o", tmp_path / "training")
    assert ran.exit_code == 3
    assert "--stage segnet" in ran.output


def _with_unlabelled_collection(cohort: Path) -> None:
    """Make the last of three subjects one of a collection without masks, and add a column of the collections."""
    header, first, second, last = cohort.read_text().splitlines()
    subject, image, _, *rest = last.split(",")
    last = ",".join([subject, image, "", *rest])
    cohort.write_text(f"{header},collection\n{first},main\n{second},main\n{last},other\n")


def test_teacher_gives_the_targets_of_a_collection_without_masks(
    cohort: Path, tmp_path: Path, tiny_model: Path
) -> None:
    _with_unlabelled_collection(cohort)
    config = _settings(tmp_path)
    collections = 'collections = [{ name = "other", fraction = 1.0, masks = "none" }]\n'
    config.write_text(config.read_text().replace("[segnet]\n", f"[segnet]\n{collections}"))
    alone = _train(cohort, tmp_path / "training", config)
    assert (alone.exit_code, "(config)" in alone.output, "--teacher" in alone.output) == (3, True, True)
    assert _train(cohort, tmp_path / "training", config, "--teacher", tiny_model).exit_code == 0
    resumed = _train(
        cohort, tmp_path / "training", config, "--teacher", tiny_model, "--teacher", tiny_model, "--resume"
    )
    assert "teacher was " in resumed.output
    config.write_text(config.read_text().replace('"other"', '"another"'))
    missing = _train(cohort, tmp_path / "training", config, "--teacher", tiny_model)
    assert (missing.exit_code, "(training-cases)" in missing.output, "'another'" in missing.output) == (3, True, True)


def test_exhausted_memory_ends_a_training_that_can_be_resumed(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config, out = _settings(tmp_path, epochs=2), tmp_path / "training"
    with monkeypatch.context() as patch:
        save = loop.save_state

        def save_once(*arguments: object) -> None:
            save(*arguments)
            patch.setattr(segnet_stage, "views_loss", exhausted)

        patch.setattr(loop, "save_state", save_once)
        ended = _train(cohort, out, config)
    assert (ended.exit_code, "(out-of-memory)" in ended.output, "--resume" in ended.output) == (130, True, True)
    assert read_progress(RunFolder(out).training_state("segnet")).epoch == 1
    resumed = _train(cohort, out, config, "--resume")
    # The remaining time is that of the epochs that remain.
    assert (resumed.exit_code, "train segnet: 1 of 1, 0 failed" in resumed.output) == (0, True), resumed.output


def test_unusable_case_is_reported_and_left_out_of_training(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "9900002.nii.gz").unlink()
    options = ("-m", cohort, "-o", tmp_path / "training", "--config", _settings(tmp_path))
    ran = cmnet("train", "--stage", "segnet", *options)
    assert ran.exit_code == 4
    assert "row 3 left out (file-missing)" in ran.output
    assert (tmp_path / "training" / "weights" / "segnet.safetensors").exists()


def _without_masks(folder: Path) -> None:
    (folder / "cohort.csv").write_text("subject_id,image\n9900001,9900001.nii.gz\n9900002,9900002.nii.gz\n")


def _one_subject(folder: Path) -> None:
    lines = (folder / "cohort.csv").read_text().splitlines()
    (folder / "cohort.csv").write_text("\n".join(lines[:2]) + "\n")


def _without_rv(folder: Path) -> None:
    for masks in folder.glob("*_labels.nii.gz"):
        _rewrite(masks, lambda voxels: np.where(voxels == 3, 0, voxels))


def _without_lv_in_one(folder: Path) -> None:
    _rewrite(folder / "9900002_labels.nii.gz", lambda voxels: np.where(voxels == 1, 2, voxels))


def _nan_everywhere(folder: Path) -> None:
    for image in set(folder.glob("*.nii.gz")) - set(folder.glob("*_labels.nii.gz")):
        _rewrite(image, lambda voxels: np.where(voxels > 0, np.nan, voxels))


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    old = nib.load(path)
    voxels = np.asarray(old.dataobj)
    new = nib.Nifti1Image(change(voxels).astype(voxels.dtype), old.affine, old.header)
    path.unlink()
    nib.save(new, path)


UNTRAINABLE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no masks": (_without_masks, "manifest-column", "labels_ed and labels_es"),
    "one subject": (_one_subject, "training-cases", "0 subjects for training and 1 for validation"),
    "no RV in any mask": (_without_rv, "label-class", "lack RV"),
    "NaN in every image": (_nan_everywhere, "image-values", "left out: 3 (image-values)"),
}


@pytest.mark.parametrize("problem", UNTRAINABLE)
def test_train_refuses_an_unusable_manifest(cohort: Path, tmp_path: Path, problem: str) -> None:
    spoil, code, message = UNTRAINABLE[problem]
    spoil(tmp_path)
    ran = _train(cohort, tmp_path / "training", _settings(tmp_path))
    assert (ran.exit_code, f"({code})" in ran.output) == (3, True), ran.output
    assert message in ran.output
    assert "epoch" not in ran.output
    assert not (tmp_path / "training").exists()


def test_mask_without_a_structure_leaves_out_one_subject(cohort: Path, tmp_path: Path) -> None:
    _without_lv_in_one(tmp_path)
    ran = _train(cohort, tmp_path / "training", _settings(tmp_path))
    assert (ran.exit_code, "row 3 left out (label-class)" in ran.output) == (4, True)


def test_train_refuses_a_single_subject_without_validation(cohort: Path, tmp_path: Path) -> None:
    _one_subject(tmp_path)
    config = _settings(tmp_path)
    config.write_text(config.read_text().replace("validate_every = 3", "validate_every = 0"))
    ran = _train(cohort, tmp_path / "training", config)
    assert (ran.exit_code, "(training-cases)" in ran.output) == (3, True)


def test_error_of_unknown_settings_lists_the_shipped_ones(cohort: Path, tmp_path: Path) -> None:
    ran = cmnet("train", "--stage", "segnet", "-m", cohort, "-o", tmp_path / "training", "--config", "papr")
    assert (ran.exit_code, "(config)" in ran.output) == (3, True)
    assert "default, paper" in ran.output


def test_unknown_monitored_metric_is_refused_before_the_first_epoch(cohort: Path, tmp_path: Path) -> None:
    config = _settings(tmp_path)
    config.write_text(config.read_text().replace("epochs = 1", 'epochs = 1\nmonitored = "dyce_pct"', 1))
    ran = _train(cohort, tmp_path / "training", config)
    assert (ran.exit_code, "(config)" in ran.output, "dice_pct" in ran.output) == (3, True, True)


def test_early_stopping_and_resume_after_it(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    out, config = tmp_path / "training", _settings(tmp_path, epochs=9)
    stop = 'learning_rate = 1e-12\nmonitored = "dice_ed2es_pct"\npatience = 2\n'
    config.write_text(config.read_text().replace("[motion.schedule]\n", f"[motion.schedule]\n{stop}"))
    init = ("--init", tiny_model, "--fresh-motion")
    assert _train(cohort, out, config, *init, stage="motion").exit_code == 0
    assert [row["epoch"] for row in read_rows(RunFolder(out).training_log("motion"))] == [1, 2, 3]
    ended = load_tensors(RunFolder(out).weights("motion"))[0]
    assert _train(cohort, out, config, *init, "--resume", stage="motion").exit_code == 0
    assert [row["epoch"] for row in read_rows(RunFolder(out).training_log("motion"))] == [1, 2, 3]
    again = load_tensors(RunFolder(out).weights("motion"))[0]
    assert all(torch.equal(ended[name], again[name]) for name in ended)


def test_shipped_default_settings_are_the_defaults() -> None:
    assert load_config(TrainConfig, find_config("default")) == TrainConfig()


def test_shipped_paper_settings() -> None:
    paper = load_config(TrainConfig, find_config("paper"))
    assert paper.segnet_fraction == 0.25
    assert paper.motion.sizes == MotionSizes()
    assert (paper.motion.sizes.output_level, paper.motion.sizes.integration_steps) == (0, 0)
    assert paper.segnet.sizes == SegNetSizes()
    of_the_article = {"shape": 0.8, "kl_motion": 1e-4, "kl_latent": 2e-4, "reconstruction": 0.01, "smoothness": 0.3}
    assert asdict(paper.motion.weights) == of_the_article
    assert (paper.motion.schedule.learning_rate, paper.motion.schedule.weight_decay) == (1e-4, 0.0)
    turns_only = AugmentationRanges(*(0.0,) * len(fields(AugmentationRanges)))
    for stage in (paper.segnet, paper.motion):
        assert stage.augmentation == replace(turns_only, quarter_turns=1.0)
        assert stage.appearance == NO_VARIATION
        assert stage.schedule.monitored in (*SEGNET_METRICS, *MOTION_METRICS)


def test_training_log_has_one_row_per_epoch(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "training"
    assert _train(cohort, out, _settings(tmp_path, epochs=2), "--tensorboard").exit_code == 0
    log = read_rows(out / "logs" / "train-segnet.parquet")
    assert [row["epoch"] for row in log] == [1, 2]
    assert all(0 <= row["dice_lv_es_pct"] <= 100 and row["seconds"] > 0 and row["loss"] > 0 for row in log)
    assert set(SEGNET_METRICS) >= {name for name in log[0] if name.endswith("_mm")}
    assert list((out / "logs" / "tensorboard" / "segnet").glob("events.*"))


def test_tensorboard_option_without_the_package(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ran = _train(cohort, tmp_path / "training", _settings(tmp_path), "--tensorboard")
    assert (ran.exit_code, "cmnet[tensorboard]" in ran.output) == (3, True)


def test_training_table_on_a_terminal() -> None:
    text = io.StringIO()
    messages = Messages(notes=Console(file=text, force_terminal=True, width=100, height=30))
    metrics = {f"dice_{name}_ed2es_pct": 90.0 + n for n, name in enumerate(("lv", "myo", "rv"))}
    with live_table(messages, "train motion", total=2) as table:
        for epoch in range(2):
            print_epoch(EpochRecord(epoch, {"loss": 0.5}, {**metrics, "folded_voxels": 0.0}, 3.0, 1e-3), table)
    assert "90.0 / 91.0 / 92.0" in text.getvalue()
    assert "Dice % ed2es" in text.getvalue()


def test_two_processes_take_the_optimiser_step_of_one_with_both_cases(tmp_path: Path, tiny_model: Path) -> None:
    cohort = write_cohort(tmp_path, 3, frames=3)
    config, both = _settings(tmp_path), tmp_path / "both.toml"
    both.write_text(config.read_text().replace("[motion]", "[motion]\ncycles_per_step = 2"))
    init = ("--init", tiny_model, "--fresh-motion", "--device", "cpu")
    assert _train(cohort, tmp_path / "one", both, *init, stage="motion").exit_code == 0
    line = ["train", "--stage", "motion", "-m", cohort, "-o", tmp_path / "two", "--config", config, *init]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*torchrun, "-m", "cmnet_cli", *map(str, line)], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    one, two = (load_tensors(RunFolder(tmp_path / name).training_state("motion"))[0] for name in ("one", "two"))
    first_moments = [name for name in one if name.endswith(".exp_avg")]
    assert len(first_moments) > 20
    for name in first_moments:
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-7), name
    assert ran.stderr.count("epoch 1:") == 1
    [row] = read_rows(RunFolder(tmp_path / "two").training_log("motion"))
    [alone] = read_rows(RunFolder(tmp_path / "one").training_log("motion"))
    assert row["loss"] == pytest.approx(alone["loss"], rel=1e-5)
