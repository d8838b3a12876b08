"""Training of the shape motion network from the command line: four stages that each start from the one before."""

from pathlib import Path

import pytest
import torch

from cmnet_cli.commands.training.recipe import RECIPE, RecipeStep
from cmnet_cli.commands.training.settings import TrainConfig
from cmnet_cli.config import find_config, load_config
from cmnet_core.models.checkpoint import load_checkpoint, read_card
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.training.stages import TrainingStage
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort
from tests.tiny_model import write_tiny_model

STAGES = ("through-plane", "rotation", "shape-motion", "motion-posterior")

SETTINGS = """
name = "small"
validate_every = 3
[through_plane]
pairs = 4
validation_pairs = 1
window = 32
[through_plane.schedule]
epochs = 1
[rotation.schedule]
epochs = 1
[shape_motion]
views_per_epoch = 1
validation_pairs = 1
window = 32
[shape_motion.schedule]
epochs = 1
[shape_motion.sizes]
fine = 4
middle = 4
coarse = 4
blocks = 1
stack = 4
[motion_posterior]
pairs_per_epoch = 2
validation_pairs = 1
window = 32
[motion_posterior.schedule]
epochs = 1
"""


def test_four_stages_train_the_parts_of_the_shape_motion_network(tmp_path: Path) -> None:
    cohort, out, config = write_cohort(tmp_path, 3, frames=2), tmp_path / "training", tmp_path / "small.toml"
    config.write_text(SETTINGS)
    options = ("-m", cohort, "-o", out, "--config", config)
    early = cmnet("train", "--stage", "shape-motion", *options)
    assert (early.exit_code, "--stage rotation" in early.output) == (3, True)
    weights = write_tiny_model(tmp_path / "segnet.safetensors", with_motion=False)
    without = cmnet("train", "--stage", "shape-motion", *options, "--init", weights)
    assert (without.exit_code, "no shape motion network" in without.output) == (3, True)
    trained = []
    for stage, init in (
        ("through-plane", ("--init", weights)),
        ("rotation", ()),
        ("shape-motion", ()),
        ("motion-posterior", ()),
    ):
        ran = cmnet("train", "--stage", stage, *options, *init)
        assert ran.exit_code == 0, ran.output
        checkpoint = load_checkpoint(out / "weights" / f"{stage}.safetensors")
        assert isinstance(checkpoint.motion, ShapeMotionNet)
        trained.append(checkpoint.motion.state_dict())
    for prefix, before, after in zip(("rotation.", "residual.", "posterior_head."), trained, trained[1:], strict=False):
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert changed
        assert all(name.startswith(prefix) for name in changed)
    card = read_card(out / "weights" / "motion-posterior.safetensors")
    assert {"through-plane", "rotation", "shape-motion", "motion-posterior"} <= set(card.training)
    assert {
        "basal_error_mm",
        "rotation_error_deg",
        "dice_es2ed_pct",
        "endpoint_through_plane_mm",
        "coverage_pct",
    } <= set(card.metrics)


@pytest.mark.parametrize("stage", STAGES)
def test_steps_of_the_recipe_have_the_default_settings(stage: str) -> None:
    [step] = [load_config(RecipeStep, path) for path in RECIPE.glob(f"*-{stage}.toml")]
    defaults = load_config(TrainConfig, find_config("default"))
    assert step.stage is TrainingStage(stage)
    assert step.train.of(step.stage) == defaults.of(step.stage)
