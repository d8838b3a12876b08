"""95 % intervals of the indices and of the segments, from their calibration and samples of the stored posterior."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cmnet_cli.derivatives.posterior import read_posterior
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts, read_velocities
from cmnet_cli.runs.paths import CaseFolder, CorrectionFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_cli.stages.mechanics import global_strain_columns, segment_strain_columns
from cmnet_cli.tables.columns.column import LOWER, UPPER, Interval
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.errors import CaseError, ErrorCode
from cmnet_core.flags import QCFlag
from cmnet_core.function.volumes import ClinicalIndices, PumpIndices, pump_indices
from cmnet_core.geometry.lv_coordinates import SEGMENTS
from cmnet_core.imaging.crop import crop_around
from cmnet_core.inference.composition import StoredDisplacements, fields_to_ed
from cmnet_core.io.orientation import StackOrientation, standard_orientation
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import summarise_lines, summarise_strain
from cmnet_core.mechanics.lagrangian import follow_material
from cmnet_core.mechanics.line_strain import line_strain
from cmnet_core.mechanics.strain import WallVoxels, deform, engineering_strain, mean_strain
from cmnet_core.mechanics.strain_curves import Timing
from cmnet_core.mechanics.strain_operator import WallStrains, strain_operator
from cmnet_core.types import Spacing
from cmnet_core.uncertainty.calibration import (
    Calibration,
    Limits,
    find_calibration,
    intervals,
    read_calibration,
    spread,
    without_calibration,
)
from cmnet_core.uncertainty.conformal import QuantityCalibration
from cmnet_core.uncertainty.posterior import (
    POOLING_FACTOR,
    Posterior,
    draw_shapes,
    draw_velocities,
    indices_of_shapes,
)

Row = dict[str, Any]

CLINICAL_INDICES = tuple(item.name for item in fields(ClinicalIndices) if item.name != "flags")

SEGMENTATION_COLUMNS = frozenset(
    {
        *CLINICAL_INDICES,
        *(item.name for item in fields(PumpIndices)),
        *("wall_thickness_ed_mm", "wall_thickness_es_mm", "wall_thickening_pct", "wall_thickness_max_ed_mm"),
    }
)
"""Columns with an interval that masks at ED and ES determine."""

MOTION_COLUMNS = (
    frozenset(column.name for table in ("indices", "segments") for column in DECLARED[table] if column.interval)
    - SEGMENTATION_COLUMNS
)
"""Columns with an interval that depend on the motion, or on the volumes of all frames."""

SCALED_COLUMNS = {column.name: column.scaled_from for column in DECLARED["indices"] if column.scaled_from}
"""Columns that are another column times a number without error, with the other column."""

_SQUARINGS = 3
"""Squarings of a drawn velocity: a spread does not need motion to a hundredth of a voxel, and this halves the cost."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How intervals are computed.

    Attributes:
        samples: Number of posterior samples; 0 for no intervals.
        seed: Seed of the samples. With the identifier of a case it determines the samples of the case, whichever other
            cases are in the cohort; the samples of two cases are independent.
        calibration: Path of a calibration; None for the one that is shipped with the weights.
        spreads_only: Whether the spreads are computed that a calibration may use, and no intervals.
    """

    samples: int
    seed: int
    calibration: Path | None = None
    spreads_only: bool = False

    def generator(self, case_id: str) -> torch.Generator:
        """Return the generator of a case in its initial state.

        Args:
            case_id: Identifier of the case.
        """
        digest = hashlib.sha256(f"{self.seed}/{case_id}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True, slots=True)
class Spreads:
    """Spread over samples of the posterior of the columns of a case and of each of its segments."""

    case: dict[str, float]
    segments: tuple[dict[str, float], ...]


NO_SPREADS = Spreads({}, tuple({} for _ in range(SEGMENTS)))
"""Spreads of a case that was not sampled."""


def add_intervals(
    row: Row,
    segments: Sequence[Row],
    folder: CaseFolder,
    stored: StoredTracking,
    labels_ed: UInt8[Tensor, "z y x"],
    voxels: WallVoxels | None,
    draws: SamplingSettings,
) -> tuple[Row, list[Row], Spreads]:
    """Add intervals to the rows of a case and of its segments, or the reason why there are none.

    Args:
        row: Row of the case.
        segments: Rows of its segments.
        folder: Files of the case.
        stored: What infer stored of it.
        labels_ed: Label map at ED on the window's grid.
        voxels: Voxels of the wall, or None where no motion of the wall is reported.
        draws: The samples and the calibration.

    Returns:
        The rows, and the spreads that were sampled.

    Raises:
        CaseError: The stored posterior is damaged, or the calibration belongs to other weights.
    """
    corrected = isinstance(folder, CorrectionFolder)
    if not draws.samples or corrected or not folder.posterior.exists():
        # Intervals are calibrated by the errors of automatic results.
        without = QCFlag.MASKS_CORRECTED if corrected else QCFlag.POSTERIOR_NOT_STORED
        reason = without if draws.samples else QCFlag.NO_SAMPLES
        return _flagged(row, reason), [_flagged(segment, reason) for segment in segments], NO_SPREADS
    posterior, case_id = read_posterior(folder.posterior), row["case_id"]
    if draws.spreads_only:
        return (
            row,
            list(segments),
            Spreads(_segmentation_spreads(stored, posterior, draws, case_id), NO_SPREADS.segments),
        )
    calibration = _calibration_of(folder, draws.calibration)
    found = NO_SPREADS
    # A source whose spreads scale no interval is not sampled.
    if calibration is None or calibration.uses_spread_of(SEGMENTATION_COLUMNS):
        found = replace(found, case=_segmentation_spreads(stored, posterior, draws, case_id))
    if voxels is not None and (calibration is None or calibration.uses_spread_of(MOTION_COLUMNS)):
        generator = draws.generator(f"{case_id}/motion")
        source = _draw_motion_columns(folder, stored, labels_ed, voxels, posterior, generator)
        drawn = list(islice(source, draws.samples))
        of_segments = tuple(spread([rows[number] for _, rows in drawn]) for number in range(SEGMENTS))
        found = Spreads(found.case | spread([columns for columns, _ in drawn]), of_segments)
    whole = _with_ends(row, row, found.case, "indices", calibration)
    parts = [
        _with_ends(segment, row, spreads, "segments", calibration)
        for segment, spreads in zip(segments, found.segments, strict=True)
    ]
    return (whole if calibration else _flagged(whole, QCFlag.INTERVALS_NOT_CALIBRATED)), parts, found


def _calibration_of(folder: CaseFolder, path: Path | None) -> Calibration | None:
    """The calibration of the weights with which a case was inferred; None where there is none."""
    sidecar = read_sidecar(folder.sidecar("infer"))
    digest = sidecar.model_digest if sidecar else ""
    if path is None:
        return find_calibration(digest)
    calibration = read_calibration(path)
    if calibration.digest != digest:
        raise CaseError(
            f"The calibration {path} belongs to the weights {calibration.digest[:12]}, and this subject was inferred "
            f"with {digest[:12]}.",
            hint="Run cmnet calibrate on subjects that were inferred with the same weights.",
            code=ErrorCode.CHECKPOINT,
        )
    return calibration


def _segmentation_spreads(
    stored: StoredTracking, posterior: Posterior, draws: SamplingSettings, case_id: str
) -> dict[str, float]:
    source = _draw_shape_columns(stored, posterior, draws.generator(case_id))
    return spread(list(islice(source, draws.samples)))


def _flagged(row: Row, reason: str) -> Row:
    return row if reason in row["qc_flags"] else row | {"qc_flags": [*row["qc_flags"], reason]}


def _with_ends(
    values: Row, case: Row, spreads: Mapping[str, float], table: str, calibration: Calibration | None
) -> Row:
    """A row with both ends of its intervals; one that is too wide to be of use is null, with a flag."""
    quantities = calibration.quantities.get(table, {}) if calibration else without_calibration(spreads)
    cycle_ms = math.inf if case["frame_ms"] is None else case["frames"] * case["frame_ms"]
    ends, too_wide = intervals(values, spreads, quantities, limits_of(table, cycle_ms=cycle_ms))
    whole = values | ends | (_scaled_ends(values, ends) if table == "indices" else {})
    for reason in width_flags(too_wide, quantities):
        whole = _flagged(whole, reason)
    return whole


def width_flags(too_wide: Iterable[str], quantities: Mapping[str, QuantityCalibration]) -> list[QCFlag]:
    """Return the flags of quantities whose interval is too wide to be reported.

    What is too wide in a typical subject is a property of the quantity, else of this subject.

    Args:
        too_wide: The quantities.
        quantities: Calibration of each quantity.
    """
    informative = {quantities[name].is_informative for name in too_wide}
    flags = {True: QCFlag.INTERVAL_WIDE, False: QCFlag.INTERVAL_UNINFORMATIVE}
    return [flags[kind] for kind in sorted(informative)]


def limits_of(table: str, *, cycle_ms: float) -> dict[str, Limits]:
    """Return the limits of the intervals of a table by column.

    Args:
        table: ``indices`` or ``segments``.
        cycle_ms: Duration of the cycle in ms.
    """
    limits = {Interval.NON_NEGATIVE: Limits(0.0), Interval.TIME: Limits(0.0, cycle_ms)}
    return {column.name: limits[column.interval] for column in DECLARED[table] if column.interval in limits}


def _scaled_ends(row: Row, ends: Mapping[str, float]) -> dict[str, float]:
    """Intervals of the columns that are another column times a number without error."""
    scaled: dict[str, float] = {}
    for name, source in SCALED_COLUMNS.items():
        if f"{source}_lo" in ends and row.get(name) is not None and row[source]:
            factor = row[name] / row[source]
            scaled |= {f"{name}{end}": factor * ends[f"{source}{end}"] for end in (LOWER, UPPER)}
    return scaled


def _draw_shape_columns(stored: StoredTracking, posterior: Posterior, generator: torch.Generator) -> Iterator[Row]:
    """Indices of label maps at ED and ES drawn from SegNet's posterior."""
    window = stored.facts.window
    for phases in draw_shapes(posterior.oriented(_orientation(stored)), window.spacing, generator):
        function = indices_of_shapes(phases, window.spacing)
        yield {name: getattr(function, name) for name in CLINICAL_INDICES} | asdict(pump_indices(function))


def _orientation(stored: StoredTracking) -> StackOrientation:
    """Orientation in which noise is drawn: the draws of a heart do not depend on how its image is stored."""
    return standard_orientation(stored.affine, stored.facts.flags)


def _draw_motion_columns(
    folder: CaseFolder,
    stored: StoredTracking,
    labels_ed: UInt8[Tensor, "z y x"],
    voxels: WallVoxels,
    posterior: Posterior,
    generator: torch.Generator,
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
    assert not isinstance(facts.motion, StoredDisplacements), "a posterior belongs to a network"
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
