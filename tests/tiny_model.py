"""A model small enough for tests: its SegNet tells the tissues of tests/phantoms.py by their brightness."""

from pathlib import Path

import torch

from cmnet_core.models.build import MotionSizes, SegNetSizes, build_motion, build_segnet
from cmnet_core.models.checkpoint import ModelCard, save_checkpoint
from cmnet_core.models.segnet import SegNet

SEGNET = SegNetSizes(widths=(4, 4, 4, 4, 4), through_plane_from=3)
MOTION = MotionSizes(
    features=(4, 4, 4, 4),
    hidden=(4, 4),
    decoder=(4, 4, 4, 4),
    deform=(4, 4, 4, 4, 4),
    cascade_iterations=2,
    ed_referenced=True,
)


def write_tiny_model(path: Path, *, seed: int = 1, with_motion: bool = True) -> Path:
    """Write the weights of a tiny model: SegNet made by hand, motion drawn at random."""
    torch.manual_seed(seed)
    card = ModelCard(
        name="tiny",
        segnet=SEGNET,
        motion=MOTION if with_motion else None,
        spacing_mm=2.0,
        window=(96, 96),
        training_data="none: made by hand for tests",
        terms="For tests.",
        version="0",
    )
    motion = build_motion(MOTION) if with_motion else None
    save_checkpoint(path, segnet=segnet_by_brightness(), motion=motion, card=card)
    return path


@torch.no_grad()
def segnet_by_brightness() -> SegNet:
    """A SegNet that hands the image through and cuts it at three levels of brightness."""
    model = build_segnet(SEGNET)
    for parameter in model.parameters():
        parameter.zero_()
    (network,) = model.members
    network.down[0].short_cut.weight[0, 0] = 1.0
    # The last block of the way up sees four channels from below and then the first block's four.
    network.up[-1].short_cut.weight[0, 4] = 1.0
    # Straight lines in the brightness, each the highest of the four between two cuts: 0.2, 0.55 and 0.85.
    slopes = {0: 0.0, 2: 100.0, 1: 200.0, 3: 300.0}
    offsets = {0: 0.0, 2: -20.0, 1: -75.0, 3: -160.0}
    for label in range(4):
        network.head.weight[label, 0] = slopes[label]
        network.head.bias[label] = offsets[label]
    return model
