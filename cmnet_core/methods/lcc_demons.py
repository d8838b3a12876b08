"""LCC log-demons: symmetric registration by local correlation (Lorenzi et al., NeuroImage 81 (2013) 470).

The motion is the exponential of a stationary velocity v in mm. In each iteration, both images are warped half-way,
``F' = F ∘ exp(−v/2)`` and ``M' = M ∘ exp(v/2)``, and their local correlation in a Gaussian window,
``ρ = mean(F'M') / √(mean(F'²) mean(M'²))``, determines an update of v. The update is smoothed (fluid regularisation),
and v plus the update is smoothed (elastic regularisation). Half of the update acts on either image: in the
Baker-Campbell-Hausdorff series of ``exp(δ/2) ∘ exp(v) ∘ exp(δ/2)`` the Lie bracket cancels, so that exchanged images
have the opposite velocity. A pyramid refines v in-plane; the few slices of a stack are kept at every level. All
smoothing is in mm.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.filters import renormalised_gaussian
from cmnet_core.registration.displacement import exponential, warp
from cmnet_core.types import Spacing

SQUARINGS = 6
"""Number of squarings of the exponential."""

_LEAST = 1e-6
"""Added to products of intensities, which are between 0 and 1."""


@dataclass(frozen=True, slots=True)
class LccDemonsSettings:
    """Settings of LCC log-demons.

    Attributes:
        window_mm: Standard deviation of the Gaussian window of the local correlation.
        fluid_mm: Standard deviation of the smoothing of the updates.
        elastic_mm: Standard deviation of the smoothing of the velocity.
        max_update_mm: Largest length of an update, which sets the weight of the similarity in its denominator.
        factors: In-plane subsampling of each level of the pyramid.
        iterations: Largest number of iterations of each level.
        tolerance: A level ends when the largest mean of ρ² has increased by less than this fraction in the last
            :data:`PATIENCE` iterations.
    """

    window_mm: float = 8.0
    fluid_mm: float = 3.0
    elastic_mm: float = 1.5
    max_update_mm: float = 4.0
    factors: tuple[int, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (100, 60, 40)
    tolerance: float = 1e-4


PATIENCE = 10
"""Number of iterations over which convergence is judged."""

DEFAULT = LccDemonsSettings()


@dataclass(frozen=True, slots=True, eq=False)
class LccDemonsResult:
    """The result of a registration.

    Attributes:
        velocity_mm: Stationary velocity in mm; its exponential points from the fixed into the moving image.
        similarity: Mean of ρ² at each iteration, by level of the pyramid.
    """

    velocity_mm: Float[Tensor, "3 z y x"]
    similarity: tuple[tuple[float, ...], ...]


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images with the default settings.

    Args:
        fixed: Fixed image, from 0 to 1.
        moving: Moving image, from 0 to 1.
        spacing: Voxel spacing in mm.
    """
    velocity = estimate_velocity(fixed, moving, spacing, DEFAULT).velocity_mm
    return _exponential(velocity, spacing)


@torch.no_grad()
def estimate_velocity(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing, settings: LccDemonsSettings
) -> LccDemonsResult:
    """Estimate the stationary velocity between two images.

    Args:
        fixed: Fixed image, from 0 to 1.
        moving: Moving image, from 0 to 1.
        spacing: Voxel spacing in mm.
        settings: Settings.
    """
    velocity = torch.zeros(3, *fixed.shape)
    curves = []
    for factor, iterations in zip(settings.factors, settings.iterations, strict=True):
        size = [fixed.shape[0], *(max(1, round(length / factor)) for length in fixed.shape[1:])]
        coarse = Spacing(
            spacing.z, *(mm * n / m for mm, n, m in zip(spacing.zyx[1:], fixed.shape[1:], size[1:], strict=True))
        )
        level = _Level(_resized(fixed[None], size), _resized(moving[None], size), coarse, settings)
        velocity, curve = level.run(_resized(velocity, size), iterations)
        curves.append(curve)
    return LccDemonsResult(_resized(velocity, list(fixed.shape)), tuple(curves))


def lcc_force(
    fixed: Float[Tensor, "1 z y x"], moving: Float[Tensor, "1 z y x"], spacing: Spacing, *, window_mm: float
) -> tuple[Float[Tensor, "3 z y x"], Float[Tensor, "1 z y x"]]:
    """Return twice the derivative of log ρ with respect to a symmetric displacement, and ρ itself.

    ``Λ = (F∇M − M∇F) / mean(FM) + F∇F / mean(F²) − M∇M / mean(M²)`` (Lorenzi 2013, equation of the update).

    Args:
        fixed: The fixed image, warped half-way.
        moving: The moving image, warped half-way.
        spacing: Voxel spacing in mm.
        window_mm: Standard deviation of the Gaussian window of the means.
    """
    products = smooth(torch.cat([fixed * moving, fixed**2, moving**2]), spacing, window_mm) + _LEAST
    both, of_fixed, of_moving = (product[None] for product in products)
    along_fixed, along_moving = (_gradient(image[0], spacing) for image in (fixed, moving))
    cross = (fixed * along_moving - moving * along_fixed) / both
    force = cross + fixed * along_fixed / of_fixed - moving * along_moving / of_moving
    return force, both / (of_fixed * of_moving).sqrt()


def smooth(values: Float[Tensor, "c z y x"], spacing: Spacing, sd_mm: float) -> Float[Tensor, "c z y x"]:
    """Smooth with a Gaussian of a standard deviation in mm, renormalised at the border."""
    for axis, mm in enumerate(spacing.zyx, start=1):
        kernel = renormalised_gaussian(values.shape[axis], mm, sd_mm).to(values)
        values = torch.tensordot(kernel, values.movedim(axis, 0), dims=1).movedim(0, axis)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """One level of the pyramid."""

    fixed: Float[Tensor, "1 z y x"]
    moving: Float[Tensor, "1 z y x"]
    spacing: Spacing
    settings: LccDemonsSettings

    def run(self, velocity: Float[Tensor, "3 z y x"], iterations: int) -> tuple[Tensor, tuple[float, ...]]:
        """Iterate until the similarity no longer increases; return the best velocity and the similarities."""
        best, similarity = velocity, []
        for _ in range(iterations):
            update, rho = self._update(velocity)
            similarity.append(float((rho**2).mean()))
            if similarity[-1] >= max(similarity):
                best = velocity
            # The first smoothing of a level can lower the similarity, so that single iterations are not compared.
            before = max(similarity[:-PATIENCE], default=0.0)
            if max(similarity) - before < self.settings.tolerance * before:
                break
            velocity = smooth(velocity + update, self.spacing, self.settings.elastic_mm)
        return best, tuple(similarity)

    def _update(self, velocity: Float[Tensor, "3 z y x"]) -> tuple[Tensor, Tensor]:
        there = _in_voxels(_exponential(0.5 * velocity, self.spacing), self.spacing)
        back = _in_voxels(_exponential(-0.5 * velocity, self.spacing), self.spacing)
        fixed, moving = warp(self.fixed[None], back[None])[0], warp(self.moving[None], there[None])[0]
        force, rho = lcc_force(fixed, moving, self.spacing, window_mm=self.settings.window_mm)
        # 2Λ / (|Λ|² + 4κ/ρ²) has the length |ρ| / (2√κ) at most. The sign of |Λ|², negative in the derivation, is taken
        # positive, as in the demons force, so that the update is bounded.
        kappa = 1.0 / (4.0 * self.settings.max_update_mm**2)
        update = 2.0 * force / (force.square().sum(0) + 4.0 * kappa / (rho**2 + _LEAST))
        return smooth(update, self.spacing, self.settings.fluid_mm), rho


def _gradient(values: Float[Tensor, "z y x"], spacing: Spacing) -> Float[Tensor, "3 z y x"]:
    """Derivatives per mm, and 0 along an axis of one voxel."""
    return torch.stack(
        [
            torch.gradient(values, spacing=mm, dim=axis)[0] if values.shape[axis] > 1 else torch.zeros_like(values)
            for axis, mm in enumerate(spacing.zyx)
        ]
    )


def _exponential(velocity: Float[Tensor, "3 z y x"], spacing: Spacing) -> Float[Tensor, "3 z y x"]:
    millimetres = torch.tensor(spacing.zyx).view(3, 1, 1, 1)
    return exponential(_in_voxels(velocity, spacing)[None], steps=SQUARINGS)[0] * millimetres


def _in_voxels(vectors: Float[Tensor, "3 z y x"], spacing: Spacing) -> Float[Tensor, "3 z y x"]:
    return vectors / torch.tensor(spacing.zyx).view(3, 1, 1, 1)


def _resized(values: Float[Tensor, "c z y x"], size: list[int]) -> Float[Tensor, "c z2 y2 x2"]:
    """Resample in-plane with aligned voxel edges; a smaller grid takes means."""
    if list(values.shape[1:]) == size:
        return values
    return functional.interpolate(
        values.movedim(1, 0), size=tuple(size[1:]), mode="bilinear", align_corners=False, antialias=True
    ).movedim(0, 1)
