"""The one place that knows sizes."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import (
    CardioMorphNet,
    CascadeConfig,
    DecNet,
    DeformNet,
    FeatNet,
    GaussianNet,
    MatchNet,
    Parts,
    RecNet,
)
from cmnet_core.models.layers import StackConv
from cmnet_core.models.rotation_net import RotationNet
from cmnet_core.models.segnet import SegNet


@dataclass(frozen=True, slots=True)
class SegNetSizes:
    """Sizes of SegNet.

    Attributes:
        widths: Channels of each level of a network, finest first.
        through_plane_from: The first level that sees neighbouring slices.
        members: Networks whose probabilities are averaged; both training and use cost that many times as much.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    through_plane_from: int = 3
    members: int = 1


DEFAULT_SEGNET = SegNetSizes(members=3)
"""cmnet's own setting."""


@dataclass(frozen=True, slots=True)
class MotionSizes:
    """Sizes of CardioMorphNet.

    Attributes:
        features: Channels of FeatNet; the last is that of φ_I, and of φ_Z.
        latent: Channels of Z.
        hidden: Channels of each layer of RecNet.
        decoder: Channels of DecNet.
        deform: Channels of DeformNet's levels, finest first.
        rank: Columns of V.
        output_level: The level at which the motion leaves DeformNet: 0 full resolution, 1 half.
        integration_steps: 0 for a displacement, n for a velocity and n squarings.
        use_segmentation: Whether DeformNet sees SegNet's probabilities of both frames beside their images.
        correlation_radius: Voxels of half the plane up to which DeformNet looks for a place of one frame in the
            other; 0 leaves the matching out, as the article does.
        rotation: Whether the rotation of each slice about the long axis is looked for first; it needs
            ``use_segmentation``.
        cascade_iterations: How often DeformNet looks at a step, each time at what is still amiss.
        fit: Whether the motion is fitted to texture and shapes after the last look; it needs ``use_segmentation``
            and the motion at half the plane.
        ed_referenced: Whether the motion of every frame is asked for from ED itself, instead of from the frame before.
    """

    features: tuple[int, ...] = (16, 32, 32, 32)
    latent: int = 1
    hidden: tuple[int, ...] = (64, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 16)
    deform: tuple[int, ...] = (16, 32, 48, 64, 64)
    rank: int = 1
    output_level: int = 1
    integration_steps: int = 7
    use_segmentation: bool = True
    correlation_radius: int = 0
    rotation: bool = False
    cascade_iterations: int = 1
    fit: bool = False
    ed_referenced: bool = False


DEFAULT_MOTION = MotionSizes(correlation_radius=3, rotation=True, cascade_iterations=2, fit=True, ed_referenced=True)
"""cmnet's own setting."""

PAPER = MotionSizes(deform=(16, 32, 32, 32, 32), output_level=0, integration_steps=0, use_segmentation=False)
"""The article's own setting: a displacement at full resolution."""


def build_segnet(sizes: SegNetSizes) -> SegNet:
    """SegNet with these sizes and random weights."""
    model = SegNet(
        widths=sizes.widths, through_plane_from=sizes.through_plane_from, members=sizes.members, classes=len(Label)
    )
    return _channels_last(model)


def frame_channels(sizes: MotionSizes) -> int:
    """Channels of a frame as CardioMorphNet takes it: the image, and the structures' probabilities if it sees them."""
    return len(Label) if sizes.use_segmentation else 1


def build_motion(sizes: MotionSizes) -> CardioMorphNet:
    """CardioMorphNet with these sizes and random weights.

    Raises:
        ManifestError: The sizes contradict each other.
    """
    if sizes.rotation and not sizes.use_segmentation:
        raise ManifestError(
            "sizes.rotation needs sizes.use_segmentation: a rotation is seen from where shapes place the axis.",
            hint="Set motion.sizes.use_segmentation = true, or motion.sizes.rotation = false.",
            code=ErrorCode.CONFIG,
        )
    if sizes.fit and not (sizes.use_segmentation and sizes.output_level == 1):
        raise ManifestError(
            "sizes.fit needs sizes.use_segmentation and sizes.output_level = 1.",
            hint="Set these under motion.sizes, or motion.sizes.fit = false.",
            code=ErrorCode.CONFIG,
        )
    channels, memory = sizes.features[-1], sizes.hidden[-1]
    parts = Parts(
        feat_net=FeatNet(widths=sizes.features),
        infer_z=GaussianNet(channels=(channels + memory, channels), latent=sizes.latent),
        prior_z=GaussianNet(channels=(memory, channels, channels), latent=sizes.latent),
        feat_z=StackConv(sizes.latent, channels),
        dec_net=DecNet(channels_in=channels, widths=sizes.decoder),
        rec_net=RecNet(channels_in=2 * channels, hidden=sizes.hidden),
        deform_net=DeformNet(
            sizes.deform,
            channels_in=2 * frame_channels(sizes),
            latent_features=channels,
            rank=sizes.rank,
            output_level=sizes.output_level,
            match=_match_net(sizes),
        ),
        rotation_net=RotationNet(channels_in=frame_channels(sizes)) if sizes.rotation else None,
    )
    model = CardioMorphNet(
        parts,
        integration_steps=sizes.integration_steps,
        output_level=sizes.output_level,
        cascade=CascadeConfig(sizes.cascade_iterations, sizes.fit),
        ed_referenced=sizes.ed_referenced,
    )
    return _channels_last(model)


def _match_net(sizes: MotionSizes) -> MatchNet | None:
    if not sizes.correlation_radius:
        return None
    return MatchNet(channels_in=frame_channels(sizes), radius=sizes.correlation_radius, channels_out=sizes.deform[1])


Network = TypeVar("Network", bound=nn.Module)


def _channels_last(network: Network) -> Network:
    """Lay weights out as convolutions run them fastest."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
