"""A pair of simulated label maps, ED and a later frame, with the exact motion between them: start here."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.phantom.shape import Points
from cmnet_core.simulation.label_maps.anatomy import Anatomy, draw_anatomy, surfaces, tissue_at
from cmnet_core.simulation.label_maps.beat import Beat, draw_beat
from cmnet_core.simulation.label_maps.contouring import contour, draw_habits
from cmnet_core.simulation.label_maps.kinematics import HeartMotion
from cmnet_core.simulation.label_maps.random_draws import RandomDraws
from cmnet_core.simulation.label_maps.stack import StackGeometry, draw_stack, heart_axes, voxels_in_heart

LVEF_RANGE_PCT = (10.0, 80.0)
"""Range from which the ejection fraction is drawn; it is wider than in patients, with equal probability everywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedPair:
    """Two label maps and the motion that connects them, in voxels of 3 mm.

    Attributes:
        shapes: Fractions of LV, myocardium and RV at ED and at the frame, as a reader contours them.
        to_ed_mm: Displacement on the grid of the frame, pointing into ED.
        from_ed_mm: Displacement on the grid of ED, pointing into the frame.
        tissue: Where the LV's wall, the RV's and the LV's blood pool truly are, at ED and at the frame.
        slice_mm: Distance between slices.
    """

    shapes: Float[Tensor, "2 3 z y x"]
    to_ed_mm: Float[Tensor, "3 z y x"]
    from_ed_mm: Float[Tensor, "3 z y x"]
    tissue: Bool[Tensor, "2 3 z y x"]
    slice_mm: float


def draw_pair(generator: torch.Generator, *, size: int) -> SimulatedPair:
    """Draw an anatomy, its motion and acquisition, and what a reader makes of it.

    Args:
        generator: Source of all randomness.
        size: Voxels of the window along y and x.
    """
    draws = RandomDraws(generator)
    lvef_pct = draws.uniform(*LVEF_RANGE_PCT)
    anatomy = draw_anatomy(draws, lvef_pct=lvef_pct)
    beat = draw_beat(draws, anatomy, lvef_pct=lvef_pct)
    stack = draw_stack(draws, anatomy, size=size)
    return simulate_pair(draws, anatomy, beat, stack)


@torch.no_grad()
def simulate_pair(draws: RandomDraws, anatomy: Anatomy, beat: Beat, stack: StackGeometry) -> SimulatedPair:
    """Simulate the label maps and the motion of given parameters; only the reader is drawn.

    Args:
        draws: Source of the contouring's randomness.
        anatomy: The anatomy at ED.
        beat: The motion to the frame.
        stack: The acquisition geometry.
    """
    motion = HeartMotion(anatomy, beat)
    voxels = voxels_in_heart(stack, anatomy)
    material, radius_at_frame, surfaces_at_frame = motion.inverse(voxels)
    surfaces_at_ed = surfaces(anatomy, voxels)
    radius_at_ed = (voxels.x * voxels.x + voxels.y * voxels.y).clamp_min(1e-6).sqrt()
    ed_habit, frame_habit = draw_habits(draws)
    at_ed = contour(draws, ed_habit, anatomy, voxels, radius_at_ed, surfaces_at_ed, None)
    at_frame = contour(draws, frame_habit, anatomy, material, radius_at_frame, surfaces_at_frame, at_ed)
    axes = heart_axes(stack)
    return SimulatedPair(
        shapes=torch.stack([at_ed, at_frame]),
        to_ed_mm=_displacement_mm(voxels, material, axes),
        from_ed_mm=_displacement_mm(voxels, motion.forward(voxels), axes),
        tissue=torch.stack(
            [
                tissue_at(anatomy, voxels.s, radius_at_ed, surfaces_at_ed),
                tissue_at(anatomy, material.s, radius_at_frame, surfaces_at_frame),
            ]
        ),
        slice_mm=stack.slice_mm,
    )


def _displacement_mm(start: Points, end: Points, axes: Float[Tensor, "3 3"]) -> Float[Tensor, "3 z y x"]:
    """Return the displacement between points of the heart along the image's axes, in mm."""
    return torch.einsum("ij,izyx->jzyx", axes, torch.stack(end) - torch.stack(start))
