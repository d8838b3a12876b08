"""The average of trained SegNets, and the offset by which its wall has the volume that readers draw.

Networks that follow from one another with a warm restart of the learning rate lie in one valley of the loss; the
average of their weights segments unseen subjects better than each of them (Izmailov et al., UAI 2018). A network
that is trained on soft targets and with the Dice loss segments thin structures too thick, most of all the wall. One
offset of the wall's logit corrects this, with almost the same overlap.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.models.segnet import SUBPIXELS, SegNet
from cmnet_core.training.shape_motion.reference_pair import ReferencePair

MAX_OFFSET = 1.0
"""Largest offset of the wall's logit to either side."""

BISECTIONS = 12

_LEAST_PROBABILITY = 1e-8


def average_networks(networks: Sequence[SegNet]) -> SegNet:
    """Average the weights, and the statistics of batch normalisation, of networks of one architecture.

    Args:
        networks: The networks; counters, which cannot be averaged, are those of the last.
    """
    average = deepcopy(networks[-1])
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if values.is_floating_point() else values
        for name, values in states[-1].items()
    }
    average.load_state_dict(mean)
    return average


def wall_logit_offset(pairs: Sequence[ReferencePair]) -> float:
    """Find the offset of the wall's logit with which SegNet's walls have the volume of the reference masks, in all.

    Args:
        pairs: Reference masks of training subjects with SegNet's class probabilities.

    Returns:
        The offset, at most :data:`MAX_OFFSET` to either side.
    """
    wanted_ml = sum(_wall_ml(pair.labels == Label.MYO, pair.slice_mm) for pair in pairs)
    low, high = -MAX_OFFSET, MAX_OFFSET
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        found_ml = sum(_wall_ml(_wall_with_offset(pair, middle), pair.slice_mm) for pair in pairs)
        low, high = (low, middle) if found_ml > wanted_ml else (middle, high)
    return 0.5 * (low + high)


def _wall_ml(wall: Tensor, slice_mm: float) -> float:
    """Return the volume of a wall up to a factor that all pairs share, the voxel's area."""
    return float(wall.sum()) * slice_mm


def _wall_with_offset(pair: ReferencePair, offset: float) -> Tensor:
    assert pair.segmented is not None, "SegNet has segmented the pair"
    logits = pair.segmented[0].clamp_min(_LEAST_PROBABILITY).log()
    logits[:, Label.MYO] += offset
    return logits.max(1).indices == Label.MYO


@torch.no_grad()
def shift_wall_logit(segnet: SegNet, offset: float) -> None:
    """Add an offset to the logit of the wall, in place.

    Args:
        segnet: The network.
        offset: The offset.
    """
    bias: Float[Tensor, " n"] | None = segnet.decoder.head.bias
    assert bias is not None, "a convolution has a bias by default"
    # The channels of the head are ordered by class, then by position in the block of voxels.
    first = Label.MYO * SUBPIXELS**2
    bias[first : first + SUBPIXELS**2] += offset
