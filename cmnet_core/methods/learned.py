"""The learned methods of :mod:`cmnet_core.models.baselines`, with the weights of the package."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmnet_core.inference.tracking import Model, Tracking
from cmnet_core.methods.displacements import track_displacements
from cmnet_core.methods.interface import FramePair, MotionEstimate
from cmnet_core.models.baselines.checkpoint import baseline_weights, load_baseline
from cmnet_core.models.baselines.interface import Baseline
from cmnet_core.registration.displacement import from_voxels
from cmnet_core.types import CineSequence, MotionField


@dataclass(frozen=True, slots=True)
class LearnedMethod:
    """A learned method.

    The moving frame of a pair is the first of a sequence. A network that registers two frames is given those that are
    requested. One that goes through the frames is given sequences as long as those that it was trained on, spread over
    the whole cycle from the moving frame on: where it estimates the motion from frame to frame, the errors of a longer
    sequence would add up to more than the motion.

    Attributes:
        network: The network of the method.
        model: Networks of cmnet, by whose SegNet the heart is located, and segmented where the method does not do so.
        frames: Largest number of frames of a sequence.
    """

    network: Baseline
    model: Model
    frames: int

    @torch.no_grad()
    def estimate(self, cine: CineSequence, pairs: Sequence[FramePair]) -> MotionEstimate:
        """Estimate the motion of sequences from each of the moving frames on."""
        fields: dict[FramePair, MotionField] = {}
        by_moving: defaultdict[int, list[int]] = defaultdict(list)
        for pair in pairs:
            by_moving[pair.moving].append(pair.fixed)
        probabilities: dict[int, Tensor] = {}
        computed = 0
        for moving, requested in by_moving.items():
            for others in self._sequences(moving, requested, cine.frames):
                found = self.network(cine.voxels[[moving, *others]].to(self.model.device))
                computed += len(others)
                for fixed, displacement in zip(others, found.displacements.cpu(), strict=True):
                    if fixed in requested:
                        field = from_voxels(displacement, cine.spacing, fixed=fixed, moving=moving)
                        fields[FramePair(fixed, moving)] = field
                if found.probabilities is not None:
                    # With the classes before the slices.
                    classes = found.probabilities.movedim(2, 1).cpu()
                    probabilities = dict(zip([moving, *others], classes, strict=True)) | probabilities
        segmented = len(probabilities) == cine.frames
        return MotionEstimate(
            {pair: fields[pair] for pair in pairs},
            torch.stack([probabilities[frame] for frame in range(cine.frames)]) if segmented else None,
            computed=computed,
        )

    def _sequences(self, moving: int, requested: Sequence[int], count: int) -> list[list[int]]:
        """Return the frames after the moving one of all sequences that have a requested frame."""
        if self.network.pairwise:
            return [list(requested)]
        others = [(moving + step) % count for step in range(1, count)]
        stride = math.ceil(len(others) / (self.frames - 1))
        interleaved = [others[first::stride] for first in range(stride)]
        return [sequence for sequence in interleaved if not set(sequence).isdisjoint(requested)]

    def track(self, cine: CineSequence) -> Tracking:
        """Estimate the motion of every frame into ED."""
        return track_displacements(self.estimate, self.model, cine)


def open_learned(name: str, model: Model) -> LearnedMethod:
    """Load a learned method with the weights of the package.

    Args:
        name: A key of :data:`cmnet_core.models.baselines.build.BASELINES`.
        model: Networks of cmnet.

    Raises:
        CheckpointError: The package does not have the weights, or they are damaged.
    """
    network, card = load_baseline(name, baseline_weights(name))
    return LearnedMethod(network.to(model.device), model, card.training["frames"])
