"""The learned methods of :mod:`cmnet_core.models.baselines`, with the weights of the package."""

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

    The moving frame of a pair is the first of a sequence. A network that goes through the frames is given the whole
    cycle from there on; one that registers two frames only those that are requested.

    Attributes:
        network: The network of the method.
        model: Networks of cmnet, by whose SegNet the heart is located, and segmented where the method does not do so.
    """

    network: Baseline
    model: Model

    @torch.no_grad()
    def estimate(self, cine: CineSequence, pairs: Sequence[FramePair]) -> MotionEstimate:
        """Estimate the motion of sequences from each of the moving frames on."""
        fields: dict[FramePair, MotionField] = {}
        by_moving: defaultdict[int, list[int]] = defaultdict(list)
        for pair in pairs:
            by_moving[pair.moving].append(pair.fixed)
        probabilities: Tensor | None = None
        computed = 0
        for moving, requested in by_moving.items():
            others = requested if self.network.pairwise else _frames_after(moving, cine.frames)
            found = self.network(cine.voxels[[moving, *others]].to(self.model.device))
            computed += len(others)
            for fixed in requested:
                displacement = found.displacements[others.index(fixed)].cpu()
                field = from_voxels(displacement, cine.spacing, fixed=fixed, moving=moving)
                fields[FramePair(fixed, moving)] = field
            if found.probabilities is not None and probabilities is None:
                # By frame of the cine, with the classes before the slices.
                probabilities = found.probabilities.roll(moving, dims=0).movedim(2, 1).cpu()
        return MotionEstimate({pair: fields[pair] for pair in pairs}, probabilities, computed=computed)

    def track(self, cine: CineSequence) -> Tracking:
        """Estimate the motion of every frame into ED."""
        return track_displacements(self.estimate, self.model, cine)


def _frames_after(frame: int, count: int) -> list[int]:
    """Return the other frames of a cycle in their order."""
    return [(frame + step) % count for step in range(1, count)]


def open_learned(name: str, model: Model) -> LearnedMethod:
    """Load a learned method with the weights of the package.

    Args:
        name: A key of :data:`cmnet_core.models.baselines.build.BASELINES`.
        model: Networks of cmnet.

    Raises:
        CheckpointError: The package does not have the weights, or they are damaged.
    """
    network, _ = load_baseline(name, baseline_weights(name))
    return LearnedMethod(network.to(model.device), model)
