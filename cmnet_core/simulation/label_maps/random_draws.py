"""Random numbers for the simulation, all from one generator."""

import torch
from jaxtyping import Float
from torch import Tensor


class RandomDraws:
    """Draws the parameters of a simulation from one generator, so that equal seeds give equal simulations."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        """Draw a number between two bounds."""
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def normal(self, mean: float, sd: float) -> float:
        """Draw from a Gaussian whose tails are clipped at 2.5 standard deviations."""
        return mean + sd * min(max(float(torch.randn(1, generator=self.generator)), -2.5), 2.5)

    def happens(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.uniform(0.0, 1.0) < probability

    def normals(self, *shape: int) -> Float[Tensor, "..."]:
        """Draw a tensor of independent standard Gaussians."""
        return torch.randn(*shape, generator=self.generator)
