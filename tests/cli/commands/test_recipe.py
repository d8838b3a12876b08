"""The recipe of the shipped weights: steps in their order, a teacher, a second call, and data that are missing."""

from pathlib import Path

import pytest

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.training import recipe
from cmnet_cli.commands.training.recipe import RECIPE, RecipeStep, run_recipe
from cmnet_cli.config import load_config
from cmnet_cli.console import Messages
from cmnet_core.errors import ManifestError
from cmnet_core.models.checkpoint import read_card
from tests.phantoms import write_cohort

STEP = """
[train.segnet]
window = [48, 48]
spacing_mm = 2.0
[train.segnet.schedule]
epochs = 1
[train.segnet.sizes]
widths = [4, 4, 4, 4]
"""


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two small steps, whose patients of ACDC are two simulated subjects."""
    cases = read_manifest(write_cohort(tmp_path, 2, frames=2)).cases
    monkeypatch.setitem(recipe.DATA_SETS, "acdc", lambda data: cases)
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "1-teacher.toml").write_text("members = 2\n" + STEP)
    (folder / "2-segnet.toml").write_text('teacher = "1-teacher"\n' + STEP + '[train]\nname = "small"\n')
    return folder


def test_recipe_trains_all_steps_and_a_second_call_nothing(steps: Path, tmp_path: Path) -> None:
    out, messages = tmp_path / "out", Messages(quiet=True)
    weights = run_recipe(steps, data=tmp_path, out=out, messages=messages)
    assert read_card(weights).name == "small"
    trained = sorted(out.glob("*/*/weights/segnet.safetensors"))
    assert [path.parents[1].relative_to(out).as_posix() for path in trained] == [
        "1-teacher/1",
        "1-teacher/2",
        "2-segnet/1",
    ]
    assert trained[0].read_bytes() != trained[1].read_bytes()
    written = [path.stat().st_mtime_ns for path in trained]
    run_recipe(steps, data=tmp_path, out=out, messages=messages)
    assert [path.stat().st_mtime_ns for path in trained] == written
    (steps / "2-segnet.toml").write_text('teacher = "1-teacher"\n' + STEP)
    with pytest.raises(ManifestError, match="another recipe"):
        run_recipe(steps, data=tmp_path, out=out, messages=messages)


def test_missing_data_of_all_steps_are_named_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        run_recipe(RECIPE, data=tmp_path / "nowhere", out=tmp_path / "out", messages=Messages(quiet=True))
    for named in ("1-teacher: acdc", "2-segnet: acdc-cine", "2-segnet: chla", "2-segnet: sunnybrook"):
        assert named in refused.value.message
    assert not (tmp_path / "out").exists()


def test_a_step_that_uses_a_later_one_is_refused(steps: Path, tmp_path: Path) -> None:
    (steps / "1-teacher.toml").write_text('init = "2-segnet"\n' + STEP)
    with pytest.raises(ManifestError, match="1-teacher: no step '2-segnet' before it"):
        run_recipe(steps, data=tmp_path, out=tmp_path / "out", messages=Messages(quiet=True))


@pytest.mark.parametrize("path", sorted(RECIPE.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_steps_have_known_keys_and_name_their_collections(path: Path) -> None:
    step = load_config(RecipeStep, path)
    assert {collection.name for collection in step.train.segnet.collections} <= set(step.data)
