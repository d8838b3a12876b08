"""Sizes of the networks, and the only functions that build networks of a given size."""

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import CardioMorphNet, MotionSizes
from cmnet_core.models.segnet import Decoder, Encoder, SegNet
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes


@dataclass(frozen=True, slots=True)
class SegNetSizes:
    """Sizes of SegNet.

    Attributes:
        widths: Channels at 1/2, 1/4, 1/8 and 1/16 of the in-plane resolution.
        depths: Number of residual blocks of the encoder at each of these levels.
        decoder_depths: Number of residual blocks of the decoder at 1/2, 1/4 and 1/8.
        through_plane_from: First level, from 0 for half the in-plane resolution, whose convolutions include the
            neighbouring slices.
    """

    widths: tuple[int, int, int, int] = (16, 32, 96, 160)
    depths: tuple[int, int, int, int] = (1, 2, 2, 2)
    decoder_depths: tuple[int, int, int] = (1, 1, 1)
    through_plane_from: int = 2


def build_segnet(sizes: SegNetSizes) -> SegNet:
    """Build SegNet of these sizes with random weights."""
    encoder = Encoder(widths=sizes.widths, depths=sizes.depths, through_plane_from=sizes.through_plane_from)
    decoder = Decoder(
        widths=sizes.widths,
        depths=sizes.decoder_depths,
        through_plane_from=sizes.through_plane_from,
        classes=len(Label),
    )
    return _channels_last(SegNet(encoder, decoder))


AnyMotionSizes: TypeAlias = MotionSizes | ShapeMotionSizes
"""Sizes of a motion network of either architecture. Both state how velocities are integrated: ``output_level``,
``integration_steps`` and ``ed_referenced``."""

MotionNetwork: TypeAlias = CardioMorphNet | ShapeMotionNet
"""A motion network of either architecture."""


def motion_sizes_from_json(values: dict[str, Any]) -> AnyMotionSizes:
    """Return the sizes that ``dataclasses.asdict`` has written to JSON.

    Raises:
        TypeError: There are other entries than the sizes of the architecture.
    """
    known: type[MotionSizes | ShapeMotionSizes] = ShapeMotionSizes if values.get("kind") == "shape" else MotionSizes
    plain: dict[str, Any] = {name: tuple(entry) if isinstance(entry, list) else entry for name, entry in values.items()}
    return known(**plain)


def build_motion_network(sizes: AnyMotionSizes) -> MotionNetwork:
    """Build the motion network of these sizes with random weights."""
    return _channels_last(ShapeMotionNet(sizes)) if isinstance(sizes, ShapeMotionSizes) else build_motion(sizes)


def build_motion(sizes: MotionSizes) -> CardioMorphNet:
    """Build CardioMorphNet of these sizes with random weights."""
    return _channels_last(CardioMorphNet(sizes))


Network = TypeVar("Network", bound=nn.Module)


def _channels_last(network: Network) -> Network:
    """Store the weights in the memory format in which convolutions are fastest."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
