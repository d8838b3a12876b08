"""How far every place of the heart has come since ED, and how sure the networks are of it, for the pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped

from cmnet_cli.derivatives.tracking import read_facts, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_core.imaging.crop import crop_around
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.io.nifti import read_own

# Slices beyond the heart in which its motion is followed as well.
_MARGIN_SLICES = 1


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """The motion of a cycle, in the order of the input's frames.

    Attributes:
        to_ed_mm: By slice of the network's window: from each place at each frame to where its tissue was at ED. Not a
            number far from the heart. None where the steps of the motion were not stored.
        entropy: Of the motion's posterior, in nats, on its own grid.
        entropy_affine: That grid, (z, y, x, 1) to mm.
    """

    to_ed_mm: Mapping[int, Float[np.ndarray, "t 3 y x"]] | None
    entropy: Shaped[np.ndarray, "t z2 y2 x2"]
    entropy_affine: Float64[np.ndarray, "4 4"]


def read_moving(folder: CaseFolder, *, heart: Bool[np.ndarray, "z y x"], levels: tuple[int, ...]) -> Moving:
    """Read the motion of a subject.

    Args:
        folder: The subject's files.
        heart: Where the heart is at ED, on the grid of the network's window.
        levels: Slices of which the displacement is wanted.

    Raises:
        ImageError: A file is missing or damaged.
    """
    entropy, affine = read_own(folder.entropy)
    return Moving(_to_ed_mm(folder, heart, levels) if folder.motion.exists() else None, entropy, affine)


def _to_ed_mm(
    folder: CaseFolder, heart: Bool[np.ndarray, "z y x"], levels: tuple[int, ...]
) -> dict[int, Float[np.ndarray, "t 3 y x"]]:
    facts = read_facts(folder)
    # The whole window would take twice as long and show the same.
    cut = crop_around(torch.from_numpy(heart), 2**facts.motion.output_level)
    first, last = (int(end) for end in np.flatnonzero(heart.any(axis=(1, 2)))[[0, -1]])
    first, last = max(0, first - _MARGIN_SLICES), last + _MARGIN_SLICES
    part = cut.of_velocities(read_velocities(folder.motion))[:, :, first : last + 1]
    to_ed = fields_to_ed(part, facts.window.spacing, ed=facts.ed, sizes=facts.motion)
    carried = {field.fixed: field.displacement_mm for field in to_ed[:-1]}
    placed = {level: torch.full((facts.frames, 3, *heart.shape[1:]), torch.nan) for level in levels}
    for level, whole in placed.items():
        # By definition nothing has moved at ED.
        whole[facts.ed] = 0.0
        for frame, displacement in carried.items():
            cut.of_window(whole)[frame] = displacement[:, level - first]
    return {level: whole.numpy() for level, whole in placed.items()}
