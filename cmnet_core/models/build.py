"""Sizes of the networks, and the only functions that build networks of a given size."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import (
    CardioMorphNet,
    DecNet,
    DeformNet,
    FeatNet,
    GaussianNet,
    MatchNet,
    RecNet,
    SubNetworks,
)
from cmnet_core.models.layers import StackConv
from cmnet_core.models.rotation_net import RotationNet
from cmnet_core.models.segnet import SegNet


@dataclass(frozen=True, slots=True)
class SegNetSizes:
    """Sizes of SegNet.

    Attributes:
        widths: Channels of each level of a U-Net, finest first.
        through_plane_from: First level, from 0, whose convolutions include the neighbouring slices.
        members: Number of U-Nets whose probabilities are averaged. The cost of training and of inference is
            proportional to it.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    through_plane_from: int = 3
    members: int = 1


DEFAULT_SEGNET = SegNetSizes(members=3)
"""Sizes of the SegNet that ``cmnet train`` trains by default."""


@dataclass(frozen=True, slots=True)
class MotionSizes:
    """Sizes of CardioMorphNet, and which of its parts are used.

    Attributes:
        features: Channels of FeatNet's layers; the last is the number of channels of φ_I and of φ_Z.
        latent: Channels of Z.
        hidden: Channels of each layer of RecNet.
        decoder: Channels of DecNet's layers.
        deform: Channels of DeformNet's levels, finest first.
        rank: Number of columns of the posterior's low-rank factor V.
        output_level: Level of the motion: 0 for full in-plane resolution, 1 for half.
        integration_steps: 0 for a displacement; n > 0 for a stationary velocity that is integrated by n squarings.
        use_segmentation: Whether DeformNet takes SegNet's probabilities of both frames as input beside the images.
        correlation_radius: Largest in-plane shift of the cost volume, in voxels of half the in-plane resolution; 0
            leaves the cost volume out, as the article does.
        rotation: Whether RotationNet estimates the rotation of each slice about the long axis before the cascade; this
            needs ``use_segmentation``.
        cascade_iterations: Number of times that DeformNet is applied to each step; each application estimates the
            residual motion that the iterations before it have left.
        fit: Whether the velocity is fitted to texture and segmentations after the cascade; this needs
            ``use_segmentation`` and ``output_level`` 1.
        ed_referenced: Whether the motion of every frame is estimated against ED; otherwise against the frame before it.
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
"""Sizes of the CardioMorphNet that ``cmnet train`` trains by default."""


def build_segnet(sizes: SegNetSizes) -> SegNet:
    """Build SegNet of these sizes with random weights."""
    model = SegNet(
        widths=sizes.widths, through_plane_from=sizes.through_plane_from, members=sizes.members, classes=len(Label)
    )
    return _channels_last(model)


def frame_channels(sizes: MotionSizes) -> int:
    """Return the number of channels of a frame as CardioMorphNet takes it.

    They are the image and, with ``use_segmentation``, the probabilities of the three structures.
    """
    return len(Label) if sizes.use_segmentation else 1


def build_motion(sizes: MotionSizes) -> CardioMorphNet:
    """Build CardioMorphNet of these sizes with random weights.

    Raises:
        ManifestError: The sizes contradict each other.
    """
    if sizes.rotation and not sizes.use_segmentation:
        raise ManifestError(
            "sizes.rotation needs sizes.use_segmentation: the segmentation locates the long axis.",
            hint="Set motion.sizes.use_segmentation = true, or motion.sizes.rotation = false.",
            code=ErrorCode.CONFIG,
        )
    if sizes.fit and not (sizes.use_segmentation and sizes.output_level == 1):
        raise ManifestError(
            "sizes.fit needs sizes.use_segmentation and sizes.output_level = 1.",
            hint="Set these under motion.sizes, or set motion.sizes.fit = false.",
            code=ErrorCode.CONFIG,
        )
    channels, memory = sizes.features[-1], sizes.hidden[-1]
    # Random weights depend on the order in which the networks are built.
    networks = SubNetworks(
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
        networks,
        integration_steps=sizes.integration_steps,
        output_level=sizes.output_level,
        cascade_iterations=sizes.cascade_iterations,
        fit=sizes.fit,
        ed_referenced=sizes.ed_referenced,
    )
    return _channels_last(model)


def _match_net(sizes: MotionSizes) -> MatchNet | None:
    if not sizes.correlation_radius:
        return None
    return MatchNet(channels_in=frame_channels(sizes), radius=sizes.correlation_radius, channels_out=sizes.deform[1])


Network = TypeVar("Network", bound=nn.Module)


def _channels_last(network: Network) -> Network:
    """Store the weights in the memory format in which convolutions are fastest."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
