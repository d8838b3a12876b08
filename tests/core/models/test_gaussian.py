"""The posterior of the motion, compared with torch.distributions."""

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from cmnet_core.models.gaussian import differential_entropy, log_determinant, negative_log_density, sample


def posterior(rank: int, *, seed: int, shape: tuple[int, ...] = (2, 3, 4)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*channels: int) -> torch.Tensor:
        return torch.randn(2, *channels, *shape, generator=generator)

    return draw(3), draw(1).exp(), draw(3, rank)


def covariance(variance: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    v = factor.movedim((1, 2), (-2, -1))
    return variance.movedim(1, -1)[..., None] * torch.eye(3) + v @ v.mT


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_entropy_equals_that_of_the_full_covariance(rank: int) -> None:
    mean, variance, factor = posterior(rank, seed=rank)
    mean, variance, factor = (values.double() for values in (mean, variance, factor))
    full = MultivariateNormal(mean.movedim(1, -1), covariance(variance, factor))
    found = differential_entropy(variance, factor)
    torch.testing.assert_close(found, full.entropy(), rtol=0, atol=1e-9)


def test_entropy_in_single_precision_keeps_five_digits_at_extreme_variances() -> None:
    for scale in (1e-6, 1e-3, 1.0, 1e4):
        mean, variance, factor = posterior(1, seed=3)
        low_rank = LowRankMultivariateNormal(
            mean.movedim(1, -1).double(),
            factor.movedim((1, 2), (-2, -1)).double(),
            (variance * scale).movedim(1, -1).expand(-1, -1, -1, -1, 3).double(),
        )
        found = differential_entropy(variance * scale, factor).double()
        torch.testing.assert_close(found, low_rank.entropy(), rtol=1e-5, atol=1e-5)


def test_log_determinant_of_rank_one_is_the_two_term_formula() -> None:
    _, variance, factor = posterior(1, seed=5)
    norm = factor.square().sum((1, 2))
    expected = 2 * variance[:, 0].log() + torch.log(variance[:, 0] + norm)
    torch.testing.assert_close(log_determinant(variance, factor), expected)


@pytest.mark.parametrize("rank", [1, 2])
def test_samples_have_the_covariance(rank: int) -> None:
    count = 100_000
    generator = torch.Generator().manual_seed(7)
    variance = torch.full((1, 1, 1, 1), 0.5)
    factor = torch.randn(3, rank, 1, 1, 1, generator=generator)
    mean = torch.tensor([1.0, -2.0, 3.0]).reshape(3, 1, 1, 1)
    drawn = sample(
        mean.expand(count, -1, -1, -1, -1),
        variance.expand(count, -1, -1, -1, -1),
        factor.expand(count, -1, -1, -1, -1, -1),
        generator,
    ).reshape(count, 3)
    expected = covariance(variance[None], factor[None]).reshape(3, 3)
    torch.testing.assert_close(drawn.T.cov(), expected, rtol=0.02, atol=0.03)
    torch.testing.assert_close(drawn.mean(0), mean.reshape(3), rtol=0, atol=0.03)


def test_a_batch_equals_its_elements() -> None:
    _, variance, factor = posterior(2, seed=9)
    each = torch.stack([differential_entropy(v, f) for v, f in zip(variance, factor, strict=True)])
    torch.testing.assert_close(differential_entropy(variance, factor), each)


def test_gradients_are_finite_where_the_factor_is_zero() -> None:
    variance = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
    factor = torch.zeros(1, 3, 1, 2, 2, 2, requires_grad=True)
    log_determinant(variance, factor).sum().backward()  # type: ignore[no-untyped-call]
    assert variance.grad is not None
    assert factor.grad is not None
    assert bool(torch.isfinite(variance.grad).all() & torch.isfinite(factor.grad).all())


def test_density_of_an_error_equals_that_of_a_multivariate_normal() -> None:
    generator = torch.Generator().manual_seed(4)
    error = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=generator)
    variance = torch.rand(1, 1, 2, 2, dtype=torch.float64, generator=generator) + 0.1
    factor = torch.randn(3, 2, 1, 2, 2, dtype=torch.float64, generator=generator)
    found = negative_log_density(error, variance, factor)
    for y in range(2):
        for x in range(2):
            v = factor[:, :, 0, y, x]
            covariance = variance[0, 0, y, x] * torch.eye(3, dtype=torch.float64) + v @ v.T
            normal = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
            assert torch.allclose(found[0, y, x], -normal.log_prob(error[:, 0, y, x]))
