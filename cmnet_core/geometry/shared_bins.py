"""Bins of the LV wall that all ventricles share, by longitudinal, circumferential and transmural coordinate.

Ventricles of different size, shape and orientation have the same anatomy in the same bin, so that the rows of a cohort
can be compared bin by bin: means, regressions, differences between groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import aha_segment

LEVELS, SECTORS, LAYERS = 6, 24, 3
"""Number of bins along, around and through the wall. Two levels are a third of the length, and sectors of 15° add up to
the AHA segments, including the apical ones, which begin at 15°."""

BINS = LEVELS * SECTORS * LAYERS


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin, and the coordinates of its centre.

    Attributes:
        level: Index along the wall, 0 at the base.
        sector: Index around it, 0 from 60° before the middle of the septum, increasing over the septum.
        layer: Index through it, 0 at the endocardium.
        longitudinal: Longitudinal coordinate of the centre, 0 to 1.
        circumferential_deg: Circumferential coordinate of the centre in degrees.
        transmural: Transmural coordinate of the centre, 0 to 1.
        segment: AHA segment that contains the bin.
    """

    level: int
    sector: int
    layer: int
    longitudinal: float
    circumferential_deg: float
    transmural: float
    segment: int


def bins() -> Iterator[Bin]:
    """Yield all bins, in the order of :func:`bin_of`."""
    for level in range(LEVELS):
        for sector in range(SECTORS):
            along, around = (level + 0.5) / LEVELS, (sector + 0.5) * 360.0 / SECTORS
            segment = int(aha_segment(torch.tensor(along), torch.tensor(around)))
            for layer in range(LAYERS):
                yield Bin(level, sector, layer, along, around, (layer + 0.5) / LAYERS, segment)


def bin_of(
    longitudinal: Float[Tensor, " n"], circumferential_deg: Float[Tensor, " n"], transmural: Float[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Compute the index of the bin of each position; -1 where a coordinate is NaN.

    Args:
        longitudinal: 0 at the base to 1 at the tip of the cavity.
        circumferential_deg: Angle in degrees, 60 in the middle of the septum.
        transmural: 0 at the endocardium to 1 at the epicardium.
    """
    unknown = longitudinal.isnan() | circumferential_deg.isnan() | transmural.isnan()
    level = (longitudinal.nan_to_num() * LEVELS).long().clamp(0, LEVELS - 1)
    sector = (circumferential_deg.nan_to_num() / 360.0 * SECTORS).long().clamp(0, SECTORS - 1)
    layer = (transmural.nan_to_num() * LAYERS).long().clamp(0, LAYERS - 1)
    return torch.where(unknown, -1, (level * SECTORS + sector) * LAYERS + layer)


def bin_means(
    values: Float[Tensor, "c n"], index: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "c bins"], Int64[Tensor, " bins"]]:
    """Compute the mean of values over the positions in each bin, NaN in an empty bin, and the number of positions.

    Args:
        values: Values at each position; a NaN makes its whole bin NaN.
        index: Index of the bin of each position, or -1.
    """
    binned = index >= 0
    count = torch.bincount(index[binned], minlength=BINS)
    total = torch.zeros(len(values), BINS, dtype=torch.float64)
    total.index_add_(1, index[binned], values[:, binned].double())
    return total / count, count
