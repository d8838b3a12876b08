"""Settings of the second training stage, in which CardioMorphNet is trained."""

from dataclasses import dataclass, field

from cmnet_core.imaging.appearance import AppearanceRanges
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.training.loop import Schedule


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the loss terms; the defaults are those of the article and of its authors' code.

    Attributes:
        shape: λ_s, weight of the divergence between the warped segmentation of the moving frame and the segmentation of
            the fixed frame.
        kl_motion: λ1, weight of the divergence of the motion's posterior from N(0, I).
        kl_latent: λ2, weight of the divergence of Z's posterior from its prior.
        reconstruction: λ3, weight of the squared error of the reconstructed image.
        smoothness: ρ, weight of the bending energy of a sample of the motion's posterior.
    """

    shape: float = 0.8
    kl_motion: float = 1e-4
    kl_latent: float = 2e-4
    reconstruction: float = 0.01
    smoothness: float = 0.3


@dataclass(frozen=True, slots=True)
class MotionTraining:
    """Settings of the second stage.

    Attributes:
        schedule: Duration and learning rate.
        frames: Number of frames that are drawn from a cine: ED, ES, and equally many between them in systole and in
            diastole.
        cycles_per_step: Number of cycles per step of the optimiser.
        gradient_checkpointing: Whether the backward pass recomputes each step of the cycle instead of storing its
            activations. This saves GPU memory for the cost of a second forward pass.
        bending_in_mm: Whether lengths in the bending energy are in mm; those of the article are voxels, whatever the
            distance of the slices.
        window: In-plane size (y, x) of the network's input, in voxels.
        weights: Weights of the loss terms.
        sizes: Sizes of the network.
        augmentation: Ranges of the spatial augmentation.
        appearance: Ranges of the appearance augmentation.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(40, 6e-4, 1e-5, seed=1))
    frames: int = 6
    cycles_per_step: int = 1
    gradient_checkpointing: bool = False
    bending_in_mm: bool = True
    window: tuple[int, int] = (128, 128)
    weights: LossWeights = field(default_factory=LossWeights)
    sizes: MotionSizes = field(default_factory=MotionSizes)
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))
    appearance: AppearanceRanges = field(default_factory=AppearanceRanges)
