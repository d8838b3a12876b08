"""The terms of the training losses, each a mean over voxels; no term compares the images of two frames.

The formulas are those of Movahed et al., Medical Image Analysis 113 (2026) 104149, with log det C by the matrix
determinant lemma. :mod:`cmnet_core.training.cycle_loss` sums the terms over the frames of a cycle.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.gaussian import Gaussian, MotionPosterior
from cmnet_core.types import Spacing

MIN_PROBABILITY = 1e-6
"""Lower bound of a probability before its logarithm is taken; a wrong voxel costs at most 13.8 nats."""


def kl_segmentation(predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """Compute the Kullback–Leibler divergence of class probabilities: L_semi, and L_sup for one-hot targets.

    It is exactly 0 for equal arguments.

    Args:
        predicted: θ, the warped class probabilities of another frame.
        target: A one-hot reference mask, or SegNet's class probabilities.
    """
    log_predicted = predicted.clamp(MIN_PROBABILITY, 1.0).log()
    log_target = target.clamp(MIN_PROBABILITY, 1.0).log()
    return (target * (log_target - log_predicted)).sum(1).mean()


def kl_segmentation_pyramid(
    predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"], *, levels: int, label_smoothing: float
) -> Float[Tensor, ""]:
    """Average :func:`kl_segmentation` over resolution levels, each of half the in-plane resolution of the previous one.

    The divergence attracts a displaced edge only from within one voxel, which is larger at a coarse level. Label
    smoothing bounds the gradient where a class has almost no probability. One level without smoothing is the term of
    the article.

    Args:
        predicted: Warped class probabilities.
        target: Class probabilities of the target.
        levels: Number of levels.
        label_smoothing: Fraction of both arguments that is distributed evenly over the classes.
    """
    even = label_smoothing / predicted.shape[1]
    predicted, target = (1.0 - label_smoothing) * predicted + even, (1.0 - label_smoothing) * target + even
    terms = [kl_segmentation(predicted, target)]
    for _ in range(levels - 1):
        predicted, target = functional.avg_pool2d(predicted, 2), functional.avg_pool2d(target, 2)
        terms.append(kl_segmentation(predicted, target))
    return torch.stack(terms).mean()


def kl_motion(posterior: MotionPosterior) -> Float[Tensor, ""]:
    """Compute KL_D = ½ [tr C + μᵀμ − 3 − log det C], the divergence from N(0, I), with tr C = 3σ² + ‖V‖²_F."""
    trace = 3.0 * posterior.variance[:, 0] + posterior.factor.square().sum((1, 2))
    distance = posterior.mean.square().sum(1)
    return 0.5 * (trace + distance - 3.0 - posterior.log_determinant).mean()


def kl_latent(posterior: Gaussian, prior: Gaussian) -> Float[Tensor, ""]:
    """Compute KL_Z = ½ [log σ²_π − log σ² − 1 + (σ² + (μ − μ_π)²) / σ²_π], the divergence from the prior."""
    ratio = (posterior.log_variance - prior.log_variance).exp()
    distance = (posterior.mean - prior.mean).square() / prior.log_variance.exp()
    return 0.5 * (prior.log_variance - posterior.log_variance - 1.0 + ratio + distance).mean()


def bending_energy(displacement: Float[Tensor, "1 3 z y x"], spacing: Spacing) -> Float[Tensor, ""]:
    """Compute the bending energy of a displacement in 1/mm² (Rueckert et al., IEEE TMI 18(8), 1999).

    It is the mean over voxels of Σ_i |∂_ii u|² + 2 Σ_{i<j} |∂_ij u|², with u in mm, and is zero for any affine motion.
    A derivative for which the stack has too few slices is left out.

    Args:
        displacement: Displacement in voxels.
        spacing: Voxel spacing in mm.
    """
    steps = spacing.zyx
    millimetres = displacement[0] * torch.tensor(steps, device=displacement.device).view(3, 1, 1, 1)
    first = [torch.diff(millimetres, dim=axis + 1) / steps[axis] for axis in range(3)]
    energy = millimetres.new_zeros(())
    for i in range(3):
        for j in range(i, 3):
            second = torch.diff(first[i], dim=j + 1) / steps[j]
            if second.numel():
                energy = energy + (1.0 if i == j else 2.0) * second.square().sum(0).mean()
    return energy


def dice_loss(predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """Compute 1 − the mean soft Dice of the structures over the whole batch (Milletari et al., 3DV 2016).

    The denominator has the squares of the probabilities, so that the loss is smallest for equal arguments also where
    the target is not binary.

    Args:
        predicted: Class probabilities; the first class is the background, which is left out.
        target: Class probabilities, or a one-hot mask.
    """
    predicted, target = predicted[:, 1:], target[:, 1:]
    overlap = (predicted * target).sum((0, 2, 3))
    size = (predicted.square() + target.square()).sum((0, 2, 3))
    return 1.0 - ((2.0 * overlap + 1.0) / (size + 1.0)).mean()


def segmentation_loss(logits: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """Compute the loss of SegNet: the cross-entropy of the logits plus :func:`dice_loss`."""
    return functional.cross_entropy(logits, target) + dice_loss(logits.softmax(1), target)
