"""The command train: cases of a manifest in, a weights file with its card out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmnet_cli.cases import Case
from cmnet_cli.cohort import map_cases
from cmnet_cli.commands.opening import record_command
from cmnet_cli.layout import RunFolder
from cmnet_cli.manifest import read_manifest
from cmnet_cli.options import Stage
from cmnet_cli.screen import Screen, progress
from cmnet_cli.sidecar import sha256_of
from cmnet_cli.stages.train import LoadStage
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode, ManifestError
from cmnet_core.models.cardiomorphnet import CardioMorphNet
from cmnet_core.models.checkpoint import Checkpoint, ModelCard, find_weights, load_checkpoint, save_checkpoint
from cmnet_core.models.segnet import SegNet
from cmnet_core.training.cases import TrainingCase
from cmnet_core.training.loop import EpochRecord, Watch
from cmnet_core.training.motion import MotionTraining, train_motion
from cmnet_core.training.segnet import SegNetTraining, train_segnet


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of ``cmnet train``.

    Attributes:
        name: The model's name on its card.
        training_data: What it is trained on, in words, for the card.
        terms: What it may be used for, in words, for the card.
        validate_every: Every how manieth case of the manifest, from the first, is kept for validation; 0 none. A
            column ``split`` of the manifest, with ``train`` and ``validation``, goes before it.
        segnet: Settings of the first stage.
        motion: Settings of the second stage.
    """

    name: str = "mine"
    training_data: str = "not described"
    terms: str = "For research. Not for diagnosis."
    validate_every: int = 5
    segnet: SegNetTraining = field(default_factory=SegNetTraining)
    motion: MotionTraining = field(default_factory=MotionTraining)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What ``cmnet train`` is told besides its settings.

    Attributes:
        manifest: The cohort to train on.
        out: The run folder.
        init: Weights of SegNet for the second stage; the run's own where None.
        resume: Go on after the last whole epoch.
        screen: Where to print.
    """

    manifest: Path
    out: Path
    init: str | None
    resume: bool
    screen: Screen


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Cases to train on, and cases kept back to validate with."""

    training: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]


def train(stage: Stage, config: TrainConfig, job: TrainJob) -> Path:
    """Train one of the two stages.

    Returns:
        The weights file.

    Raises:
        ManifestError: The manifest cannot be used, or no case of it can be trained on.
        CheckpointError: The weights of SegNet cannot be used.
    """
    run = RunFolder(job.out)
    before = _weights_before(stage, run, job.init)
    manifest = read_manifest(job.manifest)
    spacing_mm = before.card.spacing_mm if before else config.segnet.spacing_mm
    data = _load(manifest.cases, config.validate_every, spacing_mm, job)
    settings = dataclasses.asdict(config)
    record_command(run, f"train-{stage}", manifest_digest=manifest.digest, settings=settings)
    return _train(stage, config, data, before, job)


def _weights_before(stage: Stage, run: RunFolder, init: str | None) -> Checkpoint | None:
    """What the stage builds on: the first one on nothing unless told, the second one on SegNet."""
    if init is None and stage == Stage.SEGNET:
        return None
    source = find_weights(init) if init else run.weights(Stage.SEGNET)
    if not source.exists():
        raise CheckpointError(
            f"The second stage needs the weights of the first; {source} is not there.",
            hint="Run cmnet train --stage segnet with the same --out first, or give --init FILE.",
            code=ErrorCode.CHECKPOINT,
        )
    return load_checkpoint(source)


def _load(cases: Sequence[Case], validate_every: int, spacing_mm: float, job: TrainJob) -> TrainingData:
    """Cases to train on and cases to validate with; those that cannot be used are named and left out."""
    kept_back = _kept_back(cases, validate_every)
    training: list[TrainingCase] = []
    validation: list[TrainingCase] = []
    with progress(job.screen, "load", total=len(cases)) as ticker:
        for outcome in map_cases(LoadStage(spacing_mm), cases, workers=0):
            ticker.tick(failed=outcome.failure is not None)
            if outcome.failure:
                told = f"{outcome.case_id} left out ({outcome.failure.code})"
                job.screen.failure(told, outcome.failure.message, outcome.failure.hint)
            elif outcome.receipt:
                (validation if outcome.case_id in kept_back else training).append(outcome.receipt)
    if not training or (kept_back and not validation):
        raise ManifestError(
            f"{len(training)} subjects to train on and {len(validation)} to validate with are not enough.",
            hint="Give more labelled subjects, or set validate_every = 0 to validate with none.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return TrainingData(tuple(training), tuple(validation))


def _kept_back(cases: Sequence[Case], validate_every: int) -> set[str]:
    """Ids of the cases to validate with: as the manifest splits them, else every so manieth."""
    splits = {case.case_id: case.extra.get("split", "") for case in cases}
    if any(splits.values()):
        return {case_id for case_id, split in splits.items() if split == "validation"}
    return {case.case_id for case in cases[::validate_every]} if validate_every else set()


def _train(
    stage: Stage,
    config: TrainConfig,
    data: TrainingData,
    before: Checkpoint | None,
    job: TrainJob,
) -> Path:
    run = RunFolder(job.out)
    schedule = (config.segnet if stage == Stage.SEGNET else config.motion).schedule
    records: list[EpochRecord] = []
    with progress(job.screen, f"train {stage}", total=schedule.epochs) as ticker:

        def on_epoch(record: EpochRecord) -> None:
            records.append(record)
            _tell(record, job.screen)
            ticker.tick(failed=False)

        watch = Watch(run.training_state(stage), job.resume, lambda number, of: ticker.part(number / of), on_epoch)
        segnet, motion = _run_stage(stage, config, data, before, watch)
    path = run.weights(stage)
    metrics = records[-1].validation if records else {}
    save_checkpoint(path, segnet=segnet, motion=motion, card=_card(stage, config, before, metrics))
    job.screen.result(f"{path} (sha256 {sha256_of(path)[:12]}…)")
    return path


def _run_stage(
    stage: Stage, config: TrainConfig, data: TrainingData, before: Checkpoint | None, watch: Watch
) -> tuple[SegNet, CardioMorphNet | None]:
    cases, validation = data.training, data.validation
    if stage == Stage.SEGNET or before is None:
        start = before.segnet if before else None
        return train_segnet(cases, validation, settings=config.segnet, watch=watch, start=start), None
    motion = train_motion(
        cases, validation, segnet=before.segnet, settings=config.motion, watch=watch, start=before.motion
    )
    return before.segnet, motion


def _tell(record: EpochRecord, screen: Screen) -> None:
    figures = {**record.loss, **record.validation}
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    screen.note(f"epoch {record.epoch + 1}: {told} ({record.seconds:.0f} s)")


def _card(stage: Stage, config: TrainConfig, before: Checkpoint | None, metrics: dict[str, float]) -> ModelCard:
    """What the weights say of themselves: what the stage before said, and what this one adds."""
    card = before.card if before else _first_card(config)
    settings = dataclasses.asdict(config.segnet if stage == Stage.SEGNET else config.motion)
    return replace(
        card,
        name=config.name,
        training_data=config.training_data,
        terms=config.terms,
        version=__version__,
        motion=config.motion.sizes if stage == Stage.MOTION else None,
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
