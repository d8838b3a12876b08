"""CardioMorphNet: cmnet's own method, as published or as shipped, whichever the weights are."""

from collections.abc import Sequence
from dataclasses import dataclass

from cmnet_core.inference.composition import field_between
from cmnet_core.inference.segmentation import segment
from cmnet_core.inference.tracking import Model, Tracking, estimate_velocities, track
from cmnet_core.methods.interface import FramePair, MotionEstimate
from cmnet_core.types import CineSequence


@dataclass(frozen=True, slots=True)
class CardioMorphNetMethod:
    """cmnet's own networks as a method.

    Attributes:
        model: The networks.
    """

    model: Model

    def estimate(self, cine: CineSequence, pairs: Sequence[FramePair]) -> MotionEstimate:
        """Segment the frames and estimate the motion of the whole cycle, from which any pair of frames follows."""
        probabilities = segment(self.model.segnet, cine.voxels)
        velocities = estimate_velocities(self.model, cine, probabilities)
        ed = cine.ed or 0
        fields = {
            pair: field_between(
                velocities, cine.spacing, ed=ed, sizes=self.model.sizes, moving=pair.moving, fixed=pair.fixed
            )
            for pair in pairs
        }
        return MotionEstimate(fields, probabilities, computed=cine.frames)

    def track(self, cine: CineSequence) -> Tracking:
        """Track the cine as :func:`cmnet_core.inference.tracking.track` does."""
        return track(self.model, cine)
