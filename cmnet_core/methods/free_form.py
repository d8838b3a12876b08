"""Free-form deformation by B-splines with elastix.

Rueckert et al., IEEE TMI 18 (1999) 712; Klein et al., IEEE TMI 29 (2010) 196.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.errors import CaseError, ErrorCode
from cmnet_core.types import Spacing

_PROGRAM = "cmnet_core.methods.elastix_program"


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images, in a process of its own.

    The libraries of other methods contain other versions of ITK, and Python crashes if it loads elastix after them.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.

    Raises:
        CaseError: elastix has failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "fixed.npy", fixed.cpu().numpy())
        np.save(folder / "moving.npy", moving.cpu().numpy())
        arguments = [str(folder), *map(str, spacing.zyx), str(torch.get_num_threads())]
        done = subprocess.run([sys.executable, "-m", _PROGRAM, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise CaseError(
                f"elastix ended with the exit code {done.returncode}: {lines[-1] if lines else 'it says nothing'}",
                hint="Check the installation of itk-elastix, or leave the method ffd out.",
                code=ErrorCode.TOOL,
            )
        return torch.from_numpy(np.load(folder / "displacement.npy"))
