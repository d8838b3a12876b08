"""The names of the training stages."""

from enum import StrEnum


class TrainingStage(StrEnum):
    """The stages of training.

    SegNet comes first. CardioMorphNet is trained by the stage ``motion``. The shape motion network is trained by the
    four stages ``through-plane``, ``rotation``, ``shape-motion`` and ``motion-posterior``, in this order.
    """

    SEGNET = "segnet"
    MOTION = "motion"
    THROUGH_PLANE = "through-plane"
    ROTATION = "rotation"
    SHAPE_MOTION = "shape-motion"
    MOTION_POSTERIOR = "motion-posterior"
