"""The posterior of the motion: a Gaussian per voxel with covariance ``C = σ² I + V Vᵀ``.

σ² has one channel, and V is a 3 × r matrix. All quantities are in voxels of the motion's grid.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def log_determinant(
    variance: Float[Tensor, "*b 1 z y x"], factor: Float[Tensor, "*b 3 r z y x"]
) -> Float[Tensor, "*b z y x"]:
    """Compute ``log det C = 3 log σ² + log det(I_r + VᵀV / σ²)`` by the matrix determinant lemma.

    Args:
        variance: σ², positive.
        factor: The low-rank factor V.
    """
    rank = factor.shape[-4]
    scaled = torch.einsum("...crzyx,...cszyx->...zyxrs", factor, factor) / variance.squeeze(-4)[..., None, None]
    if rank == 1:
        return 3 * variance.squeeze(-4).log() + torch.log1p(scaled[..., 0, 0])
    if rank == 2:
        (a, b), (_, d) = (row.unbind(-1) for row in scaled.unbind(-2))
        return 3 * variance.squeeze(-4).log() + torch.log1p(a + d + a * d - b.square())
    inner = torch.eye(rank, dtype=factor.dtype, device=factor.device) + scaled
    return 3 * variance.squeeze(-4).log() + torch.logdet(inner)


def differential_entropy(
    variance: Float[Tensor, "*b 1 z y x"], factor: Float[Tensor, "*b 3 r z y x"]
) -> Float[Tensor, "*b z y x"]:
    """Compute the differential entropy ``½ [3 log(2πe) + log det C]`` in nats; it may be negative."""
    return 0.5 * (3 * math.log(2 * math.pi * math.e) + log_determinant(variance, factor))


def squared_mahalanobis(
    error: Float[Tensor, "*b 3 z y x"], variance: Float[Tensor, "*b 1 z y x"], factor: Float[Tensor, "*b 3 r z y x"]
) -> Float[Tensor, "*b z y x"]:
    """Compute ``eᵀ C⁻¹ e`` by the Woodbury identity.

    ``eᵀ C⁻¹ e = [eᵀe − bᵀ (σ² I_r + VᵀV)⁻¹ b] / σ²`` with ``b = Vᵀe``.

    Args:
        error: e.
        variance: σ², positive.
        factor: The low-rank factor V.
    """
    identity = torch.eye(factor.shape[-4], dtype=factor.dtype, device=factor.device)
    projected = torch.einsum("...crzyx,...czyx->...zyxr", factor, error)
    inner = (
        torch.einsum("...crzyx,...cszyx->...zyxrs", factor, factor) + variance.squeeze(-4)[..., None, None] * identity
    )
    solved = torch.linalg.solve(inner, projected)
    distance: Tensor = (error.square().sum(-4) - (projected * solved).sum(-1)) / variance.squeeze(-4)
    return distance


def negative_log_density(
    error: Float[Tensor, "*b 3 z y x"], variance: Float[Tensor, "*b 1 z y x"], factor: Float[Tensor, "*b 3 r z y x"]
) -> Float[Tensor, "*b z y x"]:
    """Compute ``½ [3 log 2π + log det C + eᵀ C⁻¹ e]`` in nats, the negative log density of N(0, C) at e."""
    distance = squared_mahalanobis(error, variance, factor)
    return 0.5 * (3 * math.log(2 * math.pi) + log_determinant(variance, factor) + distance)


def sample(
    mean: Float[Tensor, "*b 3 z y x"],
    variance: Float[Tensor, "*b 1 z y x"],
    factor: Float[Tensor, "*b 3 r z y x"],
    generator: torch.Generator,
) -> Float[Tensor, "*b 3 z y x"]:
    """Draw one sample ``μ + σε₁ + Vε₂`` with independent standard normal ε₁ and ε₂.

    Args:
        mean: μ.
        variance: σ².
        factor: V.
        generator: Draws ε₁ and ε₂, on the device of ``mean``.
    """
    isotropic = _normal(mean.shape, mean, generator)
    low_rank = _normal((*factor.shape[:-5], *factor.shape[-4:]), mean, generator)
    return mean + variance.sqrt() * isotropic + torch.einsum("...crzyx,...rzyx->...czyx", factor, low_rank)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """A diagonal Gaussian distribution of the latent variable Z."""

    mean: Float[Tensor, "n c y x"]
    log_variance: Float[Tensor, "n c y x"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n c y x"]:
        """Draw one reparameterised sample, through which gradients pass."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise


@dataclass(frozen=True, slots=True, eq=False)
class MotionPosterior:
    """The posterior q(D_t) of a velocity or a displacement, N(μ, σ² I + V Vᵀ) per voxel, in voxels of its own grid."""

    mean: Float[Tensor, "n 3 y x"]
    log_variance: Float[Tensor, "n 1 y x"]
    factor: Float[Tensor, "n 3 r y x"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n 3 y x"]:
        """Draw one reparameterised sample, through which gradients pass; voxels are independent of each other."""
        return sample(self.mean[:, :, None], self.variance[:, :, None], self._factor, generator)[:, :, 0]

    @property
    def variance(self) -> Float[Tensor, "n 1 y x"]:
        """The isotropic variance σ²."""
        return self.log_variance.exp()

    @property
    def _factor(self) -> Float[Tensor, "n 3 r 1 y x"]:
        return self.factor[:, :, :, None]

    @property
    def log_determinant(self) -> Float[Tensor, "n y x"]:
        """``log det C`` of every voxel."""
        return log_determinant(self.variance[:, :, None], self._factor)[:, 0]

    @property
    def entropy(self) -> Float[Tensor, "n y x"]:
        """Differential entropy of every voxel, in nats."""
        return differential_entropy(self.variance[:, :, None], self._factor)[:, 0]
