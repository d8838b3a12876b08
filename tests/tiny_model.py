"""A small model for tests, whose SegNet classifies the tissues of tests/phantoms.py by their brightness."""

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
ARTICLE_MOTION = MotionSizes(deform=(16, 32, 32, 32, 32), output_level=0, integration_steps=0, use_segmentation=False)
"""The sizes of the article: a displacement at full resolution, from the images alone."""


def write_tiny_model(path: Path, *, seed: int = 1, with_motion: bool = True) -> Path:
    """Write the weights of a tiny model, with a SegNet of fixed weights and random weights of the motion network."""
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
    """Return a SegNet that passes the image through and thresholds it at three levels of brightness."""
    model = build_segnet(SEGNET)
    for parameter in model.parameters():
        parameter.zero_()
    (network,) = model.members
    network.down[0].short_cut.weight[0, 0] = 1.0
    # The last upsampling block has four channels of the level below and then the four of the first block as input.
    network.up[-1].short_cut.weight[0, 4] = 1.0
    # Logits that are linear in the brightness, each the largest of the four between two of the thresholds 0.2, 0.55 and
    # 0.85.
    slopes = {0: 0.0, 2: 100.0, 1: 200.0, 3: 300.0}
    offsets = {0: 0.0, 2: -20.0, 1: -75.0, 3: -160.0}
    for label in range(4):
        network.head.weight[label, 0] = slopes[label]
        network.head.bias[label] = offsets[label]
    return model
