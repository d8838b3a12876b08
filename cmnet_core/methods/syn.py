"""SyN, symmetric diffeomorphic normalisation by ANTsPy (Avants et al., Medical Image Analysis 12 (2008) 26)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.methods.thin_stacks import pad_slices
from cmnet_core.types import Spacing

ITERATIONS = (40, 20, 10)
"""Largest number of iterations at each level of the pyramid, the coarsest first."""

RADIUS, BINS = 4, 32
"""Radius of the window of the local cross-correlation in voxels, and number of bins of mutual information."""


def register_cross_correlation(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images by SyN with the local cross-correlation.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    return _register(fixed, moving, spacing, metric="CC", sampling=RADIUS)


def register_mutual_information(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images by SyN with the mutual information of Mattes.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    return _register(fixed, moving, spacing, metric="mattes", sampling=BINS)


def _register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing, *, metric: str, sampling: int
) -> Float[Tensor, "3 z y x"]:
    # ITK reads it when it starts its threads; workers share the cores.
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(torch.get_num_threads()))
    import ants

    (target, own), (source, _) = pad_slices(fixed), pad_slices(moving)
    found = ants.registration(
        _to_ants(target, spacing),
        _to_ants(source, spacing),
        type_of_transform="SyNOnly",
        initial_transform="identity",
        syn_metric=metric,
        syn_sampling=sampling,
        reg_iterations=ITERATIONS,
        random_seed=1,
    )
    try:
        [warp] = [path for path in found["fwdtransforms"] if path.endswith(".nii.gz")]
        return _displacement(ants.image_read(warp))[:, own]
    finally:
        for path in {*found["fwdtransforms"], *found["invtransforms"]}:
            Path(path).unlink(missing_ok=True)


def _to_ants(image: Float[Tensor, "z y x"], spacing: Spacing) -> Any:
    import ants

    # ANTs orders axes x, y, z; without a direction of its own, the image's axes are those of its millimetres.
    return ants.from_numpy(np.ascontiguousarray(image.cpu().numpy().T), spacing=spacing.zyx[::-1])


def _displacement(warp: Any) -> Float[Tensor, "3 z y x"]:
    """Return the displacement in mm of a warp of ANTs with shape (x, y, z, 3) and components x, y, z."""
    vectors = warp.numpy().transpose(3, 2, 1, 0)[::-1].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(vectors))
