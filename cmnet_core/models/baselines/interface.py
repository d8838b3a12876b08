"""What all learned methods have in common: a sequence of frames goes in, its motion into the first frame comes out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.types import Spacing


@dataclass(frozen=True, slots=True, eq=False)
class FrameSequence:
    """Consecutive frames of a stack, on which a method is trained.

    Attributes:
        voxels: Normalised intensities.
        masks: One-hot reference masks of the frames that have one, by their number in this sequence.
        spacing: Voxel spacing in mm.
    """

    voxels: Float[Tensor, "t z y x"]
    masks: Mapping[int, Float[Tensor, "z k y x"]]
    spacing: Spacing


@dataclass(frozen=True, slots=True, eq=False)
class SequenceMotion:
    """The motion of a sequence of frames.

    Attributes:
        displacements: For every frame after the first, the displacement in voxels that is fixed at that frame and
            points into the first one.
        probabilities: Class probabilities of all frames, where the method segments; otherwise None.
    """

    displacements: Float[Tensor, "n 3 z y x"]
    probabilities: Float[Tensor, "t z k y x"] | None = None


class Baseline(nn.Module, ABC):
    """A learned method: its network, and the loss by which its article trains it.

    Attributes:
        pairwise: Whether the motion of a frame depends on that frame and the first one alone.
    """

    pairwise = False

    @abstractmethod
    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        """Estimate the motion of all frames into the first one.

        Args:
            voxels: Normalised intensities of at least two frames, in the order of time; sizes along y and x are
                multiples of 16.
        """

    @abstractmethod
    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Compute the terms of the loss.

        Args:
            sequence: At least two frames, the first of which has a mask.
            generator: Draws latent variables, on the CPU.

        Returns:
            The terms by their names, unweighted, and their weighted sum as ``loss``.
        """
