"""The command train: from the labelled cases of a manifest to a weights file with its model card."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.console import Messages, live_table
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.execution.summary import print_unusable_rows
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.training.data import TrainingData, load_training_data
from cmnet_cli.training.log import TensorBoardLog, TrainingLog, print_epoch
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode, ManifestError
from cmnet_core.models.build import MotionSizes, SegNetSizes
from cmnet_core.models.cardiomorphnet import CardioMorphNet
from cmnet_core.models.checkpoint import Checkpoint, ModelCard, find_weights, load_checkpoint, save_checkpoint
from cmnet_core.models.segnet import SegNet
from cmnet_core.training import motion_stage as motion
from cmnet_core.training import processes
from cmnet_core.training import segnet_stage as segnet
from cmnet_core.training.loop import Decay, EpochRecord, Schedule, TrainingMonitor, best_epoch
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.training.motion_stage import train_motion
from cmnet_core.training.segnet_stage import SegNetTraining, train_segnet
from cmnet_core.training.stages import TrainingStage
from cmnet_core.training.state import read_progress

_METRICS = {TrainingStage.SEGNET: segnet.METRICS, TrainingStage.MOTION: motion.METRICS}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``cmnet train``.

    Attributes:
        name: Name of the model on its card.
        training_data: Description of the training data on the card.
        terms: Terms of use on the card.
        validate_every: Every n-th case of the manifest, starting with the first, is kept for validation; 0 for none.
            A column ``split`` of the manifest, with ``train`` and ``validation``, takes precedence.
        checkpoint_minutes: Interval in minutes at which the state for a resume is saved within an epoch.
        segnet: Settings of the training of SegNet.
        motion: Settings of the training of the motion network.
    """

    name: str = "mine"
    training_data: str = "not described"
    terms: str = "For research. Not for diagnosis."
    validate_every: int = 5
    checkpoint_minutes: float = 5.0
    segnet: SegNetTraining = field(default_factory=SegNetTraining)
    motion: MotionTraining = field(default_factory=MotionTraining)


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The input, output and starting point of a training.

    Attributes:
        manifest: Manifest of the labelled cases.
        out: The run folder.
        init: A model or weights file to start from; None for random weights of SegNet, and for the SegNet in ``out``
            with the motion network.
        resume: Continue the interrupted training in ``out``.
        messages: Where to print.
        device: Name of the device, as on the command line.
        fresh_motion: Take only SegNet from ``init``.
        tensorboard: Also log the metrics for TensorBoard.
    """

    manifest: Path
    out: Path
    init: str | None
    resume: bool
    messages: Messages
    device: str = "auto"
    fresh_motion: bool = False
    tensorboard: bool = False


def train(stage: TrainingStage, config: TrainConfig, training: TrainingRun) -> int:
    """Train SegNet or the motion network, together with the other processes of torchrun if there are any.

    Returns:
        The number of subjects that could not be used.

    Raises:
        ManifestError: The manifest or the settings cannot be used, or too few cases can be used.
        CheckpointError: The weights to start from have another architecture, or the state to resume belongs to another
            training.
    """
    device = _device(training.device)
    with processes.process_group(device):
        if processes.rank() > 0:
            training = replace(training, messages=Messages(quiet=True))
        return _train_in_this_process(stage, config, training, device)


def _device(name: str) -> torch.device:
    device = torch.device(resolve_device(name))
    if processes.launched_by_torchrun() and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _train_in_this_process(
    stage: TrainingStage, config: TrainConfig, training: TrainingRun, device: torch.device
) -> int:
    run = RunFolder(training.out)
    start = _initial_weights(stage, config, run, training)
    manifest = read_manifest(training.manifest)
    print_unusable_rows(manifest.left_out, training.messages)
    spacing_mm = start.card.spacing_mm if start else config.segnet.spacing_mm
    data = load_training_data(manifest.cases, config.validate_every, spacing_mm=spacing_mm, messages=training.messages)
    _require_monitored_metric(stage, _schedule(stage, config), validates=bool(data.validation))
    if processes.rank() == 0:
        settings = dataclasses.asdict(config)
        record_command(run, f"train-{stage}", manifest_digest=manifest.digest, settings=settings)
    _train(stage, config, data, start, training=training, device=device)
    return data.left_out + len({problem.row for problem in manifest.left_out})


def _schedule(stage: TrainingStage, config: TrainConfig) -> Schedule:
    return (config.segnet if stage == TrainingStage.SEGNET else config.motion).schedule


def _require_monitored_metric(stage: TrainingStage, schedule: Schedule, *, validates: bool) -> None:
    needed = schedule.patience > 0 or schedule.decay == Decay.PLATEAU
    if (schedule.monitored or needed) and (schedule.monitored not in _METRICS[stage] or not validates):
        raise ManifestError(
            f"The setting monitored = '{schedule.monitored}' of {stage} names no metric of the validation"
            f"{'' if validates else ': there are no subjects for validation'}.",
            hint=f"Keep subjects for validation and name one of: {', '.join(_METRICS[stage])}; "
            "or set monitored = '', patience = 0 and decay = 'cosine'.",
            code=ErrorCode.CONFIG,
        )


def _initial_weights(
    stage: TrainingStage, config: TrainConfig, run: RunFolder, training: TrainingRun
) -> Checkpoint | None:
    """Load the weights to start from: by default none for SegNet, and the trained SegNet for the motion network."""
    if training.init is None and stage == TrainingStage.SEGNET:
        return None
    source = find_weights(training.init) if training.init else run.weights(TrainingStage.SEGNET)
    if training.init is None and not source.exists():
        raise CheckpointError(
            f"The motion network needs the weights of a trained SegNet; {source} does not exist.",
            hint="Run cmnet train --stage segnet with the same --out first, or give --init FILE.",
            code=ErrorCode.CHECKPOINT,
        )
    found = load_checkpoint(source)
    if training.fresh_motion:
        found = replace(found, motion=None, card=replace(found.card, motion=None))
    if stage == TrainingStage.SEGNET:
        _require_same_architecture(source, "segnet", found.card.segnet, config.segnet.sizes)
    elif found.card.motion:
        _require_same_architecture(source, "motion", found.card.motion, config.motion.sizes)
    return found


def _require_same_architecture(
    source: Path, name: str, stored: SegNetSizes | MotionSizes, wanted: SegNetSizes | MotionSizes
) -> None:
    differing = [
        f"{item.name} is {getattr(stored, item.name)} there, {getattr(wanted, item.name)} in the settings"
        for item in dataclasses.fields(stored)
        if getattr(stored, item.name) != getattr(wanted, item.name)
    ]
    if differing:
        fresh = " add --fresh-motion to start from random weights of the motion network," if name == "motion" else ""
        raise CheckpointError(
            f"The weights of {source} have another architecture than [{name}.sizes]: {'; '.join(differing)}.",
            hint=f"Give the settings with which the weights were trained,{fresh} or omit --init.",
            code=ErrorCode.CHECKPOINT,
        )


def _train(
    stage: TrainingStage,
    config: TrainConfig,
    data: TrainingData,
    start: Checkpoint | None,
    *,
    training: TrainingRun,
    device: torch.device,
) -> None:
    run = RunFolder(training.out)
    schedule = _schedule(stage, config)
    logs = _open_logs(stage, training)
    with live_table(training.messages, f"train {stage}", total=schedule.epochs) as table:

        def on_epoch(record: EpochRecord) -> None:
            for log in logs:
                log.add(record)
            print_epoch(record, table)

        monitor = TrainingMonitor(
            run.training_state(stage),
            training.resume,
            lambda number, of: table.advance(number / of),
            on_epoch,
            save_interval_s=60 * config.checkpoint_minutes,
            identity=_identity(stage, config, data, start),
            device=device,
        )
        networks = _run_stage(stage, config, data, start, monitor)
    if processes.rank() == 0:
        path = run.weights(stage)
        history = read_progress(monitor.state).history
        metrics = history[best_epoch(history, schedule.monitored)] if history else {}
        save_checkpoint(path, segnet=networks[0], motion=networks[1], card=_card(stage, config, start, metrics))
        training.messages.result(f"{path} (sha256 {sha256_of(path)[:12]}…)")


def _open_logs(stage: TrainingStage, training: TrainingRun) -> list[TrainingLog | TensorBoardLog]:
    """Open the logs of the metrics; only the first of several processes writes them."""
    if processes.rank():
        return []
    run = RunFolder(training.out)
    log = TrainingLog(run.training_log(stage), resume=training.resume)
    return [log, TensorBoardLog(run.tensorboard(stage))] if training.tensorboard else [log]


def _identity(
    stage: TrainingStage, config: TrainConfig, data: TrainingData, start: Checkpoint | None
) -> dict[str, str]:
    """Return the properties that a resumed training must share with its start to end with the same weights."""
    settings = dataclasses.asdict(config.segnet if stage == TrainingStage.SEGNET else config.motion)
    return {f"{stage}.{name}": value for name, value in _flat(settings)} | {
        "cases": data.digest[:12],
        "weights to start from": start.digest[:12] if start else "none",
        "motion to start from": "given" if start and start.motion else "none",
        "processes": str(processes.world_size()),
    }


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", text) for inner, text in _flat(value))
        else:
            yield name, str(value)


def _run_stage(
    stage: TrainingStage, config: TrainConfig, data: TrainingData, start: Checkpoint | None, monitor: TrainingMonitor
) -> tuple[SegNet, CardioMorphNet | None]:
    cases, validation = data.training, data.validation
    if stage == TrainingStage.SEGNET or start is None:
        segnet_start = start.segnet if start else None
        return train_segnet(cases, validation, settings=config.segnet, monitor=monitor, start=segnet_start), None
    trained = train_motion(
        cases, validation, segnet=start.segnet, settings=config.motion, monitor=monitor, start=start.motion
    )
    return start.segnet, trained


def _card(stage: TrainingStage, config: TrainConfig, start: Checkpoint | None, metrics: dict[str, float]) -> ModelCard:
    """Return the model card: that of the initial weights, updated by this stage of training."""
    card = start.card if start else _first_card(config)
    settings = dataclasses.asdict(config.segnet if stage == TrainingStage.SEGNET else config.motion)
    return replace(
        card,
        name=config.name,
        training_data=config.training_data,
        terms=config.terms,
        version=__version__,
        motion=config.motion.sizes if stage == TrainingStage.MOTION else None,
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
