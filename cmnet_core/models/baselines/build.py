"""The learned methods by name, and the only function that builds their networks."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from cmnet_core.models.baselines.dragnet import DragNet
from cmnet_core.models.baselines.interface import Baseline
from cmnet_core.models.baselines.jms import JMS
from cmnet_core.models.baselines.segmorph import SegMorph
from cmnet_core.models.baselines.tcsf import TCSF
from cmnet_core.models.baselines.tlrn import TLRN
from cmnet_core.models.baselines.voxelmorph import VoxelMorph

BASELINES: Mapping[str, Callable[[], Baseline]] = {
    "voxelmorph": partial(VoxelMorph, 0),
    "voxelmorph-diffeomorphic": partial(VoxelMorph, 7),
    "dragnet": DragNet,
    "tlrn": TLRN,
    "jms": JMS,
    "tcsf": TCSF,
    "segmorph": SegMorph,
}


def build_baseline(name: str) -> Baseline:
    """Build the network of a method with random weights.

    Args:
        name: A key of :data:`BASELINES`.
    """
    network = BASELINES[name]()
    for weight in network.parameters():
        if weight.ndim == 4:
            # Convolutions are fastest in this memory format.
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
