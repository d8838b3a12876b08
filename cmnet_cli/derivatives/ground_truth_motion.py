"""The known motion of a made cine, beside its image."""

import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io.atomic import replacing
from cmnet_core.simulation.cine import SimulatedCine


def ground_truth_motion_path(image: Path) -> Path:
    """Where the known motion of a made cine lies: beside its image."""
    return image.with_name(image.name.removesuffix("_cine.nii.gz") + "_desc-truth_motion.npz")


def write_ground_truth_motion(path: Path, made: SimulatedCine) -> None:
    """Store the motion of every frame into ED in mm, every second voxel of the plane, and what was added to it."""
    fields = np.stack([field.displacement_mm[:, :, ::2, ::2].numpy() for field in made.to_ed])
    with replacing(path) as partial:
        np.savez_compressed(partial, to_ed_mm=fields.astype(np.float16), **asdict(made.tangential))


def read_ground_truth_motion(path: Path, *, size: tuple[int, int]) -> Float[Tensor, "t 3 z y x"]:
    """The motion of every frame into ED in mm on the plane of the image, whose size (y, x) is given.

    Raises:
        ImageError: The file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            half = torch.from_numpy(stored["to_ed_mm"].astype(np.float32))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(
            f"The known motion {path} cannot be read: {error}.",
            hint="Make the cine again with cmnet phantom --from.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error
    return _every_voxel(_every_voxel(half, 3, size[0]), 4, size[1])


def _every_voxel(values: Tensor, axis: int, size: int) -> Tensor:
    """Linear interpolation between every second voxel along an axis; the last value goes on to the border."""
    place = torch.arange(size) / 2.0
    below = place.long().clamp_max(values.shape[axis] - 1)
    above = (below + 1).clamp_max(values.shape[axis] - 1)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    return torch.lerp(values.index_select(axis, below), values.index_select(axis, above), (place - below).view(shape))
