"""Displacement from ED and posterior entropy of a subject, as the slices on its page show them."""

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

# Number of slices beyond the heart, at either end, for which the displacement is computed.
_MARGIN_SLICES = 1


@dataclass(frozen=True, slots=True, eq=False)
class DisplacementView:
    """The motion over a cycle, in the order of the input's frames.

    Attributes:
        to_ed_mm: By slice of the network's window: displacement in mm from each position at each frame to the
            position of the same tissue at ED; NaN far from the heart. None where the velocity fields were not stored.
        entropy: Entropy of the motion's posterior in nats, on its own grid; None for a method without a posterior.
        entropy_affine: Affine of that grid, (z, y, x, 1) to mm.
    """

    to_ed_mm: Mapping[int, Float[np.ndarray, "t 3 y x"]] | None
    entropy: Shaped[np.ndarray, "t z2 y2 x2"] | None
    entropy_affine: Float64[np.ndarray, "4 4"] | None


def read_displacement_view(
    folder: CaseFolder, *, heart: Bool[np.ndarray, "z y x"], slices: tuple[int, ...]
) -> DisplacementView:
    """Read the motion of a subject.

    Args:
        folder: The subject's files.
        heart: Mask of the heart at ED, on the grid of the network's window.
        slices: Slices for which the displacement is computed.

    Raises:
        ImageError: A file is missing or damaged.
    """
    entropy, affine = read_own(folder.entropy) if read_facts(folder).has_entropy else (None, None)
    return DisplacementView(_to_ed_mm(folder, heart, slices) if folder.motion.exists() else None, entropy, affine)


def _to_ed_mm(
    folder: CaseFolder, heart: Bool[np.ndarray, "z y x"], slices: tuple[int, ...]
) -> dict[int, Float[np.ndarray, "t 3 y x"]]:
    facts = read_facts(folder)
    # The whole window would take twice as long and show the same.
    crop = crop_around(torch.from_numpy(heart), 2**facts.motion.output_level)
    first, last = (int(end) for end in np.flatnonzero(heart.any(axis=(1, 2)))[[0, -1]])
    first, last = max(0, first - _MARGIN_SLICES), last + _MARGIN_SLICES
    velocities = crop.of_velocities(read_velocities(folder.motion))[:, :, first : last + 1]
    to_ed = fields_to_ed(velocities, facts.window.spacing, ed=facts.ed, sizes=facts.motion)
    by_frame = {field.fixed: field.displacement_mm for field in to_ed[:-1]}
    by_slice = {number: torch.full((facts.frames, 3, *heart.shape[1:]), torch.nan) for number in slices}
    for number, whole in by_slice.items():
        # By definition the displacement is zero at ED.
        whole[facts.ed] = 0.0
        for frame, displacement in by_frame.items():
            crop.of_window(whole)[frame] = displacement[:, number - first]
    return {number: whole.numpy() for number, whole in by_slice.items()}
