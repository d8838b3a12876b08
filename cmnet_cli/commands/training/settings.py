"""Settings, input and output of the training of a network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cmnet_cli.console import Messages
from cmnet_core.training.baseline_stage import BaselineTraining
from cmnet_core.training.motion_settings import MotionTraining
from cmnet_core.training.segnet_stage import SegNetTraining
from cmnet_core.training.shape_motion.settings import (
    MotionPosteriorTraining,
    RotationTraining,
    ShapeMotionTraining,
    ThroughPlaneTraining,
)
from cmnet_core.training.stages import TrainingStage

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
