"""Settings of the second stage, in which CardioMorphNet learns motion."""

from dataclasses import dataclass, field
from enum import StrEnum

from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.build import DEFAULT_MOTION, MotionSizes
from cmnet_core.training.loop import Schedule


class Trainable(StrEnum):
    """What the second stage changes."""

    ALL = "all"
    ROTATION = "rotation"
    POSTERIOR_VARIANCE = "posterior_variance"


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the terms of the loss.

    Attributes:
        shape: λ_s, of one step's warped mask against the mask of its frame.
        composed: Of the ED mask carried by the composed motion against the mask of its frame; 0 in the article.
        overlap: Of 1 − Dice between the same two; 0 in the article. Small ventricles count as much as large ones.
        inverse: Of the mask of a frame carried back to ED by the inverse of an anchored motion, against ED's mask:
            divergence, and overlap by its own weight. 0 in the article, which has no inverse.
        folding: Of :func:`cmnet_core.models.losses.folding`, for an anchored motion and its inverse; 0 in the article.
        kl_motion: λ1.
        kl_latent: λ2.
        reconstruction: λ3.
        smoothness: ρ, of the bending energy of one step's mean. Of a draw, as in the article, it would press the doubt
            down everywhere, where nothing is known too.
        shear: Of :func:`cmnet_core.models.losses.through_plane_shear` of one step's mean; 0 in the article.
        endpoint: Of the distance, in mm, between composed motion and known motion, where it is known.
        rotation: Of the error of each slice's rotation, as an arc of the epicardium in mm, where it is known.
        closing: Of the distance, in mm, by which the motion composed once round the cycle fails to close.
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
        schedule: How long and how fast to learn.
        trainable: ``all``; or ``rotation``: RotationNet alone, from the cases whose motion is known, quick enough
            for many
            epochs before everything learns together; or ``doubt``: σ and V of the posterior alone, while its mean stays
            as it is. They come to rest slowly, long after the motion, and on their own can learn fast.
        frames: Frames drawn from a cine: ED, ES and equally many on each arc between them.
        repeat_frame_probability: Share of draws in which one frame is shown twice.
        pyramid_levels: Planes on which shapes are compared; 1 in the article.
        label_smoothing: Share of every class probability that is spread evenly before shapes are compared; 0 in the
            article.
        cycles_per_step: Cycles that share one step of the optimiser.
        gradient_checkpointing: Work each step of the cycle out again on the way back instead of keeping all that it
            saw: for GPUs, whose memory is small, at the price of a second forward pass.
        window: Size (y, x) of a view.
        weights: Of the terms of the loss.
        sizes: Sizes of the network.
        augmentation: How far views may vary.
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
