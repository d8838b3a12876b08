"""The command train: from the labelled cases of a manifest to a weights file with its model card."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.training.initial_weights import initial_weights
from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.commands.training.stages import METRICS_OF_STAGE, PREPARE_STAGE, PreparedStage
from cmnet_cli.console import Messages, live_table
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.execution.summary import print_unusable_rows
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.training.log import TensorBoardLog, TrainingLog, print_epoch
from cmnet_cli.training.split import cases_of_stage
from cmnet_core import __version__
from cmnet_core.errors import EngineError, ErrorCode, ManifestError
from cmnet_core.models.build import AnyMotionSizes
from cmnet_core.models.checkpoint import Checkpoint, ModelCard, save_checkpoint
from cmnet_core.training import processes
from cmnet_core.training.loop import Decay, EpochRecord, Schedule, TrainingMonitor, best_epoch
from cmnet_core.training.stages import TrainingStage
from cmnet_core.training.state import read_progress


def train(stage: TrainingStage, config: TrainConfig, training: TrainingRun) -> int:
    """Train the network of a stage, together with the other processes of torchrun if there are any.

    Returns:
        The number of subjects that could not be used.

    Raises:
        ManifestError: The manifest or the settings cannot be used, or too few cases can be used.
        CheckpointError: The weights to start from have another architecture, or the state to resume belongs to another
            training.
    """
    device = training_device(training.device)
    with processes.process_group(device):
        if processes.rank() > 0:
            training = replace(training, messages=Messages(quiet=True))
        return _train_in_this_process(stage, config, training, device)


def training_device(name: str) -> torch.device:
    """Return the device of this process, which is one of torchrun's if that started it."""
    device = torch.device(resolve_device(name))
    if processes.launched_by_torchrun() and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _train_in_this_process(
    stage: TrainingStage, config: TrainConfig, training: TrainingRun, device: torch.device
) -> int:
    run = RunFolder(training.out)
    start = initial_weights(stage, config, run, training)
    manifest = read_manifest(training.manifest)
    print_unusable_rows(manifest.left_out, training.messages)
    spacing_mm = start.card.spacing_mm if start else config.segnet.spacing_mm
    cases = cases_of_stage(
        manifest.cases, stage, segnet_fraction=config.segnet_fraction, validate_every=config.validate_every
    )
    prepared = PREPARE_STAGE[stage](cases, config, start, training, spacing_mm)
    _require_monitored_metric(stage, config.of(stage).schedule, validates=prepared.validates)
    if processes.rank() == 0:
        settings = dataclasses.asdict(config)
        record_command(run, f"train-{stage}", manifest_digest=manifest.digest, settings=settings)
    _train(stage, config, prepared, start, training=training, device=device)
    return prepared.left_out + len({problem.row for problem in manifest.left_out})


def _require_monitored_metric(stage: TrainingStage, schedule: Schedule, *, validates: bool) -> None:
    needed = schedule.patience > 0 or schedule.decay == Decay.PLATEAU
    if (schedule.monitored or needed) and (schedule.monitored not in METRICS_OF_STAGE[stage] or not validates):
        raise ManifestError(
            f"The setting monitored = '{schedule.monitored}' of {stage} names no metric of the validation"
            f"{'' if validates else ': there are no subjects for validation'}.",
            hint=f"Keep subjects for validation and name one of: {', '.join(METRICS_OF_STAGE[stage])}; "
            "or set monitored = '', patience = 0 and decay = 'cosine'.",
            code=ErrorCode.CONFIG,
        )


def _train(
    stage: TrainingStage,
    config: TrainConfig,
    prepared: PreparedStage,
    start: Checkpoint | None,
    *,
    training: TrainingRun,
    device: torch.device,
) -> None:
    networks, metrics = run_logged(
        stage,
        config.of(stage).schedule,
        prepared.train,
        identity=_identity(stage, config, start) | prepared.identity,
        checkpoint_minutes=config.checkpoint_minutes,
        training=training,
        device=device,
    )
    if processes.rank() == 0:
        path = RunFolder(training.out).weights(stage)
        save_checkpoint(path, segnet=networks[0], motion=networks[1], card=_card(stage, config, start, metrics))
        training.messages.result(f"{path} (sha256 {sha256_of(path)[:12]}…)")


ResultT = TypeVar("ResultT")


def run_logged(
    name: str,
    schedule: Schedule,
    train: Callable[[TrainingMonitor], ResultT],
    *,
    identity: dict[str, str],
    checkpoint_minutes: float,
    training: TrainingRun,
    device: torch.device,
) -> tuple[ResultT, dict[str, float]]:
    """Train with a log of every epoch, and return what was trained and the metrics of its epoch.

    Args:
        name: Name of the stage or of the method, which files are named by.
        schedule: Duration and learning rate.
        train: Trains, and returns the networks.
        identity: What a resumed training must share with its start.
        checkpoint_minutes: Interval at which the state is saved within an epoch.
        training: Folder, messages, and whether to resume.
        device: Device of the training.

    Raises:
        EngineError: The memory does not suffice.
        CheckpointError: The state to resume belongs to another training.
    """
    run = RunFolder(training.out)
    logs, state = _open_logs(name, training), run.training_state(name)
    finished = read_progress(state).epoch if training.resume and state.exists() else 0
    with live_table(training.messages, f"train {name}", total=schedule.epochs - finished) as table:

        def on_epoch(record: EpochRecord) -> None:
            for log in logs:
                log.add(record)
            print_epoch(record, table)

        monitor = TrainingMonitor(
            state,
            training.resume,
            lambda number, of: table.advance(number / of),
            on_epoch,
            save_interval_s=60 * checkpoint_minutes,
            identity=identity,
            device=device,
        )
        try:
            trained = train(monitor)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise EngineError(
                f"The memory does not suffice for this training: {error}",
                hint="The last saved state is complete: --resume continues from it, on a machine or a device with more "
                "memory. Smaller batches or motion.gradient_checkpointing need less, and are another training.",
                code=ErrorCode.OUT_OF_MEMORY,
            ) from error
    if processes.rank():
        return trained, {}
    history = read_progress(monitor.state).history
    return trained, history[best_epoch(history, schedule.monitored)] if history else {}


def _open_logs(name: str, training: TrainingRun) -> list[TrainingLog | TensorBoardLog]:
    """Open the logs of the metrics; only the first of several processes writes them."""
    if processes.rank():
        return []
    run = RunFolder(training.out)
    log = TrainingLog(run.training_log(name), resume=training.resume)
    return [log, TensorBoardLog(run.tensorboard(name))] if training.tensorboard else [log]


def _identity(stage: TrainingStage, config: TrainConfig, start: Checkpoint | None) -> dict[str, str]:
    """Return the properties that a resumed training must share with its start to end with the same weights."""
    settings = dataclasses.asdict(config.of(stage))
    if stage == TrainingStage.THROUGH_PLANE:
        settings["sizes"] = dataclasses.asdict(config.shape_motion.sizes)
    return {f"{stage}.{name}": value for name, value in flat_settings(settings)} | {
        "weights to start from": start.digest[:12] if start else "none",
        "motion to start from": "given" if start and start.motion else "none",
        "processes": str(processes.world_size()),
    }


def flat_settings(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return nested settings as pairs of a name with dots and a text."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", text) for inner, text in flat_settings(value))
        else:
            yield name, str(value)


def _card(stage: TrainingStage, config: TrainConfig, start: Checkpoint | None, metrics: dict[str, float]) -> ModelCard:
    """Return the model card: that of the initial weights, updated by this stage of training."""
    card = start.card if start else _first_card(config)
    motion: AnyMotionSizes | None = None if stage == TrainingStage.SEGNET else config.shape_motion.sizes
    settings = dataclasses.asdict(config.of(stage))
    return replace(
        card,
        name=config.name,
        training_data=config.training_data,
        terms=config.terms,
        version=__version__,
        motion=config.motion.sizes if stage == TrainingStage.MOTION else motion,
        training={**card.training, stage: settings},
        metrics={**card.metrics, **metrics},
    )


def _first_card(config: TrainConfig) -> ModelCard:
    return ModelCard(
        name=config.name,
        segnet=config.segnet.sizes,
        motion=None,
        spacing_mm=config.segnet.spacing_mm,
        window=config.segnet.window,
        training_data=config.training_data,
        terms=config.terms,
        version=__version__,
    )
