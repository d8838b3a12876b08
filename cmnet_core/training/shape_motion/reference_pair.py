"""Pairs of reference masks as the shape motion network is trained on them: canonical orientation, a window, views.

The canonical orientation has the base last and the RV towards low x. Masks are resampled once, to a window of 1.5 mm
around the heart; the network's label maps are those of 3 mm, and the warped masks are compared at 1.5 mm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.preprocess import Window, extract_labels
from cmnet_core.labels import Label
from cmnet_core.models.shape_motion_net import PIXEL_MM
from cmnet_core.training.training_case import require_structures
from cmnet_core.types import Spacing

FINE_MM = 0.5 * PIXEL_MM
"""In-plane voxel size at which warped masks are compared, in mm."""

MIN_VIEW_SLICES = 6
"""Number of slices that are left when slices at the ends of a stack are dropped."""

MIN_LABELLED_VOXELS = 20.0
"""Number of labelled voxels of 1.5 mm from which a slice counts as contoured."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePair:
    """Reference masks of ED and ES in canonical orientation.

    Attributes:
        labels: Label maps at ED and ES in voxels of 1.5 mm.
        segmented: One or more segmentations of the same frames in the same voxels, as class probabilities; the first
            is that of the images as they are. None without SegNet.
        slice_mm: Distance between slices in mm.
    """

    labels: UInt8[Tensor, "2 z y x"]
    segmented: Float[Tensor, "n 2 4 z y x"] | None
    slice_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class PairView:
    """A view of a pair of reference masks.

    Attributes:
        probabilities: Class probabilities at ED and ES in voxels of 1.5 mm, of the reference masks.
        segmented: The same of SegNet, or None.
        slice_mm: Distance between slices in mm.
        labelled: First and last contoured slice at ED and at ES.
    """

    probabilities: Float[Tensor, "2 4 z y x"]
    segmented: Float[Tensor, "2 4 z y x"] | None
    slice_mm: float
    labelled: tuple[tuple[int, int], tuple[int, int]]

    @property
    def shapes(self) -> Float[Tensor, "2 3 z yh xh"]:
        """Label maps of LV, myocardium and RV in voxels of 3 mm by the reference masks, as the network takes them."""
        return _network_input(self.probabilities)

    @property
    def segmented_shapes(self) -> Float[Tensor, "2 3 z yh xh"]:
        """The same by SegNet, or by the reference masks where SegNet has not segmented the pair."""
        return _network_input(self.probabilities if self.segmented is None else self.segmented)

    def to(self, device: torch.device) -> "PairView":
        """Copy the view to a device."""
        segmented = None if self.segmented is None else self.segmented.to(device)
        return PairView(self.probabilities.to(device), segmented, self.slice_mm, self.labelled)


def _network_input(probabilities: Float[Tensor, "2 4 z y x"]) -> Float[Tensor, "2 3 z yh xh"]:
    coarse: Tensor = functional.avg_pool2d(probabilities[:, Label.LV :].flatten(0, 1), 2)
    return torch.unflatten(coarse, 0, (2, 3))


def reference_pair(
    ed: UInt8[Tensor, "z y x"],
    es: UInt8[Tensor, "z y x"],
    spacing: Spacing,
    *,
    window: int,
    segment_in: Callable[[Window], Float[Tensor, "n 2 4 z yw xw"]] | None = None,
) -> ReferencePair:
    """Bring reference masks to the window of the network and to the canonical orientation.

    Args:
        ed: Label map at ED on its own grid.
        es: Label map at ES on the same grid.
        spacing: Voxel spacing of the grid in mm.
        window: Size of the window along y and x, in voxels of 3 mm.
        segment_in: Returns one or more segmentations of ED and ES in a window, as class probabilities; None without
            SegNet.

    Raises:
        LabelError: A mask lacks a structure.
    """
    for phase, mask in (("ED", ed), ("ES", es)):
        require_structures(mask[None], f"The mask at {phase} lacks")
    heart = (ed != Label.BACKGROUND).any(0)
    middle = [
        (0.5 * (where[0] + where[-1])).item() for where in (heart.any(1).nonzero()[:, 0], heart.any(0).nonzero()[:, 0])
    ]
    count = round(window * PIXEL_MM / FINE_MM)
    origin = [centre * mm - 0.5 * (count - 1) * FINE_MM for centre, mm in zip(middle, spacing.zyx[1:], strict=True)]
    depth, rows, columns = ed.shape
    target = Window(
        source_shape=(depth, rows, columns),
        source_spacing=spacing,
        spacing=Spacing(spacing.z, FINE_MM, FINE_MM),
        origin_mm=(origin[0], origin[1]),
        size=(count, count),
    )
    maps = extract_labels(torch.stack([ed, es]), target)
    turns, reverse_slices = canonical_orientation(maps[0])
    segmented = None if segment_in is None else segment_in(target)

    def canonical(values: Tensor) -> Tensor:
        turned = torch.rot90(values, turns, (-2, -1))
        return (turned.flip(-3) if reverse_slices else turned).contiguous()

    return ReferencePair(canonical(maps), None if segmented is None else canonical(segmented), spacing.z)


def canonical_orientation(ed: UInt8[Tensor, "z y x"]) -> tuple[int, bool]:
    """Determine the quarter turns that bring the RV towards low x, and whether the first slice is the basal one.

    The RV's direction is that of its centre from the LV's. The base is at the end where the blood pools are larger.
    """
    lv, rv = (ed == Label.LV) | (ed == Label.MYO), ed == Label.RV
    dy, dx = (rv.nonzero().float().mean(0) - lv.nonzero().float().mean(0))[1:].tolist()
    # torch.rot90 by one turn takes the direction (y, x) = (0, 1) to (-1, 0).
    turns = (2 if dx > 0 else 0) if abs(dx) >= abs(dy) else (3 if dy > 0 else 1)
    areas = ((ed == Label.LV) | rv).sum((1, 2)).float()
    index = torch.arange(len(areas), dtype=torch.float32)
    return turns, bool((areas * (index - index[areas > 0].mean())).sum() < 0)


def straight_view(pair: ReferencePair) -> PairView:
    """Return the masks as they are."""
    one_hot = functional.one_hot(pair.labels.long(), len(Label)).movedim(-1, 1).float()
    return _view(one_hot, None if pair.segmented is None else pair.segmented[0], pair.slice_mm)


def draw_pair_view(pair: ReferencePair, generator: torch.Generator) -> PairView:
    """Choose a segmentation, mirror, rotate, scale and shift it and the masks, stretch the stack, drop end slices.

    One phase may be given twice.

    Args:
        pair: The masks.
        generator: Draws the view.
    """
    draw = torch.rand(13, generator=generator).tolist()
    both = straight_view(pair).probabilities[None]
    if pair.segmented is not None:
        both = torch.cat([both, pair.segmented[None, int(draw[12] * len(pair.segmented))]])
    if draw[0] < 0.5:
        both = both.flip(-2)
    if draw[1] < 0.7:
        angle, scale_y, scale_x = math.radians(50.0 * (draw[2] - 0.5)), 0.85 + 0.3 * draw[3], 0.85 + 0.3 * draw[4]
        c, s = math.cos(angle), math.sin(angle)
        matrix = torch.tensor(
            [
                [c / scale_x, -s / scale_x, 0.1 * (draw[5] - 0.5)],
                [s / scale_y, c / scale_y, 0.1 * (draw[6] - 0.5)],
            ]
        )
        both = torch.unflatten(_transformed(both.flatten(0, 1), matrix), 0, (-1, 2))
    first, end = int(draw[8] < 0.1), both.shape[-3] - int(draw[9] < 0.1)
    if end - first >= MIN_VIEW_SLICES:
        both = both[..., first:end, :, :]
    if draw[10] < 0.05:
        phase = int(draw[11] < 0.5)
        both = both[:, [phase, phase]]
    reference, *segmented = both.contiguous()
    return _view(reference, segmented[0] if segmented else None, pair.slice_mm * (0.9 + 0.2 * draw[7]))


def _transformed(probabilities: Float[Tensor, "n 4 z y x"], matrix: Float[Tensor, "2 3"]) -> Float[Tensor, "n 4 z y x"]:
    """Resample all slices by an in-plane affine map; outside the window is background."""
    slices = probabilities.movedim(2, 1).flatten(0, 1)
    grid = functional.affine_grid(matrix.expand(len(slices), -1, -1), list(slices.shape), align_corners=False)
    slices = functional.grid_sample(slices, grid, align_corners=False)
    background = slices[:, :1] + (1.0 - slices.sum(1, keepdim=True))
    return torch.unflatten(torch.cat([background, slices[:, 1:]], dim=1), 0, (len(probabilities), -1)).movedim(2, 1)


def _view(
    probabilities: Float[Tensor, "2 4 z y x"], segmented: Float[Tensor, "2 4 z y x"] | None, slice_mm: float
) -> PairView:
    ends = []
    for phase in probabilities:
        contoured = (phase[Label.LV :].sum((0, 2, 3)) > MIN_LABELLED_VOXELS).nonzero()[:, 0].tolist()
        ends.append((contoured[0], contoured[-1]) if contoured else (0, int(probabilities.shape[2]) - 1))
    return PairView(probabilities, segmented, slice_mm, (ends[0], ends[1]))


def imitate_segmentation_errors(
    shapes: Float[Tensor, "2 3 z y x"], generator: torch.Generator, *, probability: float
) -> Float[Tensor, "2 3 z y x"]:
    """Displace and soften the edges of label maps smoothly with some probability, as a segmentation network does.

    Args:
        shapes: Label maps in voxels of 3 mm.
        generator: Draws the errors, independently for each slice and phase.
        probability: Probability that there are errors.
    """
    if float(torch.rand((), generator=generator)) >= probability:
        return shapes
    depth, rows, columns = shapes.shape[2:]
    sd_voxels = 0.8 * float(torch.rand((), generator=generator)) / PIXEL_MM
    coarse = torch.randn(2 * depth, 2, 7, 7, generator=generator)
    shift = functional.interpolate(coarse, size=(rows, columns), mode="bicubic") * sd_voxels
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    grid = torch.stack([2 * (x + shift[:, 1] + 0.5) / columns - 1, 2 * (y + shift[:, 0] + 0.5) / rows - 1], dim=-1)
    slices = functional.grid_sample(shapes.movedim(2, 1).flatten(0, 1), grid, align_corners=False)
    return torch.unflatten(slices, 0, (2, -1)).movedim(2, 1).contiguous()
