"""The interface of a method: from a cine to motion and, where the method has them, segmentation and uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from cmnet_core.inference.tracking import Tracking
from cmnet_core.types import CineSequence, MotionField


class FramePair(NamedTuple):
    """The two frames that a motion field connects, see :class:`~cmnet_core.types.MotionField`."""

    fixed: int
    moving: int


@dataclass(frozen=True, slots=True, eq=False)
class MotionEstimate:
    """What a method estimates of a cine, on the grid of that cine.

    Attributes:
        fields: The motion field of each pair of frames that was requested.
        probabilities: Class probabilities of all frames by the method itself; None if it does not segment, or did not
            need all frames for these pairs.
        entropy: Differential entropy of the posterior of the motion of all frames, in nats; None without a posterior.
        computed: Number of frame pairs whose motion was computed, if it was another number than was requested.
    """

    fields: Mapping[FramePair, MotionField]
    probabilities: Float[Tensor, "t k z y x"] | None = None
    entropy: Float[Tensor, "t z y x"] | None = None
    computed: int | None = None


@runtime_checkable
class Method(Protocol):
    """A method that estimates the motion of a cine."""

    def estimate(self, cine: CineSequence, pairs: Sequence[FramePair]) -> MotionEstimate:
        """Estimate the motion of pairs of frames.

        Args:
            cine: Intensities from 0 to 1 in a window around the heart, in the standard orientation
                (:mod:`cmnet_core.io.orientation`), with ED and ES.
            pairs: The pairs of frames. A method that processes whole cycles may compute more than is requested.
        """
        ...

    def track(self, cine: CineSequence) -> Tracking:
        """Estimate the motion of all frames of a cine on the subject's own grid, with label maps.

        Args:
            cine: A cine as it was read; ED and ES may be None.
        """
        ...
