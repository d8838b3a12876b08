"""The recipe of the shipped weights: steps in their order, a teacher, a second call, and data that are missing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.training import recipe
from cmnet_cli.commands.training.recipe import RECIPE, VALIDATION_EVERY, RecipeStep, load_step, run_recipe
from cmnet_cli.commands.training.settings import TrainConfig
from cmnet_cli.commands.training.slice_cines import find_slice_cines, with_reference_masks
from cmnet_cli.config import find_config, load_config
from cmnet_cli.console import Messages
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.errors import ManifestError
from cmnet_core.io.nifti import write_image
from cmnet_core.labels import Label
from cmnet_core.models.checkpoint import WEIGHTS, load_checkpoint, load_tensors, read_card
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


def test_average_of_two_steps_differs_from_their_mean_by_the_offset_of_the_wall_alone(
    steps: Path, tmp_path: Path
) -> None:
    (steps / "3-average.toml").write_text('average = ["1-teacher", "2-segnet"]\n')
    weights = run_recipe(steps, data=tmp_path, out=tmp_path / "out", messages=Messages(quiet=True))
    found = load_checkpoint(weights)
    parts = [load_checkpoint(path) for path in sorted((tmp_path / "out").glob("[12]-*/*/weights/segnet.safetensors"))]
    states = [part.segnet.state_dict() for part in parts]
    assert len(states) == 3
    offset = found.card.training["average"]["wall_logit_offset"]
    for name, values in found.segnet.state_dict().items():
        if values.is_floating_point():
            mean = torch.stack([state[name] for state in states]).mean(0)
            if name == "decoder.head.bias":
                mean[4 * Label.MYO : 4 * Label.MYO + 4] += offset
            torch.testing.assert_close(values, mean)


def test_last_step_is_shipped_in_half_precision_if_it_says_so(steps: Path, tmp_path: Path) -> None:
    (steps / "1-teacher.toml").unlink()
    (steps / "2-segnet.toml").write_text("half_precision = true\n" + STEP)
    weights = run_recipe(steps, data=tmp_path, out=tmp_path / "out", messages=Messages(quiet=True))
    stored = {values.dtype for values in load_tensors(weights)[0].values() if values.is_floating_point()}
    assert stored == {torch.float16}
    assert all(weight.dtype == torch.float32 for weight in load_checkpoint(weights).segnet.parameters())


def test_a_step_that_uses_a_later_one_is_refused(steps: Path, tmp_path: Path) -> None:
    (steps / "1-teacher.toml").write_text('init = "2-segnet"\n' + STEP)
    with pytest.raises(ManifestError, match="1-teacher: no step '2-segnet' before it"):
        run_recipe(steps, data=tmp_path, out=tmp_path / "out", messages=Messages(quiet=True))


@pytest.mark.parametrize("path", sorted(RECIPE.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_steps_have_known_keys_and_name_their_collections(path: Path) -> None:
    step = load_config(RecipeStep, path)
    assert {collection.name for collection in step.train.segnet.collections} <= set(step.data)


def test_recipe_of_the_published_model_has_its_losses_sizes_and_split_and_no_validation_patient() -> None:
    paper = load_config(TrainConfig, find_config("paper"))
    steps = [load_step(path) for path in sorted((WEIGHTS / "recipe-paper").glob("*.toml"))]
    assert [step.stage for step in steps] == ["segnet", "motion"]
    for step in steps:
        assert step.train.name == "paper"
        assert step.train.segnet_fraction == 0.25
        assert step.train.motion.weights == paper.motion.weights
        assert step.train.motion.sizes == paper.motion.sizes
        assert step.train.motion.appearance == paper.motion.appearance
        assert step.train.segnet.augmentation == paper.segnet.augmentation
        assert len(step.left_out) == 20
        assert {int(subject.removeprefix("patient")) % VALIDATION_EVERY for subject in step.left_out} == {1}


def test_slice_cines_have_the_masks_of_their_slice_at_ed_and_es(tmp_path: Path) -> None:
    [case] = read_manifest(write_cohort(tmp_path, 1, frames=4)).cases
    patient = replace(case, subject_id="patient002", ed=0, es=2)
    cine = load_cine(patient)
    folder = tmp_path / "cycles"
    folder.mkdir()
    name = "patient002_mid_slice01"
    write_image(folder / f"{name}_cine.nii.gz", cine.voxels[:, 1:2], affine=cine.affine, frame_ms=None)
    for frame in (0, 2):
        (folder / f"{name}_frame{frame:02d}_myo.nii.gz").touch()
    [found] = find_slice_cines(folder, [patient])
    assert (found.slice, found.ed, found.es) == (1, 0, 2)
    single = with_reference_masks(found, tmp_path / "masks")
    labels, whole = load_labels(single, load_cine(single)), load_labels(patient, cine)
    assert labels is not None
    assert whole is not None
    assert labels.frames == (0, 2)
    assert torch.equal(labels.at(2)[0], whole.at(2)[1])
    with pytest.raises(ManifestError, match="found none"):
        find_slice_cines(folder, [])
