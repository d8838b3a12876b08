"""Terms of the losses of the learned methods: similarity of images and masks, and smoothness of the motion.

Images are batches of slices; the motion is in voxels, and its smoothness has no unit.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.models.losses import dice_loss

MIN_VARIANCE = 1e-4
"""Added to the product of the local variances: regions without texture have no correlation."""

HUBER_EPSILON = 0.01
"""ε of the approximate Huber loss."""


def mean_square(warped: Tensor, fixed: Tensor) -> Float[Tensor, ""]:
    """Compute the mean squared difference of two images."""
    return (warped - fixed).square().mean()


def local_correlation(
    warped: Float[Tensor, "n 1 y x"], fixed: Float[Tensor, "n 1 y x"], *, window: int = 9
) -> Float[Tensor, ""]:
    """Compute 1 − the mean squared local correlation in in-plane windows (Balakrishnan et al., IEEE TMI 38, 2019).

    Args:
        warped: Warped moving slices.
        fixed: Fixed slices.
        window: Size of the windows in voxels.
    """
    products = torch.cat([warped, fixed, warped * warped, fixed * fixed, warped * fixed], dim=1)
    half = window // 2
    means = functional.avg_pool2d(products, (window, 1), stride=1, padding=(half, 0), count_include_pad=False)
    means = functional.avg_pool2d(means, (1, window), stride=1, padding=(0, half), count_include_pad=False)
    a, b, aa, bb, ab = means.unbind(1)
    covariance, variances = ab - a * b, (aa - a * a).clamp_min(0.0) * (bb - b * b).clamp_min(0.0)
    return 1.0 - (covariance.square() / (variances + MIN_VARIANCE**2)).mean()


def diffusion(motion: Float[Tensor, "n c y x"]) -> Float[Tensor, ""]:
    """Compute the mean of |∂u|² over the in-plane derivatives of in-plane motion, both in voxels."""
    return (torch.diff(motion, dim=2).square().mean() + torch.diff(motion, dim=3).square().mean()) / 2.0


def huber_smoothness(motion: Float[Tensor, "n 2 y x"]) -> Float[Tensor, ""]:
    """Compute the approximate Huber loss of the derivatives: the root of ε + Σ |∂u|², averaged over voxels.

    Qin et al., MICCAI 2018, equation 2, per voxel instead of per image so that it does not depend on the size.
    """
    down = torch.diff(motion, dim=2)[..., :-1].square().sum(1)
    across = torch.diff(motion, dim=3)[..., :-1, :].square().sum(1)
    return (HUBER_EPSILON + down + across).sqrt().mean()


def warped_mask_dice(
    warped: Mapping[int, Float[Tensor, "z k y x"]], masks: Mapping[int, Float[Tensor, "z k y x"]]
) -> Float[Tensor, ""]:
    """Average 1 − Dice of warped masks over the frames that have a mask."""
    return torch.stack([dice_loss(values, masks[frame]) for frame, values in warped.items()]).mean()
