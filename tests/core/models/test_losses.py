"""Loss terms: each has its known value in closed form or that of PyTorch."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn import functional

from cmnet_core.models import losses
from cmnet_core.models.gaussian import Gaussian, MotionPosterior
from cmnet_core.registration.displacement import identity_grid
from cmnet_core.types import Spacing


def random_posterior(*, rank: int, seed: int) -> MotionPosterior:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(2, 3, 4, 5, generator=generator)
    log_variance = torch.randn(2, 1, 4, 5, generator=generator)
    return MotionPosterior(mean, log_variance, torch.randn(2, 3, rank, 4, 5, generator=generator))


def as_normal(posterior: MotionPosterior) -> MultivariateNormal:
    factor = posterior.factor.movedim((1, 2), (-2, -1))
    isotropic = posterior.variance[:, 0, ..., None, None] * torch.eye(3)
    return MultivariateNormal(posterior.mean.movedim(1, -1), isotropic + factor @ factor.mT)


def test_kl_motion_equals_torch_distributions() -> None:
    for rank in (1, 2):
        posterior = random_posterior(rank=rank, seed=rank)
        expected = kl_divergence(as_normal(posterior), MultivariateNormal(torch.zeros(3), torch.eye(3))).mean()
        torch.testing.assert_close(losses.kl_motion(posterior), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(posterior.entropy, as_normal(posterior).entropy(), rtol=1e-4, atol=1e-4)


def test_samples_of_the_motion_have_the_posterior_covariance() -> None:
    one = random_posterior(rank=1, seed=5)
    many = MotionPosterior(
        one.mean[:1, :, :1, :1].expand(1, 3, 200, 200),
        one.log_variance[:1, :, :1, :1].expand(1, 1, 200, 200),
        one.factor[:1, :, :, :1, :1].expand(1, 3, 1, 200, 200),
    )
    drawn = many.sample(torch.Generator().manual_seed(0))[0].flatten(1)
    expected = as_normal(one).covariance_matrix[0, 0, 0]
    torch.testing.assert_close(torch.cov(drawn), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_kl_latent_equals_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b, c, d = (torch.randn(3, 1, 4, 4, generator=generator) for _ in range(4))
    normal = torch.distributions.Normal
    expected = kl_divergence(normal(a, (0.5 * b).exp()), normal(c, (0.5 * d).exp())).mean()
    torch.testing.assert_close(losses.kl_latent(Gaussian(a, b), Gaussian(c, d)), expected)


def one_hot_shapes(*, seed: int) -> Tensor:
    labels = torch.randint(0, 4, (3, 16, 16), generator=torch.Generator().manual_seed(seed))
    return functional.one_hot(labels, 4).movedim(-1, 1).float()


def test_kl_segmentation_of_equal_arguments_is_zero() -> None:
    shapes = one_hot_shapes(seed=0)
    soft = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1)).softmax(1)
    for target in (shapes, soft):
        assert float(losses.kl_segmentation(target, target)) == 0.0
        assert float(losses.kl_segmentation_pyramid(target, target, levels=3, label_smoothing=0.04)) == 0.0


def test_pyramid_is_the_mean_over_its_levels() -> None:
    generator = torch.Generator().manual_seed(2)
    predicted, target = (torch.randn(2, 4, 16, 16, generator=generator).softmax(1) for _ in range(2))
    levels = [
        losses.kl_segmentation(functional.avg_pool2d(predicted, size), functional.avg_pool2d(target, size))
        for size in (1, 2, 4)
    ]
    for count in (1, 2, 3):
        found = losses.kl_segmentation_pyramid(predicted, target, levels=count, label_smoothing=0.0)
        torch.testing.assert_close(found, torch.stack(levels[:count]).mean())


def test_kl_segmentation_of_a_one_hot_target_is_the_cross_entropy() -> None:
    shapes = one_hot_shapes(seed=0)
    logits = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = functional.cross_entropy(logits, shapes.argmax(1))
    torch.testing.assert_close(losses.kl_segmentation(logits.softmax(1), shapes), expected)


def test_bending_energy_of_known_fields() -> None:
    spacing = Spacing(9.0, 1.5, 2.0)
    points = identity_grid((4, 8, 9), torch.zeros(())) * torch.tensor(spacing.zyx).view(3, 1, 1, 1)
    z, y, x = points

    def energy(component_mm: Tensor) -> float:
        displacement = torch.stack([torch.zeros_like(y), component_mm, torch.zeros_like(y)])
        voxels = displacement / torch.tensor(spacing.zyx).view(3, 1, 1, 1)
        return float(losses.bending_energy(voxels[None], spacing))

    assert energy(0.2 * y - 0.1 * x + 0.05 * z) < 1e-8
    assert abs(energy(0.01 * y**2) - (2 * 0.01) ** 2) < 1e-6
    assert abs(energy(0.01 * z**2) - (2 * 0.01) ** 2) < 1e-6
    assert abs(energy(0.01 * x * y) - 2 * 0.01**2) < 1e-6


def test_bending_energy_of_a_single_slice_is_finite() -> None:
    displacement = torch.randn(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert bool(losses.bending_energy(displacement, Spacing(8.0, 1.5, 1.5)).isfinite())


def test_segmentation_loss_of_a_certain_and_correct_prediction_is_zero() -> None:
    shapes = one_hot_shapes(seed=3)
    assert float(losses.segmentation_loss(50.0 * shapes, shapes)) < 1e-3


def test_dice_of_a_class_is_that_of_the_whole_batch() -> None:
    # Class 1 fills the first image in the target and half of it in the prediction, class 2 is in neither.
    target, predicted = torch.zeros(3, 3, 2, 4), torch.zeros(3, 3, 2, 4)
    target[0, 1], predicted[0, 1, 0] = 1.0, 1.0
    first, second = (2 * 4 + 1) / (4 + 8 + 1), 1.0
    assert float(losses.dice_loss(predicted, target)) == pytest.approx(1 - (first + second) / 2)
