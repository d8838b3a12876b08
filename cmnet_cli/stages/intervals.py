"""95 % intervals of the indices and segments, from what infer stored of the networks' doubt."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch

from cmnet_cli.derivatives.crop import crop_around
from cmnet_cli.derivatives.posterior import read_posterior
from cmnet_cli.derivatives.tracking import StoredTracking, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_cli.stages.mechanics import (
    Walls,
    global_strains,
    lay_out,
    mechanics_of,
    segment_values,
    thickness_values,
    timing_of,
    walls_of,
)
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.types import Spacing
from cmnet_core.uncertainty.calibration import Calibration, find_calibration, intervals, spread
from cmnet_core.uncertainty.posterior import Posterior, draw_shapes, draw_velocities, indices_of_shapes

Row = dict[str, Any]

_SQUARINGS = 3
"""Of a velocity that is drawn: a spread needs no motion to a hundredth of a voxel, and this halves its cost."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How intervals are drawn.

    Attributes:
        samples: How many draws; 0 for no intervals.
        seed: What they start from; every subject starts from it, whoever else is in the cohort.
    """

    samples: int
    seed: int

    def generator(self) -> torch.Generator:
        """A generator at its start."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What intervals are drawn for.

    Attributes:
        folder: The case.
        stored: What infer stored of it.
        walls: Its wall.
        has_wall: Whether something is said of the wall.
    """

    folder: CaseFolder
    stored: StoredTracking
    walls: Walls
    has_wall: bool


def with_intervals(row: Row, segments: Sequence[Row], of: Drawing, draws: SamplingSettings) -> tuple[Row, list[Row]]:
    """The rows of a case and of its segments with their intervals, or with the reason why there are none.

    Raises:
        ImageError: The stored posterior is damaged.
    """
    if not draws.samples or not of.folder.posterior.exists():
        reason = "posterior-not-stored" if draws.samples else "no-samples"
        return _flagged(row, reason), [_flagged(segment, reason) for segment in segments]
    posterior = read_posterior(of.folder.posterior)
    sidecar = read_sidecar(of.folder.sidecar("infer"))
    calibration = find_calibration(sidecar.model_digest) if sidecar else None
    found = [(row, segments)]
    for drawn in (_shape_draws(of, posterior, draws), _motion_draws(of, posterior, draws)):
        listed = list(islice(drawn, draws.samples))
        found.append(_ends(row, segments, listed, calibration))
    whole, parts = zip(*found, strict=True)
    merged = [_merged(pieces) for pieces in zip(*parts, strict=True)]
    return (_merged(whole) if calibration else _flagged(_merged(whole), "intervals-not-calibrated")), merged


def _flagged(row: Row, reason: str) -> Row:
    return row | {"qc_flags": [*row["qc_flags"], reason]}


def _merged(rows: Sequence[Row]) -> Row:
    return {name: value for row in rows for name, value in row.items()}


_Draw = tuple[Row, list[Row]]


def _ends(row: Row, segments: Sequence[Row], drawn: Sequence[_Draw], calibration: Calibration | None) -> _Draw:
    """Both ends of everything that was drawn, for the case and for each segment."""
    known = row["frame_ms"] is not None
    times = {"frame_ms": row["frame_ms"], "cycle_ms": row["frames"] * row["frame_ms"]} if known else {}
    whole = intervals(row, spread([case for case, _ in drawn]), calibration, **times)
    parts = [
        intervals(segment, spread([rows[number] for _, rows in drawn]), calibration, **times)
        for number, segment in enumerate(segments)
    ]
    return whole, parts


def _shape_draws(of: Drawing, posterior: Posterior, draws: SamplingSettings) -> Iterator[_Draw]:
    """Indices and wall thickness of label maps that SegNet might as well have drawn."""
    spacing = of.stored.facts.window.spacing
    for phases in draw_shapes(posterior, spacing, draws.generator()):
        indices = {name: value for name, value in asdict(indices_of_shapes(phases, spacing)).items() if name != "flags"}
        whole, parts = thickness_values(walls_of(phases, of.stored))
        yield indices | whole, parts


def _motion_draws(of: Drawing, posterior: Posterior, draws: SamplingSettings) -> Iterator[_Draw]:
    """Strain by motions that the network might as well have seen, of the wall as it is reported."""
    if not of.has_wall or not of.stored.has_steps:
        return
    facts = of.stored.facts
    velocities, timing = read_velocities(of.folder.motion), timing_of(of.stored)
    factor = 2**facts.motion.output_level
    grid = Spacing(facts.window.spacing.z, facts.window.spacing.y * factor, facts.window.spacing.x * factor)
    sizes = replace(facts.motion, integration_steps=min(facts.motion.integration_steps, _SQUARINGS))
    cutout = crop_around(of.walls.muscle, factor)
    wall, muscle = lay_out(of.walls, of.stored), cutout.of_window(of.walls.muscle)
    generator = draws.generator()
    while True:
        drawn = cutout.of_velocities(draw_velocities(velocities, posterior, grid, generator))
        to_ed = fields_to_ed(drawn, facts.window.spacing, ed=facts.ed, sizes=sizes)
        strain = mechanics_of(wall, muscle, to_ed).strain
        yield global_strains(strain, timing), segment_values(strain, timing)
