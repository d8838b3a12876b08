"""Settings of the four stages that train the shape motion network."""

from dataclasses import dataclass, field

from cmnet_core.imaging.appearance import AppearanceRanges
from cmnet_core.imaging.augmentation import AugmentationRanges
from cmnet_core.models.shape_motion_net import ShapeMotionSizes
from cmnet_core.training.loop import Schedule


@dataclass(frozen=True, slots=True)
class ThroughPlaneTraining:
    """Settings of the stage ``through-plane``, which trains ThroughPlaneNet on simulated label maps.

    Attributes:
        schedule: Duration and learning rate.
        pairs: Number of simulated pairs on which the network is trained; they are drawn once.
        validation_pairs: Number of further pairs for validation.
        pairs_per_step: Number of pairs per step of the optimiser.
        window: Size of the simulated label maps along y and x, in voxels of 3 mm.
        area_noise: Standard deviation of the relative error of each area, for augmentation.
        myocardium_bias: Largest relative error of the myocardium's areas of one frame in all slices.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(36, 2e-3, 1e-3, seed=1))
    pairs: int = 4400
    validation_pairs: int = 400
    pairs_per_step: int = 64
    window: int = 48
    area_noise: float = 0.03
    myocardium_bias: float = 0.08


@dataclass(frozen=True, slots=True)
class ShapeMotionLossWeights:
    """Weights of the loss terms of the stage ``shape-motion``.

    The terms from ``wall`` to ``bending_simulated`` compare the motion of simulated pairs with the known one; those
    from ``overlap`` to ``bending_reference`` are of pairs of reference masks.

    Attributes:
        wall: Weight of the endpoint error in the LV's wall in mm.
        rv: Weight of the endpoint error in the RV in mm.
        blood: Weight of the endpoint error in the LV's blood pool in mm.
        gradient: Weight of the mean absolute error of the displacement's derivatives in the wall.
        strain: Weight of the mean absolute error of Green-Lagrange strain in the wall.
        log_jacobian: Weight of the mean absolute error of log det F in the wall.
        bending_simulated: Weight of the bending energy of the velocity in 1/mm².
        overlap: Weight of 1 − Dice of the warped mask.
        pyramid: Weight of the divergence between the warped and the fixed mask over multi-resolution levels.
        incompressibility: Weight of |log det F| in the wall beyond a tolerance.
        wall_volume: Weight of the absolute mean of log det F over the wall.
        through_plane: Weight of the difference between each slice's mean through-plane velocity and that of
            ThroughPlaneNet in mm, beyond a tolerance.
        bending_reference: Weight of the bending energy of the velocity in 1/mm².
        outside: Weight of the squared velocity in mm² away from the heart, of all pairs.
        early_iterations: Weight of the cascade's iterations before the last.
        reference: Factor of all terms of reference masks.
        beyond_labels: Weight of voxels that take their label from beyond the last labelled slices of the warped mask,
            whose label is unknown.
    """

    wall: float = 1.0
    rv: float = 0.4
    blood: float = 0.2
    gradient: float = 3.0
    strain: float = 45.0
    log_jacobian: float = 0.5
    bending_simulated: float = 10.0
    overlap: float = 80.0
    pyramid: float = 200.0
    incompressibility: float = 4.0
    wall_volume: float = 3.0
    through_plane: float = 1.0
    bending_reference: float = 15.0
    outside: float = 2e-4
    early_iterations: float = 0.5
    reference: float = 3.5
    beyond_labels: float = 0.15


@dataclass(frozen=True, slots=True)
class ShapeMotionTraining:
    """Settings of the stage ``shape-motion``, which trains ResidualNet on simulated pairs and on reference masks.

    Every sample is one view of a pair of reference masks and one simulated pair.

    Attributes:
        schedule: Duration and learning rate.
        views_per_epoch: Number of views of each pair of reference masks in an epoch.
        samples_per_step: Number of samples per step of the optimiser.
        validation_pairs: Number of simulated pairs on which the motion is validated, beside the reference masks.
        window: Size of the network's input along y and x, in voxels of 3 mm; a multiple of 8.
        segnet_probability: Probability that the network's input is one of SegNet's segmentations, not the reference
            masks.
        segmentation_error_probability: Probability that the network's input has further errors like those of a
            segmentation network.
        volume_tolerance: Relative change of the wall's volume that the incompressibility term permits.
        through_plane_tolerance_mm: Difference that the through-plane term permits.
        weights: Weights of the loss terms.
        sizes: Sizes of the network; ``stack`` is also that of the stage ``through-plane``.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(30, 1.5e-3, 1e-3, seed=1, ema_decay=0.9985))
    views_per_epoch: int = 5
    samples_per_step: int = 1
    validation_pairs: int = 12
    window: int = 48
    segnet_probability: float = 0.6
    segmentation_error_probability: float = 0.5
    volume_tolerance: float = 0.05
    through_plane_tolerance_mm: float = 0.5
    weights: ShapeMotionLossWeights = field(default_factory=ShapeMotionLossWeights)
    sizes: ShapeMotionSizes = field(default_factory=ShapeMotionSizes)


@dataclass(frozen=True, slots=True)
class RotationTraining:
    """Settings of the stage ``rotation``, which trains RotationNet on pairs of frames whose rotation is known.

    Attributes:
        schedule: Duration and learning rate.
        pairs_per_step: Number of pairs per step of the optimiser.
        rotation_deg: Largest artificial rotation to either side in degrees.
        contraction: Largest artificial shortening of the distance to the LV's centre, as a fraction of it.
        window: In-plane size (y, x) of the network's input in voxels.
        augmentation: Ranges of the spatial augmentation.
        appearance: Ranges of the appearance augmentation, which varies both frames independently.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(20, 2e-3, 1e-5, seed=1))
    pairs_per_step: int = 2
    rotation_deg: float = 15.0
    contraction: float = 0.3
    window: tuple[int, int] = (128, 128)
    augmentation: AugmentationRanges = field(default_factory=lambda: AugmentationRanges(shift_voxels=8.0))
    appearance: AppearanceRanges = field(default_factory=AppearanceRanges)


@dataclass(frozen=True, slots=True)
class MotionPosteriorTraining:
    """Settings of the stage ``motion-posterior``, which trains the posterior's covariance on simulated label maps.

    Attributes:
        schedule: Duration and learning rate.
        pairs_per_epoch: Number of simulated pairs in an epoch.
        pairs_per_step: Number of pairs per step of the optimiser.
        validation_pairs: Number of simulated pairs on which the coverage is validated.
        window: Size of the simulated label maps along y and x, in voxels of 3 mm; a multiple of 8.
        segmentation_error_probability: Probability that the network's input has errors like those of a segmentation
            network.
        rv: Weight of the RV's voxels relative to those of the LV's wall.
        blood: The same of the LV's blood pool.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(5, 2e-3, 1e-4, seed=1, ema_decay=0.995))
    pairs_per_epoch: int = 300
    pairs_per_step: int = 1
    validation_pairs: int = 40
    window: int = 48
    segmentation_error_probability: float = 0.5
    rv: float = 0.2
    blood: float = 0.1
