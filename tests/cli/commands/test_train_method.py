"""cmnet train --method: weights with a card, a resume, the recipe of all methods, and options that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest, write_manifest
from cmnet_cli.commands.training import baseline_recipe, recipe
from cmnet_cli.commands.training.baseline_recipe import RECIPE, train_baselines
from cmnet_cli.commands.training.settings import TrainConfig
from cmnet_cli.config import load_config
from cmnet_cli.console import Messages
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.runs.paths import SimulationFolder
from cmnet_core.models.baselines.build import BASELINES
from cmnet_core.models.baselines.checkpoint import load_baseline
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort

SETTINGS = """
training_data = "circles"
validate_every = 2
[baseline]
views_per_epoch = 1
window = [48, 48]
validation_window = [48, 48]
spacing_mm = 2.0
[baseline.schedule]
epochs = 1
"""


def test_method_is_trained_and_its_training_resumed(tmp_path: Path) -> None:
    manifest, out, config = write_cohort(tmp_path, 2, frames=2), tmp_path / "out", tmp_path / "settings.toml"
    config.write_text(SETTINGS)
    arguments = ["train", "--method", "tlrn", "-m", manifest, "-o", out, "--config", config]
    ran = cmnet(*arguments)
    assert ran.exit_code == 0, ran.output
    weights = out / "weights" / "tlrn.safetensors"
    _, card = load_baseline("tlrn", weights)
    assert (card.method, card.training_data, card.spacing_mm, card.window) == ("tlrn", "circles", 2.0, (48, 48))
    assert card.training["schedule"]["epochs"] == 1
    assert {"dice_ed2es_pct", "dice_es2ed_pct", "dice_no_motion_pct"} <= set(card.metrics)
    before = weights.read_bytes()
    assert cmnet(*arguments, "--resume").exit_code == 0
    assert weights.read_bytes() == before
    config.write_text(SETTINGS.replace("epochs = 1", "epochs = 2"))
    refused = cmnet(*arguments, "--resume")
    assert refused.exit_code == ExitCode.BAD_INPUT
    assert "was started differently" in refused.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "exactly one of --stage and --method"),
        (["--stage", "segnet", "--method", "jms"], "exactly one of --stage and --method"),
        (["--method", "voxelmorf"], "There is no method 'voxelmorf'"),
        (["--method", "jms", "--init", "default"], "do not apply to --method"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: list[str], expected: str) -> None:
    ran = cmnet("train", *options, "-m", tmp_path / "cohort.csv", "-o", tmp_path / "out")
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert expected in " ".join(ran.output.split())


def test_recipe_has_a_file_for_every_method_with_the_same_data() -> None:
    settings = {path.stem: load_config(TrainConfig, path) for path in RECIPE.glob("*.toml")}
    assert set(settings) == set(BASELINES)
    assert len({(config.training_data, config.baseline.augmentation) for config in settings.values()}) == 1


def _copy_as_simulated(source: Path, out: Path, messages: Messages, **settings: int) -> None:
    """Take the place of the simulation, which takes seconds per case and has its own tests."""
    assert settings["frames"] > 2
    cases = [replace(case, subject_id=f"{case.subject_id}-sim1") for case in read_manifest(source).cases]
    out.mkdir(parents=True)
    write_manifest(SimulationFolder(out).manifest, cases)


def _write_two_phantoms(out: Path, messages: Messages, *, subjects: int, frames: int, seed: int) -> None:
    assert (subjects, frames, seed) == (24, 8, 73)
    cases = read_manifest(write_cohort(out, 2, frames=3)).cases
    write_manifest(
        SimulationFolder(out).manifest, [replace(case, subject_id=f"phantom-{case.subject_id}") for case in cases]
    )


def test_recipe_trains_on_patients_cines_simulated_from_them_and_phantoms_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = read_manifest(write_cohort(tmp_path, 2, frames=2)).cases

    def acdc(data: Path) -> list[Case]:
        splits = ("validation", "train")
        return [replace(case, extra={"split": split}) for case, split in zip(cases, splits, strict=True)]

    monkeypatch.setitem(recipe.DATA_SETS, "acdc", acdc)
    monkeypatch.setattr(baseline_recipe, "simulate", _copy_as_simulated)
    monkeypatch.setattr(baseline_recipe, "simulate_phantoms", _write_two_phantoms)
    steps, out = tmp_path / "recipe", tmp_path / "out"
    steps.mkdir()
    (steps / "tlrn.toml").write_text(SETTINGS)
    [weights] = train_baselines(steps, data=tmp_path, out=out, messages=Messages(quiet=True))
    trained = read_manifest(out / "manifests" / "training.csv").cases
    assert [case.extra["split"] for case in trained] == ["train"] * 4
    assert [case.subject_id for case in trained[:2]] == [cases[1].subject_id, f"{cases[1].subject_id}-sim1"]
    written = weights.stat().st_mtime_ns
    assert train_baselines(steps, data=tmp_path, out=out, messages=Messages(quiet=True)) == [weights]
    assert weights.stat().st_mtime_ns == written
