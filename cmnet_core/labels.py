"""Tissue classes, and the label conventions in which reference masks store them."""

from enum import IntEnum, StrEnum


class Label(IntEnum):
    """Tissue classes, in the order of every probability map and label file that cmnet writes."""

    BACKGROUND = 0
    LV = 1
    MYO = 2
    RV = 3


class LabelScheme(StrEnum):
    """The label convention of a reference mask."""

    CMNET = "cmnet"
    ACDC = "acdc"
    MNMS = "mnms"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The tissue of each value, from 0."""
        if self is LabelScheme.ACDC:
            return (Label.BACKGROUND, Label.RV, Label.MYO, Label.LV)
        return (Label.BACKGROUND, Label.LV, Label.MYO, Label.RV)
