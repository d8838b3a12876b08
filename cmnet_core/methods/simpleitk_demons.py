"""Demons by SimpleITK: diffeomorphic (Vercauteren et al., NeuroImage 45 (2009) S61), and fast symmetric forces."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import Spacing

ITERATIONS = 100
"""Number of iterations."""

SMOOTHING = 1.5
"""Standard deviation of the Gaussian that smooths the displacement field, in voxels."""


def register_diffeomorphic(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images with diffeomorphic demons.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    import SimpleITK as sitk  # noqa: N813 - its own documentation imports it so

    return _register(sitk.DiffeomorphicDemonsRegistrationFilter(), fixed, moving, spacing)


def register_fast_symmetric(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images with fast symmetric forces demons, whose displacement may fold.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    import SimpleITK as sitk  # noqa: N813 - its own documentation imports it so

    return _register(sitk.FastSymmetricForcesDemonsRegistrationFilter(), fixed, moving, spacing)


def _register(
    demons: Any, fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetStandardDeviations(SMOOTHING)
    # Workers share the cores: SimpleITK must not start more threads than PyTorch does.
    demons.SetNumberOfThreads(torch.get_num_threads())
    # The frames of a cine have one intensity scale. Matching their histograms would change it with the blood's volume.
    return from_simpleitk(demons.Execute(to_simpleitk(fixed, spacing), to_simpleitk(moving, spacing)))


def to_simpleitk(image: Float[Tensor, "z y x"], spacing: Spacing) -> Any:
    """Return an image of SimpleITK whose axes are x, y and z of the stack."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation imports it so

    converted = sitk.GetImageFromArray(image.cpu().numpy())
    converted.SetSpacing(spacing.zyx[::-1])
    return converted


def from_simpleitk(displacement: Any) -> Float[Tensor, "3 z y x"]:
    """Return the displacement in mm of a vector image of SimpleITK, whose components are x, y and z."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation imports it so

    vectors = sitk.GetArrayFromImage(displacement)[..., ::-1].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(vectors, -1, 0)))
