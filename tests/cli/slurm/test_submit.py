"""The command submit and the tasks that it submits, without a SLURM: they use the settings of the local commands."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cmnet_cli.commands import process
from cmnet_cli.commands.array_jobs import task
from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.execution import indices_parts
from cmnet_cli.execution.runner import StageResult
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import open_run
from cmnet_core.function.reference_ranges import SHIPPED, read_reference
from cmnet_core.models.checkpoint import WEIGHTS
from tests.cli.commanding import cmnet
from tests.cli.slurm.fake_slurm import install_fake_slurm
from tests.phantoms import write_cohort
from tests.tables import RESULTS, require_equal_tables

REFERENCE = "quantity,sex,mean,sd\nlvef_pct,female,20,5\nlvef_pct,male,30,5\n"


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_slurm(tmp_path / "fake-slurm", monkeypatch)


@pytest.fixture
def run_stages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stages that commands run; they are collected here instead of being run."""
    stages: list[Any] = []

    def collect(stage: Any, *_: object, **__: object) -> StageResult:
        stages.append(stage)
        return StageResult()

    for module in (process, task, indices_parts):
        monkeypatch.setattr(module, "run_stage", collect)
    monkeypatch.setattr(task, "open_engine", lambda _: nullcontext(SerialEngine()))
    return stages


def _succeed(*arguments: object) -> None:
    ran = cmnet(*arguments)
    assert ran.exit_code == 0, ran.output


def _run_tasks(run: Path) -> None:
    """Run the tasks of the latest submission, as its batch script would."""
    name = RunFolder(run).submissions[-1]
    for number in range(len(list((run / "slurm" / name / "shards").iterdir()))):
        _succeed("task", "--run", run, "--submission", name, "--shard", number)


def _toml(path: Path, kind: type, **values: object) -> Path:
    """Write settings of which every one differs from its default."""
    defaults = kind()
    assert {item.name for item in fields(kind)} == set(values), "a new setting has to be part of this test"
    assert all(getattr(defaults, name) != value for name, value in values.items())
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


def _create_empty_sidecars(run: Path) -> None:
    """Let the stage indices consider all cases as finished by infer; infer itself finds them unfinished."""
    for case in open_run(run).cases:
        sidecar = RunFolder(run).case(case.case_id).sidecar("infer")
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.touch()


def test_array_tasks_run_the_same_stages_as_the_local_commands(
    tmp_path: Path, tiny_model: Path, fake_slurm: None, run_stages: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=2), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    Path("ranges.csv").write_text(REFERENCE)
    shutil.copy(WEIGHTS / "default.calibration.json", "own.json")
    preprocess = _toml(tmp_path / "preprocess.toml", PreprocessConfig, size=64, spacing_mm=2.0)
    model = str(tiny_model)
    infer = _toml(tmp_path / "infer.toml", InferConfig, model=model, method="lcc-demons", save_motion="ed2es")
    indices = _toml(
        *(tmp_path / "indices.toml", IndicesConfig),
        **{"reference": "ranges.csv", "calibration": "own.json", "samples": 7, "seed": 5, "experimental": True},
    )

    _succeed("preprocess", "-m", manifest, "-o", run, "--config", preprocess)
    _succeed("infer", "-m", manifest, "-o", run, "--config", infer)
    _create_empty_sidecars(run)
    _succeed("indices", "-r", run, "--config", indices)
    local = list(run_stages)
    assert [stage.name for stage in local] == ["preprocess", "infer", "indices"]

    run_stages.clear()
    _succeed("submit", "preprocess", "-m", manifest, "-o", run, "--config", preprocess)
    _run_tasks(run)
    _succeed("submit", "infer", "-m", manifest, "-o", run, "--config", infer, "--indices-config", indices)
    _run_tasks(run)
    assert run_stages == local

    run_stages.clear()
    _succeed("submit", "indices", "-m", manifest, "-o", run, "--config", indices)
    # The task uses the ranges as they were at the submission.
    Path("ranges.csv").write_text("damaged")
    _run_tasks(run)
    assert run_stages == local[2:]


def test_options_of_the_command_line_reach_the_tasks(
    tmp_path: Path, tiny_model: Path, fake_slurm: None, run_stages: list[Any]
) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    (tmp_path / "ranges.csv").write_text(REFERENCE)
    of_infer = ("--model", tiny_model, "--save-motion", "none", "--device", "cpu")
    of_indices = ("--reference", tmp_path / "ranges.csv", "--samples", 9, "--seed", 4)
    _succeed("submit", "infer", "-m", manifest, "-o", run, *of_infer, *of_indices)
    _run_tasks(run)
    submitted = list(run_stages)
    run_stages.clear()
    _succeed("infer", "-m", manifest, "-o", run, *of_infer)
    _create_empty_sidecars(run)
    _succeed("indices", "-r", run, *of_indices)
    assert submitted == run_stages


def test_tables_of_submitted_indices_equal_those_of_the_local_command(
    tmp_path: Path, tiny_model: Path, fake_slurm: None
) -> None:
    manifest = write_cohort(tmp_path, 2, frames=3)
    header, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{header},sex", *(f"{line},male" for line in lines)]) + "\n")
    (tmp_path / "ranges.csv").write_text(REFERENCE)
    of_indices = ("--reference", tmp_path / "ranges.csv", "--samples", 6, "--seed", 3)
    local, submitted = tmp_path / "local", tmp_path / "submitted"
    _succeed("infer", "-m", manifest, "-o", local, "--model", tiny_model)
    shutil.copytree(local, submitted)
    _succeed("indices", "-r", local, *of_indices)
    _succeed("submit", "indices", "-m", manifest, "-o", submitted, *of_indices)
    _run_tasks(submitted)
    _succeed("merge", "-r", submitted)
    require_equal_tables(submitted, local, names=RESULTS)

    # The report reads these records, so they must agree too.
    records = [json.loads((run / "run.json").read_text())["commands"]["indices"] for run in (local, submitted)]
    assert records[0]["reference"] == records[1]["reference"] == ["ranges"]
    for name in ("samples", "seed"):
        assert records[0]["settings"][name] == records[1]["settings"][name]
    ranges = [read_reference(Path(record["settings"]["reference"])) for record in records]
    assert ranges[0] == ranges[1] != read_reference(SHIPPED)


def test_changed_frozen_reference_is_refused(tmp_path: Path, tiny_model: Path, fake_slurm: None) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    _succeed("submit", "infer", "-m", manifest, "-o", run, "--model", tiny_model)
    [frozen] = run.glob("slurm/*/reference/*.csv")
    frozen.chmod(0o644)
    frozen.write_text(REFERENCE)
    refused = cmnet("task", "--run", run, "--submission", RunFolder(run).submissions[-1], "--shard", 0)
    assert (refused.exit_code, "digest differs" in refused.output, "(shard)" in refused.output) == (3, True, True)


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("preprocess", ("--samples", "5")),
        ("preprocess", ("--model", "default")),
        ("indices", ("--save-motion", "none")),
        ("indices", ("--indices-config", "indices.toml")),
    ],
)
def test_option_of_another_stage_is_refused(tmp_path: Path, stage: str, option: tuple[str, str]) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    refused = cmnet("submit", stage, "-m", manifest, "-o", tmp_path / "run", *option)
    assert (refused.exit_code, f"does not use {option[0]}" in refused.output) == (3, True), refused.output
    assert not (tmp_path / "run").exists()


def test_submit_without_slurm_is_refused(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    manifest = write_cohort(tmp_path, 1, frames=2)
    ran = cmnet("submit", "infer", "-m", manifest, "-o", tmp_path / "run", "--model", tiny_model)
    assert (ran.exit_code, "no SLURM on this machine" in ran.output) == (3, True)
    assert not (tmp_path / "run").exists()
