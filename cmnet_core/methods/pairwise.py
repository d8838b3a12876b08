"""Methods that register two images at a time and know nothing of the other frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cmnet_core.inference.tracking import Model, Tracking
from cmnet_core.methods.displacements import track_displacements
from cmnet_core.methods.interface import FramePair, MotionEstimate
from cmnet_core.types import CineSequence, MotionField, Spacing

Register = Callable[[Float[Tensor, "z y x"], Float[Tensor, "z y x"], Spacing], Float[Tensor, "3 z y x"]]
"""Registration of two images: from the fixed image, the moving image and their spacing to a displacement in mm that
fulfils ``moving(p + u(p)) ≈ fixed(p)``; component *i* is along axis *i*."""


@dataclass(frozen=True, slots=True)
class PairwiseRegistration:
    """A method that registers two images at a time.

    It has neither a segmentation nor a posterior: the label maps are those of cmnet's SegNet.

    Attributes:
        register: Registration of two images.
        model: Networks of cmnet, by whose SegNet the heart is located and segmented.
    """

    register: Register
    model: Model

    def estimate(self, cine: CineSequence, pairs: Sequence[FramePair]) -> MotionEstimate:
        """Register each pair of frames."""
        fields = {}
        for pair in pairs:
            displacement = self.register(cine.voxels[pair.fixed], cine.voxels[pair.moving], cine.spacing)
            fields[pair] = MotionField(displacement.float(), cine.spacing, fixed=pair.fixed, moving=pair.moving)
        return MotionEstimate(fields)

    def track(self, cine: CineSequence) -> Tracking:
        """Register every frame with ED."""
        return track_displacements(self.estimate, self.model, cine)
