"""Small models for tests, whose SegNet classifies the tissues of tests/phantoms.py by their brightness."""

from pathlib import Path

import torch

from cmnet_core.models.build import AnyMotionSizes, SegNetSizes, build_motion_network, build_segnet
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.checkpoint import ModelCard, save_checkpoint
from cmnet_core.models.segnet import SegNet
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes

SEGNET = SegNetSizes(widths=(4, 4, 4, 4))
SHAPE_MOTION = ShapeMotionSizes(fine=4, middle=4, coarse=4, blocks=1, stack=4)
RECURRENT_MOTION = MotionSizes(features=(4, 4, 4, 4), hidden=(4, 4), decoder=(4, 4, 4, 4), deform=(4, 4, 4, 4, 4))
"""A CardioMorphNet, whose motion from frame to frame is composed over the cycle."""


def write_tiny_model(
    path: Path, *, seed: int = 1, with_motion: bool = True, motion: AnyMotionSizes = SHAPE_MOTION
) -> Path:
    """Write the weights of a tiny model, with a SegNet of fixed weights and random weights of the motion network."""
    torch.manual_seed(seed)
    card = ModelCard(
        name="tiny",
        segnet=SEGNET,
        motion=motion if with_motion else None,
        spacing_mm=1.5,
        window=(128, 128),
        training_data="none: made by hand for tests",
        terms="For tests.",
        version="0",
    )
    network = build_motion_network(motion) if with_motion else None
    if isinstance(network, ShapeMotionNet):
        # Random weights of this layer would move each slice by several mm.
        for weight in network.through_plane.head.parameters():
            weight.data.mul_(0.02)
    save_checkpoint(path, segnet=segnet_by_brightness(), motion=network, card=card)
    return path


@torch.no_grad()
def segnet_by_brightness() -> SegNet:
    """Return a SegNet that passes the image through and thresholds it at three levels of brightness."""
    model = build_segnet(SEGNET)
    for parameter in model.parameters():
        parameter.zero_()
    # The stem passes the four voxels of each 2 × 2 block on, and all later convolutions add nothing to them.
    model.encoder.stem.norm.weight.fill_(1.0)
    subpixels = range(4)
    for subpixel in subpixels:
        model.encoder.stem.conv.weight[subpixel, subpixel, 1, 1] = 1.0
    # Logits that are linear in the brightness, each the largest of the four between two of the thresholds 0.2, 0.55 and
    # 0.85.
    slopes = {0: 0.0, 2: 100.0, 1: 200.0, 3: 300.0}
    offsets = {0: 0.0, 2: -20.0, 1: -75.0, 3: -160.0}
    for label in range(4):
        for subpixel in subpixels:
            model.decoder.head.weight[4 * label + subpixel, subpixel, 1, 1] = slopes[label]
            model.decoder.head.bias[4 * label + subpixel] = offsets[label]
    return model
