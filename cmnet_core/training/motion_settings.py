"""Settings of the second training stage, in which CardioMorphNet is trained."""

from dataclasses import dataclass, field
from enum import StrEnum

from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.build import DEFAULT_MOTION, MotionSizes
from cmnet_core.training.loop import Schedule


class Trainable(StrEnum):
    """Which weights the second stage trains."""

    ALL = "all"
    ROTATION = "rotation"
    POSTERIOR_VARIANCE = "posterior_variance"


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the loss terms.

    Attributes:
        shape: λ_s, weight of the divergence between the warped segmentation of the moving frame and the segmentation of
            the fixed frame.
        composed: Weight of the divergence between the ED segmentation, warped by the motion into ED, and the
            segmentation of the fixed frame; 0 in the article.
        overlap: Weight of 1 − Dice of the same two, in which small structures count as much as large ones; 0 in the
            article.
        inverse: Weight of the divergence between the segmentation of a frame, warped by the inverse of an ED-referenced
            motion, and that of ED, plus ``overlap`` times 1 − Dice of these. 0 in the article.
        folding: Weight of :func:`cmnet_core.models.losses.folding_penalty` of an ED-referenced motion and of its
            inverse; 0 in the article.
        kl_motion: λ1, weight of the divergence of the motion's posterior from N(0, I).
        kl_latent: λ2, weight of the divergence of Z's posterior from its prior.
        reconstruction: λ3, weight of the squared error of the reconstructed image.
        smoothness: ρ, weight of the bending energy of the posterior's mean. The article takes that of a sample, which
            reduces the posterior's variance also where the data do not determine the motion.
        shear: Weight of :func:`cmnet_core.models.losses.through_plane_shear` of the posterior's mean; 0 in the article.
        endpoint: Weight of the mean distance in mm from the known motion into ED, for simulated cines.
        rotation: Weight of the error of each slice's rotation as an arc of the epicardium in mm, for simulated cines.
        closing: Weight of the mean length in mm of the motion once round the cycle, the cycle-consistency error.
    """

    shape: float = 1.0
    composed: float = 1.0
    overlap: float = 0.5
    inverse: float = 0.0
    folding: float = 3.0
    kl_motion: float = 1e-4
    kl_latent: float = 2e-4
    reconstruction: float = 0.01
    smoothness: float = 0.02
    shear: float = 0.0
    endpoint: float = 0.06
    rotation: float = 0.03
    closing: float = 0.02


@dataclass(frozen=True, slots=True)
class MotionTraining:
    """Settings of the second stage.

    Attributes:
        schedule: Duration and learning rate.
        trainable: ``all`` trains all weights; ``rotation`` trains RotationNet alone, on the cases whose motion is
            known; ``posterior_variance`` trains σ and V of the posterior alone and leaves its mean as it is.
        frames: Number of frames that are drawn from a cine: ED, ES, and equally many between them in systole and in
            diastole.
        repeat_frame_probability: Probability that one of the drawn frames is repeated.
        pyramid_levels: Number of resolution levels on which segmentations are compared; 1 in the article.
        label_smoothing: Fraction of every class probability that is distributed evenly over the classes before
            segmentations are compared; 0 in the article.
        cycles_per_step: Number of cycles per step of the optimiser.
        gradient_checkpointing: Whether the backward pass recomputes each step of the cycle instead of storing its
            activations. This saves GPU memory for the cost of a second forward pass.
        window: In-plane size (y, x) of the network's input, in voxels.
        weights: Weights of the loss terms.
        sizes: Sizes of the network.
        augmentation: Ranges of the augmentation.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(40, 6e-4, 1e-5, seed=1))
    trainable: Trainable = Trainable.ALL
    frames: int = 6
    repeat_frame_probability: float = 0.25
    pyramid_levels: int = 4
    label_smoothing: float = 0.04
    cycles_per_step: int = 1
    gradient_checkpointing: bool = False
    window: tuple[int, int] = (128, 128)
    weights: LossWeights = field(default_factory=LossWeights)
    sizes: MotionSizes = field(default_factory=lambda: DEFAULT_MOTION)
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))
