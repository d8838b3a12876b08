"""95 % intervals of the indices and of the segments, from draws of the posterior that infer stored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cmnet_cli.derivatives.posterior import read_posterior
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_cli.stages.mechanics import (
    global_strain_columns,
    segment_strain_columns,
    segment_thickness_columns,
    thickness_columns,
)
from cmnet_core.flags import QCFlag
from cmnet_core.geometry.lv_coordinates import lv_coordinates
from cmnet_core.geometry.wall_thickness import wall_thickness
from cmnet_core.imaging.crop import crop_around
from cmnet_core.imaging.preprocess import window_affine
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.io.orientation import StackOrientation, standard_orientation
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import summarise_lines, summarise_strain
from cmnet_core.mechanics.lagrangian import follow_material
from cmnet_core.mechanics.line_strain import line_strain
from cmnet_core.mechanics.strain import WallVoxels, deform, engineering_strain, mean_strain
from cmnet_core.mechanics.strain_curves import Timing
from cmnet_core.mechanics.strain_operator import WallStrains, strain_operator
from cmnet_core.types import Spacing
from cmnet_core.uncertainty.calibration import Calibration, find_calibration, intervals, spread
from cmnet_core.uncertainty.posterior import (
    POOLING_FACTOR,
    Posterior,
    draw_shapes,
    draw_velocities,
    indices_of_shapes,
)

Row = dict[str, Any]

_SQUARINGS = 3
"""Squarings of a drawn velocity: a spread does not need motion to a hundredth of a voxel, and this halves the cost."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How intervals are drawn.

    Attributes:
        samples: Number of draws; 0 for no intervals.
        seed: Seed of the draws. Every subject starts from it, whichever other subjects are in the cohort.
    """

    samples: int
    seed: int

    def generator(self) -> torch.Generator:
        """Return a generator in its initial state."""
        return torch.Generator().manual_seed(self.seed)


def add_intervals(
    row: Row,
    segments: Sequence[Row],
    folder: CaseFolder,
    stored: StoredTracking,
    labels_ed: UInt8[Tensor, "z y x"],
    voxels: WallVoxels | None,
    draws: SamplingSettings,
) -> tuple[Row, list[Row]]:
    """Add intervals to the rows of a case and of its segments, or the reason why there are none.

    Args:
        row: Row of the case.
        segments: Rows of its segments.
        folder: Files of the case.
        stored: What infer stored of it.
        labels_ed: Label map at ED on the window's grid.
        voxels: Voxels of the wall, or None where no motion of the wall is reported.
        draws: Number and seed of the draws.

    Raises:
        ImageError: The stored posterior is damaged.
    """
    if not draws.samples or not folder.posterior.exists():
        reason = QCFlag.POSTERIOR_NOT_STORED if draws.samples else QCFlag.NO_SAMPLES
        return _flagged(row, reason), [_flagged(segment, reason) for segment in segments]
    posterior = read_posterior(folder.posterior)
    sidecar = read_sidecar(folder.sidecar("infer"))
    calibration = find_calibration(sidecar.model_digest) if sidecar else None
    sources = [_draw_shape_columns(stored, posterior, draws)]
    if voxels is not None:
        sources.append(_draw_motion_columns(folder, stored, labels_ed, voxels, posterior, draws))
    whole, parts = dict(row), [dict(segment) for segment in segments]
    for source in sources:
        drawn = list(islice(source, draws.samples))
        whole |= _ends(row, [case for case, _ in drawn], row, calibration)
        for number, part in enumerate(parts):
            part |= _ends(segments[number], [rows[number] for _, rows in drawn], row, calibration)
    return (whole if calibration else _flagged(whole, QCFlag.INTERVALS_NOT_CALIBRATED)), parts


def _flagged(row: Row, reason: str) -> Row:
    return row | {"qc_flags": [*row["qc_flags"], reason]}


def _ends(values: Row, drawn: Sequence[Row], case: Row, calibration: Calibration | None) -> Row:
    """Both ends of the interval of every value that was drawn."""
    if case["frame_ms"] is None:
        return intervals(values, spread(drawn), calibration)
    cycle_ms = case["frames"] * case["frame_ms"]
    return intervals(values, spread(drawn), calibration, frame_ms=case["frame_ms"], cycle_ms=cycle_ms)


def _draw_shape_columns(
    stored: StoredTracking, posterior: Posterior, draws: SamplingSettings
) -> Iterator[tuple[Row, list[Row]]]:
    """Indices and wall thickness of label maps at ED and ES drawn from SegNet's posterior."""
    window, orientation = stored.facts.window, _orientation(stored)
    affine = orientation.orient_affine(window_affine(stored.affine, window), window.shape)
    posterior = posterior.oriented(orientation)
    for phases in draw_shapes(posterior, window.spacing, draws.generator()):
        function = asdict(indices_of_shapes(phases, window.spacing))
        del function["flags"]
        heart = crop_around((phases > 0).any(0), 1).of_window(phases)
        ed, es = (wall_thickness(lv_coordinates(labels, window.spacing, affine)) for labels in heart)
        yield function | thickness_columns(ed.whole_mm, es.whole_mm), segment_thickness_columns(ed, es)


def _orientation(stored: StoredTracking) -> StackOrientation:
    """Orientation in which noise is drawn: the draws of a heart do not depend on how its image is stored."""
    return standard_orientation(stored.affine, stored.facts.flags)


def _draw_motion_columns(
    folder: CaseFolder,
    stored: StoredTracking,
    labels_ed: UInt8[Tensor, "z y x"],
    voxels: WallVoxels,
    posterior: Posterior,
    draws: SamplingSettings,
) -> Iterator[tuple[Row, list[Row]]]:
    """Strain by motions drawn from the motion network's posterior, of the wall that is reported."""
    facts = stored.facts
    factor = 2**facts.motion.output_level
    spacing = facts.window.spacing
    grid = Spacing(spacing.z, spacing.y * factor, spacing.x * factor)
    timing = Timing(facts.ed, facts.es, facts.frame_ms)
    orientation = _orientation(stored)
    myocardium = labels_ed == Label.MYO
    # Motion is drawn near the wall alone, in whole voxels of the pooled posterior.
    pooled = crop_around(myocardium, factor * POOLING_FACTOR)
    crop = pooled.refined(POOLING_FACTOR)
    stored_mean = crop.of_velocities(read_velocities(folder.motion))
    size = (int(stored_mean.shape[-2]), int(stored_mean.shape[-1]))
    strains = _strains_by(voxels, crop.of_window(myocardium), facts, size=size)
    mean = orientation.orient_vectors(stored_mean, 1)
    near = replace(
        posterior, log_sd=pooled.of_velocities(posterior.log_sd), factor=pooled.of_velocities(posterior.factor)
    ).oriented(orientation)
    generator = draws.generator()
    while True:
        velocities = orientation.restore_vectors(draw_velocities(mean, near, grid, generator), 1)
        drawn = strains(velocities)
        green, engineering = (summarise_strain(one, timing) for one in (drawn.green, drawn.engineering))
        lines = summarise_lines(drawn.lines, timing)
        yield global_strain_columns(lines, engineering, green), segment_strain_columns(engineering, green)


def _strains_by(
    voxels: WallVoxels, myocardium: Bool[Tensor, "z y x"], facts: TrackingFacts, *, size: tuple[int, int]
) -> Callable[[Float[Tensor, "t 3 z yh xh"]], WallStrains]:
    """The strain of a wall as a function of velocities on a grid of so many rows and columns."""
    spacing, ed = facts.window.spacing, facts.ed
    if facts.motion.ed_referenced and facts.motion.integration_steps:
        operator = strain_operator(voxels, myocardium, spacing, size=size)
        return lambda velocities: operator.strains(velocities, ed=ed)
    sizes = replace(facts.motion, integration_steps=min(facts.motion.integration_steps, _SQUARINGS))

    def by_composed_fields(velocities: Float[Tensor, "t 3 z yh xh"]) -> WallStrains:
        motion = follow_material(fields_to_ed(velocities, spacing, ed=ed, sizes=sizes), myocardium)
        deformation = deform(voxels, motion)
        return WallStrains(
            mean_strain(voxels, deformation.strain),
            mean_strain(voxels, engineering_strain(deformation.strain)),
            line_strain(voxels, motion, deformation),
        )

    return by_composed_fields
