"""The stages of a training: the data of each, and the function that trains its network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cmnet_cli.cohort.case import Case
from cmnet_cli.commands.training.initial_weights import require_shape_motion
from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.training.data import load_motion_data, load_reference_pairs, load_segnet_data
from cmnet_core.models.build import MotionNetwork
from cmnet_core.models.cardiomorphnet import CardioMorphNet
from cmnet_core.models.checkpoint import Checkpoint, find_weights, load_checkpoint
from cmnet_core.models.segnet import SegNet, SegNetEnsemble
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.training import motion_stage, segnet_stage
from cmnet_core.training.loop import TrainingMonitor
from cmnet_core.training.motion_stage import train_motion
from cmnet_core.training.segnet_stage import train_segnet
from cmnet_core.training.shape_motion import posterior_stage, residual_stage, rotation_stage, through_plane_stage
from cmnet_core.training.shape_motion.posterior_stage import train_motion_posterior
from cmnet_core.training.shape_motion.residual_stage import train_shape_motion
from cmnet_core.training.shape_motion.rotation_stage import train_rotation
from cmnet_core.training.shape_motion.through_plane_stage import train_through_plane
from cmnet_core.training.stages import TrainingStage

METRICS_OF_STAGE = {
    TrainingStage.SEGNET: segnet_stage.METRICS,
    TrainingStage.MOTION: motion_stage.METRICS,
    TrainingStage.THROUGH_PLANE: through_plane_stage.METRICS,
    TrainingStage.ROTATION: rotation_stage.METRICS,
    TrainingStage.SHAPE_MOTION: residual_stage.METRICS,
    TrainingStage.MOTION_POSTERIOR: posterior_stage.METRICS,
}


@dataclass(frozen=True, slots=True, eq=False)
class PreparedStage:
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


def _prepare_segnet(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
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
    return PreparedStage(train, bool(data.validation), data.left_out, identity)


def _prepare_motion(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
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

    return PreparedStage(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _prepare_through_plane(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
    """Prepare the stage ``through-plane``, which draws its data and uses no case of the manifest."""
    assert start is not None, "only SegNet starts from nothing"

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        before = start.motion if isinstance(start.motion, ShapeMotionNet) else None
        sizes = config.shape_motion.sizes
        return start.segnet, train_through_plane(
            settings=config.through_plane, sizes=sizes, monitor=monitor, start=before
        )

    return PreparedStage(train, config.through_plane.validation_pairs > 0, 0, {})


def _prepare_rotation(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
    network = require_shape_motion(start)
    data = load_motion_data(cases, config.validate_every, spacing_mm=spacing_mm, messages=training.messages)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        assert start is not None, "only SegNet starts from nothing"
        return start.segnet, train_rotation(
            data.training, data.validation, settings=config.rotation, monitor=monitor, start=network
        )

    return PreparedStage(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _prepare_shape_motion(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
    network = require_shape_motion(start)
    settings = config.shape_motion
    assert start is not None, "only SegNet starts from nothing"
    data = load_reference_pairs(
        cases, config.validate_every, window=settings.window, segnet=start.segnet, messages=training.messages
    )

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        return start.segnet, train_shape_motion(
            data.training, data.validation, settings=settings, monitor=monitor, start=network
        )

    return PreparedStage(train, bool(data.validation), data.left_out, {"cases": data.digest[:12]})


def _prepare_motion_posterior(
    cases: Sequence[Case], config: TrainConfig, start: Checkpoint | None, training: TrainingRun, spacing_mm: float
) -> PreparedStage:
    """Prepare the stage ``motion-posterior``, which draws its data and uses no case of the manifest."""
    network = require_shape_motion(start)

    def train(monitor: TrainingMonitor) -> tuple[SegNet, ShapeMotionNet]:
        assert start is not None, "only SegNet starts from nothing"
        return start.segnet, train_motion_posterior(settings=config.motion_posterior, monitor=monitor, start=network)

    return PreparedStage(train, config.motion_posterior.validation_pairs > 0, 0, {})


PREPARE_STAGE = {
    TrainingStage.SEGNET: _prepare_segnet,
    TrainingStage.MOTION: _prepare_motion,
    TrainingStage.THROUGH_PLANE: _prepare_through_plane,
    TrainingStage.ROTATION: _prepare_rotation,
    TrainingStage.SHAPE_MOTION: _prepare_shape_motion,
    TrainingStage.MOTION_POSTERIOR: _prepare_motion_posterior,
}
