"""Every term of the loss. All of them see shape or the model itself; none compares the images of two frames.

Formulas: Movahed et al., Medical Image Analysis 113 (2026) 104149, with log det C derived by the matrix determinant
lemma. Means run over voxels; the sum over frames is taken where the terms are put together.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.gaussian import Gaussian, MotionPosterior
from cmnet_core.registration.displacement import volume_change
from cmnet_core.types import Spacing

SMALLEST_PROBABILITY = 1e-6
"""Probabilities are cut off here before their logarithm; a missed voxel then costs 13.8 nats, not infinity."""


def shape_divergence(predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """Kullback–Leibler divergence of class probabilities, mean over voxels: L_semi, and L_sup for one-hot targets.

    Both arguments are probabilities already. A perfect prediction costs exactly 0.

    Args:
        predicted: θ, the probabilities of the frame before, warped.
        target: A reference mask as one-hot, or SegNet's probabilities.
    """
    log_predicted = predicted.clamp(SMALLEST_PROBABILITY, 1.0).log()
    log_target = target.clamp(SMALLEST_PROBABILITY, 1.0).log()
    return (target * (log_target - log_predicted)).sum(1).mean()


def shape_pyramid(
    predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"], *, levels: int, label_smoothing: float
) -> Float[Tensor, ""]:
    """:func:`shape_divergence` averaged over ``levels`` planes, each half as fine as the one before.

    A mask's edge attracts a displaced edge only from within a voxel; on a coarse plane a voxel is wide. And where a
    class has almost no probability the slope of its logarithm drowns every other voxel's; with ``label_smoothing``,
    that share of both arguments is spread evenly over the classes. One level without softening is the article's term.
    """
    even = label_smoothing / predicted.shape[1]
    predicted, target = (1.0 - label_smoothing) * predicted + even, (1.0 - label_smoothing) * target + even
    terms = [shape_divergence(predicted, target)]
    for _ in range(levels - 1):
        predicted, target = functional.avg_pool2d(predicted, 2), functional.avg_pool2d(target, 2)
        terms.append(shape_divergence(predicted, target))
    return torch.stack(terms).mean()


def kl_motion(posterior: MotionPosterior) -> Float[Tensor, ""]:
    """KL_D = ½ [tr C + μᵀμ − 3 − log det C] against N(0, I), mean over voxels; tr C = 3σ² + ‖V‖²_F."""
    trace = 3.0 * posterior.variance[:, 0] + posterior.factor.square().sum((1, 2))
    distance = posterior.mean.square().sum(1)
    return 0.5 * (trace + distance - 3.0 - posterior.log_determinant).mean()


def kl_latent(posterior: Gaussian, prior: Gaussian) -> Float[Tensor, ""]:
    """KL_Z = ½ [log σ²_π − log σ² − 1 + (σ² + (μ − μ_π)²) / σ²_π], mean over voxels."""
    ratio = (posterior.log_variance - prior.log_variance).exp()
    distance = (posterior.mean - prior.mean).square() / prior.log_variance.exp()
    return 0.5 * (prior.log_variance - posterior.log_variance - 1.0 + ratio + distance).mean()


def bending_energy(displacement: Float[Tensor, "1 3 z y x"], spacing: Spacing) -> Float[Tensor, ""]:
    """Bending energy of a displacement, in mm (Rueckert et al., IEEE TMI 18(8), 1999).

    Mean over voxels of Σ_i |∂_ii u|² + 2 Σ_{i<j} |∂_ij u|², in 1/mm². Zero for any affine motion. A derivative for
    which the stack has too few slices is left out.

    Args:
        displacement: In voxels.
        spacing: Size of those voxels.
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


def through_plane_shear(displacement: Float[Tensor, "1 3 z y x"], spacing: Spacing) -> Float[Tensor, ""]:
    """Mean over voxels of |∂u_z/∂y|² + |∂u_z/∂x|²: how steeply motion through the slices changes within them.

    No mask shows it, and half of it adds to in-plane strain whichever sign it has (E = ½ (FᵀF − I)).

    Args:
        displacement: In voxels.
        spacing: Size of those voxels.
    """
    through = displacement[0, 0] * spacing.z
    down, across = torch.diff(through, dim=1) / spacing.y, torch.diff(through, dim=2) / spacing.x
    return down.square().mean() + across.square().mean()


def folding(displacement: Float[Tensor, "1 3 z y x"], *, margin: float = 0.3) -> Float[Tensor, ""]:
    """Mean over voxels of ``max(0, margin − det F)²``: no motion of a heart shrinks tissue to so little."""
    return (margin - volume_change(displacement)).clamp_min(0.0).square().mean()


def missed_overlap(predicted: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """1 − Dice of the structures (background left out), over the whole batch (Milletari et al., 3DV 2016).

    Both arguments are probabilities. With their squares below the line, as there, nothing is better than to be equal;
    without, a soft target would ask for a sharper and larger prediction.
    """
    predicted, target = predicted[:, 1:], target[:, 1:]
    overlap = (predicted * target).sum((0, 2, 3))
    size = (predicted.square() + target.square()).sum((0, 2, 3))
    return 1.0 - ((2.0 * overlap + 1.0) / (size + 1.0)).mean()


def segmentation_loss(logits: Float[Tensor, "n k y x"], target: Float[Tensor, "n k y x"]) -> Float[Tensor, ""]:
    """Cross-entropy on logits plus :func:`missed_overlap`: what SegNet learns from."""
    return functional.cross_entropy(logits, target) + missed_overlap(logits.softmax(1), target)
