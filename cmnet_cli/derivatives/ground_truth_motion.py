"""The true motion of a simulated cine, stored beside its image."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.derivatives.arrays import open_arrays
from cmnet_core.io.atomic import replacing
from cmnet_core.simulation.cine import SimulatedCine


def write_ground_truth_motion(path: Path, cine: SimulatedCine) -> None:
    """Store the displacement of every frame into ED in mm, at half the in-plane resolution, and its parameters."""
    fields = np.stack([field.displacement_mm[:, :, ::2, ::2].numpy() for field in cine.to_ed])
    with replacing(path) as partial:
        np.savez_compressed(partial, to_ed_mm=fields.astype(np.float16), **asdict(cine.tangential))


def read_ground_truth_motion(path: Path, *, size: tuple[int, int]) -> Float[Tensor, "t 3 z y x"]:
    """Read the displacement of every frame into ED in mm at the image's in-plane resolution.

    Args:
        path: The file that :func:`write_ground_truth_motion` wrote.
        size: Number of voxels of the image along y and x.

    Raises:
        ImageError: The file is damaged.
    """
    hint = "Delete the truth.json beside it and simulate the cine again with cmnet phantom --from."
    with open_arrays(path, content="ground-truth motion", hint=hint) as stored:
        half = torch.from_numpy(stored["to_ed_mm"].astype(np.float32))
    return _at_every_voxel(_at_every_voxel(half, 3, size[0]), 4, size[1])


def _at_every_voxel(values: Tensor, axis: int, size: int) -> Tensor:
    """Interpolate values at every second voxel linearly along an axis; the last value extends to the border."""
    position = torch.arange(size) / 2.0
    below = position.long().clamp_max(values.shape[axis] - 1)
    above = (below + 1).clamp_max(values.shape[axis] - 1)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    return torch.lerp(
        values.index_select(axis, below), values.index_select(axis, above), (position - below).view(shape)
    )
