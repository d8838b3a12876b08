"""The command train: cases of a manifest in, a weights file with its card out."""

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
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.training.data import TrainingData, load_training_data
from cmnet_cli.training.log import TensorBoardLog, TrainingLog, tell
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

_FIGURES = {TrainingStage.SEGNET: segnet.METRICS, TrainingStage.MOTION: motion.METRICS}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``cmnet train``.

    Attributes:
        name: The model's name on its card.
        training_data: What it is trained on, in words, for the card.
        terms: What it may be used for, in words, for the card.
        validate_every: Every how manieth case of the manifest, from the first, is kept for validation; 0 none. A
            column ``split`` of the manifest, with ``train`` and ``validation``, goes before it.
        checkpoint_minutes: How often the state for a resume is saved within an epoch.
        segnet: Settings of the first stage.
        motion: Settings of the second stage.
    """

    name: str = "mine"
    training_data: str = "not described"
    terms: str = "For research. Not for diagnosis."
    validate_every: int = 5
    checkpoint_minutes: float = 5.0
    segnet: SegNetTraining = field(default_factory=SegNetTraining)
    motion: MotionTraining = field(default_factory=MotionTraining)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What ``cmnet train`` is told besides its settings.

    Attributes:
        manifest: The cohort to train on.
        out: The run folder.
        init: Weights of SegNet for the second stage; the run's own where None.
        resume: Go on where the run folder's training stopped.
        messages: Where to print.
        device: As the command line names it.
        fresh_motion: Take SegNet alone from ``init``.
        tensorboard: Write for TensorBoard too.
    """

    manifest: Path
    out: Path
    init: str | None
    resume: bool
    messages: Messages
    device: str = "auto"
    fresh_motion: bool = False
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes:
        weights: The file.
        left_out: Subjects that could not be used.
    """

    weights: Path
    left_out: int


def train(stage: TrainingStage, config: TrainConfig, job: TrainJob) -> Trained:
    """Train one of the two stages, together with other processes where torchrun started them.

    Raises:
        ManifestError: The manifest or the settings cannot be used, or too few cases can be trained on.
        CheckpointError: Weights to start from, or the state to resume, belong to something else.
    """
    device = _device(job.device)
    with processes.process_group(device):
        first = processes.rank() == 0
        return _train_here(stage, config, job if first else replace(job, messages=Messages(quiet=True)), device)


def _device(name: str) -> torch.device:
    device = torch.device(resolve_device(name))
    if processes.launched_by_torchrun() and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def _train_here(stage: TrainingStage, config: TrainConfig, job: TrainJob, device: torch.device) -> Trained:
    run = RunFolder(job.out)
    before = _weights_before(stage, config, run, job)
    manifest = read_manifest(job.manifest)
    spacing_mm = before.card.spacing_mm if before else config.segnet.spacing_mm
    data = load_training_data(manifest.cases, config.validate_every, spacing_mm=spacing_mm, messages=job.messages)
    _refuse_what_cannot_be_watched(stage, _schedule(stage, config), validates=bool(data.validation))
    if processes.rank() == 0:
        settings = dataclasses.asdict(config)
        record_command(run, f"train-{stage}", manifest_digest=manifest.digest, settings=settings)
    weights = _train(stage, config, data, before, job=job, device=device)
    return Trained(weights, data.left_out)


def _schedule(stage: TrainingStage, config: TrainConfig) -> Schedule:
    return (config.segnet if stage == TrainingStage.SEGNET else config.motion).schedule


def _refuse_what_cannot_be_watched(stage: TrainingStage, schedule: Schedule, *, validates: bool) -> None:
    needed = schedule.patience > 0 or schedule.decay == Decay.PLATEAU
    if (schedule.monitored or needed) and (schedule.monitored not in _FIGURES[stage] or not validates):
        raise ManifestError(
            f"The setting monitored = '{schedule.monitored}' of {stage} cannot be followed"
            f"{'' if validates else ': no subject validates'}.",
            hint=f"Keep subjects back for validation and name one of: {', '.join(_FIGURES[stage])}; "
            "or set monitored = '', patience = 0 and decay = 'cosine'.",
            code=ErrorCode.CONFIG,
        )


def _weights_before(stage: TrainingStage, config: TrainConfig, run: RunFolder, job: TrainJob) -> Checkpoint | None:
    """What the stage builds on: the first one on nothing unless told, the second one on SegNet."""
    if job.init is None and stage == TrainingStage.SEGNET:
        return None
    source = find_weights(job.init) if job.init else run.weights(TrainingStage.SEGNET)
    if job.init is None and not source.exists():
        raise CheckpointError(
            f"The second stage needs the weights of the first; {source} is not there.",
            hint="Run cmnet train --stage segnet with the same --out first, or give --init FILE.",
            code=ErrorCode.CHECKPOINT,
        )
    found = load_checkpoint(source)
    if job.fresh_motion:
        found = replace(found, motion=None, card=replace(found.card, motion=None))
    if stage == TrainingStage.SEGNET:
        _refuse_another_architecture(source, "segnet", found.card.segnet, config.segnet.sizes)
    elif found.card.motion:
        _refuse_another_architecture(source, "motion", found.card.motion, config.motion.sizes)
    return found


def _refuse_another_architecture(
    source: Path, name: str, before: SegNetSizes | MotionSizes, now: SegNetSizes | MotionSizes
) -> None:
    differing = [
        f"{item.name} is {getattr(before, item.name)} there, {getattr(now, item.name)} in the settings"
        for item in dataclasses.fields(before)
        if getattr(before, item.name) != getattr(now, item.name)
    ]
    if differing:
        anew = " or give --fresh-motion to learn motion anew," if name == "motion" else ""
        raise CheckpointError(
            f"The weights of {source} have another architecture than [{name}.sizes]: {'; '.join(differing)}.",
            hint=f"Give the settings that the weights were trained with,{anew} or begin without --init.",
            code=ErrorCode.CHECKPOINT,
        )


def _train(
    stage: TrainingStage,
    config: TrainConfig,
    data: TrainingData,
    before: Checkpoint | None,
    *,
    job: TrainJob,
    device: torch.device,
) -> Path:
    run = RunFolder(job.out)
    schedule = _schedule(stage, config)
    logs = _open_logs(stage, job)
    with live_table(job.messages, f"train {stage}", total=schedule.epochs) as shown:

        def on_epoch(record: EpochRecord) -> None:
            for log in logs:
                log.add(record)
            tell(record, shown)

        monitor = TrainingMonitor(
            run.training_state(stage),
            job.resume,
            lambda number, of: shown.part(number / of),
            on_epoch,
            save_interval_s=60 * config.checkpoint_minutes,
            identity=_identity(stage, config, data, before),
            device=device,
        )
        networks = _run_stage(stage, config, data, before, monitor)
    path = run.weights(stage)
    if processes.rank() == 0:
        history = read_progress(monitor.state).history
        metrics = history[best_epoch(history, schedule.monitored)] if history else {}
        save_checkpoint(path, segnet=networks[0], motion=networks[1], card=_card(stage, config, before, metrics))
        job.messages.result(f"{path} (sha256 {sha256_of(path)[:12]}…)")
    return path


def _open_logs(stage: TrainingStage, job: TrainJob) -> list[TrainingLog | TensorBoardLog]:
    """Where figures are written; one process writes for all."""
    if processes.rank():
        return []
    run = RunFolder(job.out)
    log = TrainingLog(run.training_log(stage), resume=job.resume)
    return [log, TensorBoardLog(run.tensorboard(stage))] if job.tensorboard else [log]


def _identity(
    stage: TrainingStage, config: TrainConfig, data: TrainingData, before: Checkpoint | None
) -> dict[str, str]:
    """What a resume must have in common with the beginning, to end with the same weights."""
    settings = dataclasses.asdict(config.segnet if stage == TrainingStage.SEGNET else config.motion)
    return {f"{stage}.{name}": value for name, value in _flat(settings)} | {
        "cases": data.digest[:12],
        "weights to start from": before.digest[:12] if before else "none",
        "motion to start from": "given" if before and before.motion else "none",
        "processes": str(processes.world_size()),
    }


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", told) for inner, told in _flat(value))
        else:
            yield name, str(value)


def _run_stage(
    stage: TrainingStage, config: TrainConfig, data: TrainingData, before: Checkpoint | None, monitor: TrainingMonitor
) -> tuple[SegNet, CardioMorphNet | None]:
    cases, validation = data.training, data.validation
    if stage == TrainingStage.SEGNET or before is None:
        start = before.segnet if before else None
        return train_segnet(cases, validation, settings=config.segnet, monitor=monitor, start=start), None
    trained = train_motion(
        cases, validation, segnet=before.segnet, settings=config.motion, monitor=monitor, start=before.motion
    )
    return before.segnet, trained


def _card(stage: TrainingStage, config: TrainConfig, before: Checkpoint | None, metrics: dict[str, float]) -> ModelCard:
    """What the weights say of themselves: what the stage before said, and what this one adds."""
    card = before.card if before else _first_card(config)
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
