"""The weights that a training starts from."""

import dataclasses
from dataclasses import replace
from pathlib import Path

from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.models.build import AnyMotionSizes, SegNetSizes
from cmnet_core.models.checkpoint import Checkpoint, find_weights, load_checkpoint
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.training.stages import TrainingStage

_PRECEDING = {
    TrainingStage.MOTION: TrainingStage.SEGNET,
    TrainingStage.THROUGH_PLANE: TrainingStage.SEGNET,
    TrainingStage.ROTATION: TrainingStage.THROUGH_PLANE,
    TrainingStage.SHAPE_MOTION: TrainingStage.ROTATION,
    TrainingStage.MOTION_POSTERIOR: TrainingStage.SHAPE_MOTION,
}
"""The stage from whose weights another stage starts by default."""


def initial_weights(
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


def require_shape_motion(start: Checkpoint | None) -> ShapeMotionNet:
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
