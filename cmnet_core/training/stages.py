"""The names of the training stages."""

from enum import StrEnum


class TrainingStage(StrEnum):
    """The two stages of training in their order."""

    SEGNET = "segnet"
    MOTION = "motion"
