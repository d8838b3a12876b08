"""A space that all left ventricles share: the same bins for everyone, by place along, around and through the wall.

Two hearts of different size, shape and orientation have a bin in common where they have the same anatomy, so that the
rows of a whole cohort can be compared bin by bin: means, regressions, differences between groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import aha_segment

LEVELS, SECTORS, LAYERS = 6, 24, 3
"""Bins along, around and through the wall. Two levels make a third of the length; sectors of 15° make up those of AHA
segments, the apical ones included, which begin at 15°."""

BINS = LEVELS * SECTORS * LAYERS


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin, and where its middle lies.

    Attributes:
        level: From 0 at the base.
        sector: From 0 at the anterior RV insertion, over the septum.
        layer: From 0 at the endocardium.
        longitudinal: 0 to 1.
        circumferential_deg: In degrees.
        transmural: 0 to 1.
        segment: The AHA segment that it is part of.
    """

    level: int
    sector: int
    layer: int
    longitudinal: float
    circumferential_deg: float
    transmural: float
    segment: int


def bins() -> Iterator[Bin]:
    """All bins, in the order of :func:`bin_of`."""
    for level in range(LEVELS):
        for sector in range(SECTORS):
            along, around = (level + 0.5) / LEVELS, (sector + 0.5) * 360.0 / SECTORS
            segment = int(aha_segment(torch.tensor(along), torch.tensor(around)))
            for layer in range(LAYERS):
                yield Bin(level, sector, layer, along, around, (layer + 0.5) / LAYERS, segment)


def bin_of(
    longitudinal: Float[Tensor, " n"], circumferential_deg: Float[Tensor, " n"], transmural: Float[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Number of the bin of each place; -1 where a coordinate is NaN."""
    unknown = longitudinal.isnan() | circumferential_deg.isnan() | transmural.isnan()
    level = (longitudinal.nan_to_num() * LEVELS).long().clamp(0, LEVELS - 1)
    sector = (circumferential_deg.nan_to_num() / 360.0 * SECTORS).long().clamp(0, SECTORS - 1)
    layer = (transmural.nan_to_num() * LAYERS).long().clamp(0, LAYERS - 1)
    return torch.where(unknown, -1, (level * SECTORS + sector) * LAYERS + layer)


def bin_means(
    values: Float[Tensor, "c n"], number: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "c bins"], Int64[Tensor, " bins"]]:
    """Mean of values over the places of each bin, and how many they are; NaN where there is none.

    Args:
        values: NaN where one is not known; such a place makes its bin unknown.
        number: Bin of each place, or -1.
    """
    inside = number >= 0
    count = torch.bincount(number[inside], minlength=BINS)
    total = torch.zeros(len(values), BINS, dtype=torch.float64).index_add_(
        1, number[inside], values[:, inside].double()
    )
    return total / count, count
