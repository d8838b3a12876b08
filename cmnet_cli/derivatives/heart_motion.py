"""The motion of a case near the heart: velocities are stored on the whole window and integrated around the heart."""

from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from cmnet_cli.derivatives.tracking import StoredTracking, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_core.imaging.crop import Crop, crop_around
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.labels import Label
from cmnet_core.types import MotionField


@dataclass(frozen=True, slots=True, eq=False)
class HeartMotion:
    """The stored motion of a case, integrated near the heart.

    Attributes:
        crop: The part of the window that the fields cover.
        to_ed: For every frame the field that is fixed at it and points into ED; the last one is fixed at ED itself,
            once round the cycle.
    """

    crop: Crop
    to_ed: tuple[MotionField, ...]


def read_heart_motion(
    folder: CaseFolder, stored: StoredTracking, labels_ed: UInt8[Tensor, "z y x"]
) -> HeartMotion | None:
    """Read the motion of a case and integrate it near the heart; None where no motion was stored.

    Args:
        folder: Files of the case.
        stored: What infer stored of it.
        labels_ed: Label map at ED on the window's grid.

    Raises:
        ImageError: The stored motion is damaged.
    """
    if not stored.has_steps:
        return None
    facts = stored.facts
    crop = crop_around(labels_ed != Label.BACKGROUND, 2**facts.motion.output_level)
    velocities = crop.of_velocities(read_velocities(folder.motion))
    return HeartMotion(crop, fields_to_ed(velocities, facts.window.spacing, ed=facts.ed, sizes=facts.motion))
