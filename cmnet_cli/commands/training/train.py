"""The command train: from the labelled cases of a manifest to a weights file with its model card."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.console import Messages, live_table
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.execution.summary import print_unusable_rows
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.training.data import load_motion_data, load_reference_pairs, load_segnet_data
from cmnet_cli.training.log import TensorBoardLog, TrainingLog, print_epoch
from cmnet_cli.training.split import cases_of_stage
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, EngineError, ErrorCode, ManifestError
from cmnet_core.models.build import AnyMotionSizes, MotionNetwork, SegNetSizes
from cmnet_core.models.cardiomorphnet import CardioMorphNet
from cmnet_core.models.checkpoint import Checkpoint, ModelCard, find_weights, load_checkpoint, save_checkpoint
from cmnet_core.models.segnet import SegNet, SegNetEnsemble
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.training import motion_stage, processes, segnet_stage
from cmnet_core.training.baseline_stage import BaselineTraining
from cmnet_core.training.loop import Decay, EpochRecord, Schedule, TrainingMonitor, best_epoch
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.training.motion_stage import train_motion
from cmnet_core.training.segnet_stage import SegNetTraining, train_segnet
from cmnet_core.training.shape_motion import posterior_stage, residual_stage, rotation_stage, through_plane_stage
from cmnet_core.training.shape_motion.posterior_stage import train_motion_posterior
from cmnet_core.training.shape_motion.residual_stage import train_shape_motion
from cmnet_core.training.shape_motion.rotation_stage import train_rotation
from cmnet_core.training.shape_motion.settings import (
    MotionPosteriorTraining,
    RotationTraining,
    ShapeMotionTraining,
    ThroughPlaneTraining,
)
from cmnet_core.training.shape_motion.through_plane_stage import train_through_plane
from cmnet_core.training.stages import TrainingStage
from cmnet_core.training.state import read_progress

_METRICS = {
    TrainingStage.SEGNET: segnet_stage.METRICS,
    TrainingStage.MOTION: motion_stage.METRICS,
    TrainingStage.THROUGH_PLANE: through_plane_stage.METRICS,
    TrainingStage.ROTATION: rotation_stage.METRICS,
    TrainingStage.SHAPE_MOTION: residual_stage.METRICS,
    TrainingStage.MOTION_POSTERIOR: posterior_stage.METRICS,
}

_PRECEDING = {
    TrainingStage.MOTION: TrainingStage.SEGNET,
    TrainingStage.THROUGH_PLANE: TrainingStage.SEGNET,
    TrainingStage.ROTATION: TrainingStage.THROUGH_PLANE,
    TrainingStage.SHAPE_MOTION: TrainingStage.ROTATION,
    TrainingStage.MOTION_POSTERIOR: TrainingStage.SHAPE_MOTION,
}
"""The stage from whose weights another stage starts by default."""

StageSettings: TypeAlias = (
    SegNetTraining
    | MotionTraining
    | ThroughPlaneTraining
    | RotationTraining
    | ShapeMotionTraining
    | MotionPosteriorTraining
)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``cmnet train``.

    Attributes:
        name: Name of the model on its card.
        training_data: Description of the training data on the card.
        terms: Terms of use on the card.
        validate_every: Every n-th case of the manifest, starting with the first, is kept for validation; 0 for none.
            A column ``split`` of the manifest, with ``train`` and ``validation``, takes precedence.
        segnet_fraction: Fraction of the training cases that SegNet is trained on, and the motion network on the others,
            as in the article with 0.25; 1 trains both on all.
        checkpoint_minutes: Interval in minutes at which the state for a resume is saved within an epoch.
        segnet: Settings of the training of SegNet.
        motion: Settings of the training of CardioMorphNet.
        through_plane: Settings of the first stage of the shape motion network.
        rotation: Settings of its second stage.
        shape_motion: Settings of its third stage, and its sizes in all stages.
        motion_posterior: Settings of its fourth stage.
        baseline: Settings of the training of a method that cmnet is compared with.
    """

    name: str = "mine"
    training_data: str = "not described"
    terms: str = "For research. Not for diagnosis."
    validate_every: int = 5
    segnet_fraction: float = 1.0
    checkpoint_minutes: float = 5.0
    segnet: SegNetTraining = field(default_factory=SegNetTraining)
    motion: MotionTraining = field(default_factory=MotionTraining)
    through_plane: ThroughPlaneTraining = field(default_factory=ThroughPlaneTraining)
    rotation: RotationTraining = field(default_factory=RotationTraining)
    shape_motion: ShapeMotionTraining = field(default_factory=ShapeMotionTraining)
    motion_posterior: MotionPosteriorTraining = field(default_factory=MotionPosteriorTraining)
    baseline: BaselineTraining = field(default_factory=BaselineTraining)

    def of(self, stage: TrainingStage) -> StageSettings:
        """Return the settings of a stage."""
        settings: StageSettings = getattr(self, stage.value.replace("-", "_"))
        return settings


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The input, output and starting point of a training.

    Attributes:
        manifest: Manifest of the labelled cases.
        out: The run folder.
        init: A model or weights file to start from; None for random weights of SegNet, and for the weights of the
            preceding stage in ``out`` with the other stages.
        resume: Continue the interrupted training in ``out``.
        messages: Where to print.
        device: Name of the device, as on the command line.
        fresh_motion: Take only SegNet from ``init``.
        teacher: Models or weights files whose SegNets are together the teacher of SegNet.
        tensorboard: Also log the metrics for TensorBoard.
    """

    manifest: Path
    out: Path
    init: str | None
    resume: bool
    messages: Messages
    device: str = "auto"
    fresh_motion: bool = False
    teacher: tuple[str, ...] = ()
    tensorboard: bool = False


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
    start = _initial_weights(stage, config, run, training)
    manifest = read_manifest(training.manifest)
    print_unusable_rows(manifest.left_out, training.messages)
    spacing_mm = start.card.spacing_mm if start else config.segnet.spacing_mm
    cases = cases_of_stage(
        manifest.cases, stage, segnet_fraction=config.segnet_fraction, validate_every=config.validate_every
    )
    prepared = _PHASES[stage](cases, config, start, training, spacing_mm)
    _require_monitored_metric(stage, config.of(stage).schedule, validates=prepared.validates)
    if processes.rank() == 0:
        settings = dataclasses.asdict(config)
        record_command(run, f"train-{stage}", manifest_digest=manifest.digest, settings=settings)
    _train(stage, config, prepared, start, training=training, device=device)
    return prepared.left_out + len({problem.row for problem in manifest.left_out})


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A training stage with its data.

    Attributes:
        train: Trains the networks and returns them.
        validates: Whether there are cases for validation.
        left_out: Number of cases that could not be used.
        identity: Digests of the data.
    """

    train: Callable[[TrainingMonitor], tuple[SegNet, MotionNetwork | None]]
    validates: bool
    left_out: int
    identity: dict[str, str]


def _segnet_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    checkpoints = [load_checkpoint(find_weights(source)) for source in training.teacher]
    teacher = SegNetEnsemble([checkpoint.segnet for checkpoint in checkpoints]).eval() if checkpoints else None
    data = load_segnet_data(
        cases,
        config.validate_every,
        settings=config.segnet,
        spacing_mm=spacing_mm,
        teacher=teacher,
        messages=training.messages,
    )

    def train(monitor: TrainingMonitor) -> tuple[SegNet, None]:
        segnet_start = start.segnet if start else None
        settings = config.segnet
        return train_segnet(
            data.training, data.validation, settings=settings, monitor=monitor, start=segnet_start
        ), None

    digests = ", ".join(checkpoint.digest[:12] for checkpoint in checkpoints)
    identity = {"cases": data.digest[:12], "teacher": digests or "none"}
    return _Prepared(train, bool(data.validation), data.left_out, identity)


def _motion_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    assert start is not None, "the motion network starts from a trained SegNet"
    data = load_motion_data(cases, config.validate_every, spacing_mm=spacing_mm, messages=training.messages)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, CardioMorphNet]:
        trained = train_motion(
            data.training,
            data.validation,
            segnet=start.segnet,
            settings=config.motion,
            monitor=monitor,
            start=start.motion if isinstance(start.motion, CardioMorphNet) else None,
        )
        return start.segnet, trained

    return _Prepared(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _through_plane_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    """Prepare the stage ``through-plane``, which draws its data and uses no case of the manifest."""
    assert start is not None, "only SegNet starts from nothing"

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        before = start.motion if isinstance(start.motion, ShapeMotionNet) else None
        sizes = config.shape_motion.sizes
        return start.segnet, train_through_plane(
            settings=config.through_plane, sizes=sizes, monitor=monitor, start=before
        )

    return _Prepared(train, config.through_plane.validation_pairs > 0, 0, {})


def _rotation_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    network = _require_shape_motion(start)
    data = load_motion_data(cases, config.validate_every, spacing_mm=spacing_mm, messages=training.messages)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        assert start is not None, "only SegNet starts from nothing"
        return start.segnet, train_rotation(
            data.training, data.validation, settings=config.rotation, monitor=monitor, start=network
        )

    return _Prepared(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _shape_motion_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    network = _require_shape_motion(start)
    settings = config.shape_motion
    data = load_reference_pairs(cases, config.validate_every, window=settings.window, messages=training.messages)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        assert start is not None, "only SegNet starts from nothing"
        return start.segnet, train_shape_motion(
            data.training, data.validation, settings=settings, monitor=monitor, start=network
        )

    return _Prepared(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _motion_posterior_phase(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> _Prepared:
    """Prepare the stage ``motion-posterior``, which draws its data and uses no case of the manifest."""
    network = _require_shape_motion(start)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        assert start is not None, "only SegNet starts from nothing"
        return start.segnet, train_motion_posterior(settings=config.motion_posterior, monitor=monitor, start=network)

    return _Prepared(train, config.motion_posterior.validation_pairs > 0, 0, {})


def _require_shape_motion(start: Checkpoint | None) -> ShapeMotionNet:
    """Return the shape motion network of the weights to start from.

    Raises:
        CheckpointError: They have none.
    """
    if start is None or not isinstance(start.motion, ShapeMotionNet):
        raise CheckpointError(
            "The weights to start from have no shape motion network.",
            hint="Run cmnet train --stage through-plane first, or give --init FILE with the weights of that stage.",
            code=ErrorCode.CHECKPOINT,
        )
    return start.motion


_PHASES = {
    TrainingStage.SEGNET: _segnet_phase,
    TrainingStage.MOTION: _motion_phase,
    TrainingStage.THROUGH_PLANE: _through_plane_phase,
    TrainingStage.ROTATION: _rotation_phase,
    TrainingStage.SHAPE_MOTION: _shape_motion_phase,
    TrainingStage.MOTION_POSTERIOR: _motion_posterior_phase,
}


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
    """Load the weights to start from: by default none for SegNet, otherwise those of the preceding stage."""
    if training.init is None and stage == TrainingStage.SEGNET:
        return None
    preceding = _PRECEDING.get(stage, stage)
    source = find_weights(training.init) if training.init else run.weights(preceding)
    if training.init is None and not source.exists():
        raise CheckpointError(
            f"The stage {stage} starts from the weights of the stage {preceding}; {source} does not exist.",
            hint=f"Run cmnet train --stage {preceding} with the same --out first, or give --init FILE.",
            code=ErrorCode.CHECKPOINT,
        )
    found = load_checkpoint(source)
    if training.fresh_motion:
        found = replace(found, motion=None, card=replace(found.card, motion=None))
    if stage == TrainingStage.SEGNET:
        _require_same_architecture(source, "segnet", found.card.segnet, config.segnet.sizes)
    elif stage == TrainingStage.MOTION and found.card.motion:
        _require_same_architecture(source, "motion", found.card.motion, config.motion.sizes)
    elif isinstance(found.motion, ShapeMotionNet):
        _require_same_architecture(source, "shape_motion", found.motion.sizes, config.shape_motion.sizes)
    return found


def _require_same_architecture(
    source: Path, name: str, stored: SegNetSizes | AnyMotionSizes, wanted: SegNetSizes | AnyMotionSizes
) -> None:
    differing = [
        f"{item.name} is {getattr(stored, item.name)} there, {getattr(wanted, item.name, 'nothing')} in the settings"
        for item in dataclasses.fields(stored)
        if getattr(stored, item.name) != getattr(wanted, item.name, None)
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
    prepared: _Prepared,
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
    logs = _open_logs(name, training)
    with live_table(training.messages, f"train {name}", total=schedule.epochs) as table:

        def on_epoch(record: EpochRecord) -> None:
            for log in logs:
                log.add(record)
            print_epoch(record, table)

        monitor = TrainingMonitor(
            run.training_state(name),
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
