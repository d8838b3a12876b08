"""How far every place of the heart has come since ED, and how sure the networks are of it, for the pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from cmnet_cli.layout import CaseFolder
from cmnet_cli.stages.stored import TrackingFacts, read_facts, read_velocities
from cmnet_core.inference import step_fields
from cmnet_core.io.nifti import read_own
from cmnet_core.motion import chain

# How far around the heart its motion is followed, in voxels of the velocities' grid: nothing in the heart was ever
# outside.
_MARGIN_VOXELS, _MARGIN_SLICES = 8, 2

Block = tuple[slice, slice, slice]


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


def read_moving(folder: CaseFolder, *, heart: Block, levels: tuple[int, ...]) -> Moving:
    """Read the motion of a subject.

    Args:
        folder: The subject's files.
        heart: The block of the network's window that holds the heart at ED.
        levels: Slices of which the displacement is wanted.

    Raises:
        ImageError: A file is missing or damaged.
    """
    entropy, affine = read_own(folder.entropy)
    return Moving(_to_ed_mm(folder, heart, levels) if folder.motion.exists() else None, entropy, affine)


def _to_ed_mm(folder: CaseFolder, heart: Block, levels: tuple[int, ...]) -> dict[int, Float[np.ndarray, "t 3 y x"]]:
    facts = read_facts(folder)
    velocities = read_velocities(folder.motion)
    factor = 2**facts.motion.finest
    sizes = (velocities.shape[2], velocities.shape[3], velocities.shape[4])
    block = _around(heart, factor, sizes)
    # The whole window would take twice as long and show the same.
    part = velocities[:, :, block[0], block[1], block[2]]
    steps = step_fields(part, facts.window.spacing, ed=facts.ed, sizes=facts.motion)
    carried = {field.fixed: field.displacement_mm for field in chain(steps[:-1])}
    window = (3, sizes[1] * factor, sizes[2] * factor)
    return {level: _placed(carried, facts, level, block, window) for level in levels}


def _around(heart: Block, factor: int, sizes: tuple[int, int, int]) -> Block:
    """The block of the velocities' grid in which the heart moves."""
    depth, rows, columns = heart
    grown = [slice(max(0, depth.start - _MARGIN_SLICES), min(sizes[0], depth.stop + _MARGIN_SLICES))]
    for side, size in ((rows, sizes[1]), (columns, sizes[2])):
        first, last = side.start // factor - _MARGIN_VOXELS, -(-side.stop // factor) + _MARGIN_VOXELS
        grown.append(slice(max(0, first), min(size, last)))
    return grown[0], grown[1], grown[2]


def _placed(
    carried: Mapping[int, Tensor], facts: TrackingFacts, level: int, block: Block, window: tuple[int, int, int]
) -> Float[np.ndarray, "t 3 y x"]:
    """One slice of the window at every frame; at ED by definition nothing has moved."""
    factor = 2**facts.motion.finest
    rows, columns = (slice(side.start * factor, side.stop * factor) for side in block[1:])
    placed = torch.full((facts.frames, *window), torch.nan)
    placed[facts.ed] = 0.0
    for frame, displacement in carried.items():
        placed[frame, :, rows, columns] = displacement[:, level - block[0].start]
    return placed.numpy()
