"""What the LV's wall does, in the columns of the tables: strain, rotation, thickness, and the space of all hearts."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cmnet_cli.derivatives.crop import Crop, crop_around
from cmnet_cli.derivatives.tracking import StoredTracking, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_cli.tables.columns.mechanics import DISPLACEMENTS, LAYERS, LEVELS, SEGMENT_STRAINS, STRAINS
from cmnet_core.function.volumes import Volumes
from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates, lv_coordinates
from cmnet_core.geometry.shared_bins import bin_means, bin_of, bins
from cmnet_core.geometry.wall_thickness import thickening_pct, wall_thickness
from cmnet_core.imaging.preprocess import extract_labels, window_affine
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.labels import Label
from cmnet_core.mechanics.lagrangian import MaterialMotion, follow_material
from cmnet_core.mechanics.line_strain import LineStrain, line_strain
from cmnet_core.mechanics.rotation import Rotation, rotation
from cmnet_core.mechanics.strain import (
    SIGN,
    Deformation,
    Direction,
    RegionalStrain,
    Wall,
    deform,
    lay_out_wall,
    regional_strain,
)
from cmnet_core.mechanics.strain_curves import FRAMES_FOR_TIMES, CurveSummary, Timing, dyssynchrony_ms, summarise
from cmnet_core.qc.flags import STRAIN_PCT
from cmnet_core.qc.result_checks import check_strain
from cmnet_core.types import MotionField

Row = dict[str, Any]

WITHOUT_WALL = {
    *("lv-missing-at-ed", "myo-missing-at-ed", "no-lv-wall"),
    *("too-few-slices", "lv-gap-in-stack", "lv-cut-at-border"),
}
"""Flags with which nothing is said of the wall: a part of it is missing, or all of it."""

THIRDS_UNKNOWN = "too-few-slices-for-segments"
"""Flag with which nothing is said of levels, segments and rotation."""


# ── the wall ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Walls:
    """The wall on the grid of the window.

    Attributes:
        ed: Coordinates at ED.
        es: Coordinates at ES.
        heart: All of the heart at ED.
        muscle: Myocardium at ED.
    """

    ed: LVCoordinates
    es: LVCoordinates
    heart: Bool[Tensor, "z y x"]
    muscle: Bool[Tensor, "z y x"]

    @property
    def flags(self) -> tuple[str, ...]:
        """Why coordinates at ED are not defined; what is missing at ES alone has flags of its own."""
        return self.ed.flags


def walls_of(phases: UInt8[Tensor, "2 z y x"], stored: StoredTracking) -> Walls:
    """Lay coordinates into the label maps of ED and ES on the window's grid."""
    window = stored.facts.window
    affine = window_affine(stored.affine, window)
    ed, es = (lv_coordinates(labels, window.spacing, affine) for labels in phases)
    return Walls(ed, es, phases[0] != Label.BACKGROUND, phases[0] == Label.MYO)


def segmented_walls(stored: StoredTracking) -> Walls:
    """The wall as SegNet sees it."""
    facts = stored.facts
    return walls_of(extract_labels(stored.segmented[[facts.ed, facts.es]], facts.window), stored)


def thickness_values(walls: Walls) -> tuple[Row, list[Row]]:
    """Thickness and thickening of the whole wall, and of each AHA segment."""
    ed, es = wall_thickness(walls.ed), wall_thickness(walls.es)
    segments = zip(ed.segments_mm, es.segments_mm, strict=True)
    return _thickness(ed.whole_mm, es.whole_mm), [_thickness(before, after) for before, after in segments]


def _thickness(ed_mm: float | None, es_mm: float | None) -> Row:
    return {
        "wall_thickness_ed_mm": ed_mm,
        "wall_thickness_es_mm": es_mm,
        "wall_thickening_pct": thickening_pct(ed_mm, es_mm),
    }


# ── where the heart is ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class NearHeart:
    """The stored motion, integrated where the heart is.

    Attributes:
        cutout: Where the heart is.
        to_ed: There, for every frame, the field that is fixed at it and points into ED.
    """

    cutout: Crop
    to_ed: tuple[MotionField, ...]


def near_heart(folder: CaseFolder, stored: StoredTracking, walls: Walls) -> NearHeart | None:
    """Read the motion of a case; None where it was not stored.

    Raises:
        ImageError: It is damaged.
    """
    if not stored.has_steps:
        return None
    facts = stored.facts
    cutout = crop_around(walls.heart, 2**facts.motion.output_level)
    near = cutout.of_velocities(read_velocities(folder.motion))
    return NearHeart(cutout, fields_to_ed(near, facts.window.spacing, ed=facts.ed, sizes=facts.motion))


# ── its motion ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Mechanics:
    """What a motion does to a wall.

    Attributes:
        wall: The wall.
        motion: Of its material.
        deformation: Of each of its voxels.
        strain: Green-Lagrange strain over its parts.
    """

    wall: Wall
    motion: MaterialMotion
    deformation: Deformation
    strain: RegionalStrain

    @property
    def lines(self) -> RegionalStrain:
        """Engineering strain over its parts: of short lines of material along each direction, √(1 + 2E) - 1."""
        stretched = (1.0 + 2.0 * self.deformation.strain).clamp_min(0.0).sqrt() - 1.0
        return regional_strain(self.wall, replace(self.deformation, strain=stretched))


def lay_out(walls: Walls, stored: StoredTracking) -> Wall:
    """The wall at ED, prepared for any motion."""
    return lay_out_wall(walls.ed, walls.muscle, stored.facts.window.spacing)


def mechanics_of(wall: Wall, muscle: Bool[Tensor, "z y x"], to_ed: Sequence[MotionField]) -> Mechanics:
    """Follow the material of the myocardium at ED round the cycle.

    Args:
        wall: The same myocardium, laid out.
        muscle: On the grid of the fields.
        to_ed: Of every frame into ED.
    """
    motion = follow_material(to_ed, muscle)
    deformation = deform(wall, motion)
    return Mechanics(wall, motion, deformation, regional_strain(wall, deformation))


def timing_of(stored: StoredTracking) -> Timing:
    """When the frames of a curve in the order of the input were taken."""
    return Timing(stored.facts.ed, stored.facts.es, stored.facts.frame_ms)


def global_strains(strain: RegionalStrain, timing: Timing) -> Row:
    """Peaks, values at ES, times and rates of the global strains."""
    row: Row = {}
    for direction, name in zip(Direction, STRAINS, strict=True):
        whole = _summary(strain.wall[direction], timing, direction)
        row |= {
            f"{name}_peak_pct": whole.peak,
            f"{name}_es_pct": whole.at_es,
            f"time_to_peak_{name}_ms": whole.time_to_peak_ms,
            f"{name}_systolic_rate_per_s": _hundredth(whole.systolic_rate),
            f"{name}_early_diastolic_rate_per_s": _hundredth(whole.early_diastolic_rate),
        }
    return row


def part_strains(strain: RegionalStrain, timing: Timing, *, levels: bool) -> Row:
    """Peaks over layers and, where thirds of the length are defined, over levels."""
    row: Row = {}
    for direction, name in zip(Direction, STRAINS, strict=True):
        for parts, names in ((strain.layers, LAYERS), *([(strain.levels, LEVELS)] if levels else [])):
            for part, curve in zip(names, parts[direction].T, strict=True):
                row[f"{name}_{part}_peak_pct"] = _summary(curve, timing, direction).peak
    return row


def _summary(curve: Float[Tensor, " t"], timing: Timing, direction: Direction) -> CurveSummary:
    return summarise(curve, timing, sign=SIGN[direction])


def _hundredth(value: float | None) -> float | None:
    return None if value is None else value / 100.0


def segment_values(strain: RegionalStrain, timing: Timing) -> list[Row]:
    """Peaks and times of each AHA segment."""
    rows: list[Row] = [{} for _ in range(SEGMENTS)]
    for direction, name in zip(Direction, SEGMENT_STRAINS, strict=True):
        for row, curve in zip(rows, strain.segments[direction].T, strict=True):
            found = _summary(curve, timing, direction)
            row |= {f"{name}_peak_pct": found.peak, f"time_to_peak_{name}_ms": found.time_to_peak_ms}
    return rows


def segment_curves(strain: RegionalStrain) -> list[Row]:
    """Circumferential strain of each AHA segment over the cycle; null where it is not known throughout."""
    curves = strain.segments[Direction.CIRCUMFERENTIAL].T.tolist()
    return [{"ecc_curve_pct": None if any(map(math.isnan, curve)) else curve} for curve in curves]


def line_values(mechanics: Mechanics, timing: Timing) -> tuple[Row, list[Row]]:
    """Engineering strain: of the contours and along the radius, and of each AHA segment."""
    contours: LineStrain = line_strain(mechanics.wall, mechanics.motion, mechanics.deformation)
    around = {"endo": contours.endo_pct, "mid": contours.mid_pct, "epi": contours.epi_pct}
    row = {
        f"gcs_line_{name}_peak_pct": _summary(curve, timing, Direction.CIRCUMFERENTIAL).peak
        for name, curve in around.items()
    }
    lines = mechanics.lines
    row["grs_line_peak_pct"] = _summary(lines.wall[Direction.RADIAL], timing, Direction.RADIAL).peak
    chosen = {"ecc": Direction.CIRCUMFERENTIAL, "err": Direction.RADIAL}
    segments = [
        {
            f"{name}_line_peak_pct": _summary(lines.segments[direction, :, number], timing, direction).peak
            for name, direction in chosen.items()
        }
        for number in range(SEGMENTS)
    ]
    return row, segments


def rotation_values(turned: Rotation, timing: Timing) -> Row:
    """Peaks of rotation, twist and torsion, and the twist at ES."""
    twist = summarise(turned.twist_deg, timing, sign=None)
    return {
        "basal_rotation_deg": summarise(turned.basal_deg, timing, sign=None).peak,
        "apical_rotation_deg": summarise(turned.apical_deg, timing, sign=None).peak,
        "twist_deg": twist.peak,
        "twist_es_deg": twist.at_es,
        "torsion_deg_per_cm": summarise(turned.torsion_deg_cm, timing, sign=None).peak,
    }


def rate_values(volumes: Volumes, timing: Timing, known: Row) -> Row:
    """How fast the ventricles empty and fill; of a ventricle whose volumes are not believed neither is."""
    row: Row = {}
    for name, curve in (("lv", volumes.lv_ml), ("rv", volumes.rv_ml)):
        found = summarise(curve - curve[timing.ed], timing, sign=-1.0) if known[f"{name}sv_ml"] is not None else None
        emptying = None if found is None else found.systolic_rate
        row[f"{name}_peak_ejection_rate_ml_s"] = None if emptying is None else -emptying
        row[f"{name}_peak_filling_rate_ml_s"] = None if found is None else found.early_diastolic_rate
    return row


def frame_values(mechanics: Mechanics, turned: Rotation | None) -> list[Row]:
    """The curves, a row a frame."""
    curves = {f"{name}_pct": mechanics.strain.wall[d] for d, name in zip(Direction, STRAINS, strict=True)}
    if turned is not None:
        curves |= {"basal_rotation_deg": turned.basal_deg, "apical_rotation_deg": turned.apical_deg}
        curves["twist_deg"] = turned.twist_deg
    columns = {name: curve.tolist() for name, curve in curves.items()}
    return [
        {name: _known(values[frame]) for name, values in columns.items()}
        for frame in range(len(mechanics.motion.frames))
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MechanicsRows:
    """What the tables say of the wall of one case.

    Attributes:
        indices: Columns of its row in ``indices``.
        frames: Columns of its rows in ``frames``, or none.
        segments: One row for each AHA segment.
        bullseye: One row for each bin, or none.
        flags: Why something is null.
    """

    indices: Row
    frames: list[Row]
    segments: list[Row]
    bullseye: list[Row]
    flags: list[str]


def mechanics_rows(
    stored: StoredTracking, walls: Walls, near: NearHeart | None, raised: Collection[str]
) -> MechanicsRows:
    """Everything that is said of the wall.

    Args:
        stored: The case.
        walls: Its wall.
        near: Its motion, None where it was not stored.
        raised: Flags that were raised so far.
    """
    flags = [flag for flag in (*walls.flags, *_missing_times(stored)) if flag not in raised]
    reasons = sorted({*raised, *flags} & WITHOUT_WALL)
    if reasons:
        return MechanicsRows({}, [], _numbered([{} for _ in range(SEGMENTS)], reasons), [], flags)
    whole, segments = thickness_values(walls)
    if near is None:
        return MechanicsRows(whole, [], _numbered(segments, [*walls.flags, "motion-not-stored"]), [], flags)
    mechanics = mechanics_of(lay_out(walls, stored), near.cutout.of_window(walls.muscle), near.to_ed)
    rows = _rows_of(mechanics, stored, walls, (whole, segments))
    return replace(rows, flags=[*flags, *rows.flags])


def _rows_of(
    mechanics: Mechanics, stored: StoredTracking, walls: Walls, thickness: tuple[Row, list[Row]]
) -> MechanicsRows:
    """The rows of a wall whose motion is known."""
    timing, thirds = timing_of(stored), THIRDS_UNKNOWN not in walls.flags
    strains = segment_values(mechanics.strain, timing)
    lines, lines_of_segments = line_values(mechanics, timing)
    turned = rotation(mechanics.wall, mechanics.motion) if thirds else None
    whole = {
        **global_strains(mechanics.strain, timing),
        **part_strains(mechanics.strain, timing, levels=thirds),
        **lines,
        **(rotation_values(turned, timing) if turned else {}),
        "dyssynchrony_ms": dyssynchrony_ms([row["time_to_peak_ecc_ms"] for row in strains]),
        **thickness[0],
    }
    parts = (strains, segment_curves(mechanics.strain), lines_of_segments, thickness[1])
    segments = [a | b | c | d for a, b, c, d in zip(*parts, strict=True)]
    return MechanicsRows(
        indices=whole,
        frames=frame_values(mechanics, turned),
        segments=_numbered(segments, [*walls.flags, *_missing_times(stored)]),
        bullseye=_bullseye(mechanics, stored) if thirds else [],
        flags=[
            *_remarks(whole, stored, walls),
            *check_strain({name: whole[f"{name}_peak_pct"] for name in STRAIN_PCT}),
        ],
    )


def _remarks(whole: Row, stored: StoredTracking, walls: Walls) -> list[str]:
    """Why values of a wall with motion are null, and what a twist rests on."""
    times = not _missing_times(stored)
    told = {
        "twist-not-constrained-by-masks": whole.get("twist_deg") is not None,
        "level-missing": THIRDS_UNKNOWN not in walls.flags and whole["twist_deg"] is None,
        "no-closed-slice": whole["gcs_line_mid_peak_pct"] is None,
        "wall-stretches": stretches(whole, times=times),
        "few-segments-with-times": times and whole["dyssynchrony_ms"] is None,
    }
    return [flag for flag, raised in told.items() if raised]


def stretches(whole: Row, *, times: bool) -> bool:
    """Whether a global strain never contracts, so that its peak has no time, or is one of stretching at ES."""
    never = times and any(whole[f"time_to_peak_{name}_ms"] is None for name in STRAINS)
    at_es = [(SIGN[direction], whole[f"{name}_es_pct"]) for direction, name in zip(Direction, STRAINS, strict=True)]
    return never or any(value is not None and sign * value < 0.0 for sign, value in at_es)


def _missing_times(stored: StoredTracking) -> list[str]:
    reasons = (
        ("no-frame-time", stored.facts.frame_ms is None),
        ("too-few-frames", stored.facts.frames < FRAMES_FOR_TIMES),
    )
    return [flag for flag, unknown in reasons if unknown]


def _numbered(segments: Sequence[Row], reasons: Sequence[str]) -> list[Row]:
    """Rows of the segments with their numbers and with the reasons of what is null."""
    return [
        {"segment": number, **row, "qc_flags": [*reasons, *_of_one_segment(row, reasons)]}
        for number, row in enumerate(segments, start=1)
    ]


def _of_one_segment(row: Row, reasons: Sequence[str]) -> list[str]:
    if not row or set(reasons) & {"rv-insertion-not-found", THIRDS_UNKNOWN}:
        return []
    flags = []
    if row["wall_thickness_ed_mm"] is None:
        flags.append("segment-missing-at-ed")
    elif row["wall_thickness_es_mm"] is None:
        flags.append("segment-missing-at-es")
    late = any(row.get(f"time_to_peak_{name}_ms", 0) is None for name in SEGMENT_STRAINS)
    if late and not flags and not set(reasons) & {"no-frame-time", "too-few-frames"}:
        flags.append("segment-does-not-contract")
    return flags


def _bullseye(mechanics: Mechanics, stored: StoredTracking) -> list[Row]:
    wall, es = mechanics.wall, mechanics.motion.frames.index(stored.facts.es)
    number = bin_of(wall.longitudinal, wall.circumferential_deg, wall.transmural)
    if not bool((number >= 0).any()):
        return []
    moved = torch.einsum("nd,nkd->kn", mechanics.motion.displacement_mm[es], wall.directions)
    values = torch.cat([100.0 * mechanics.deformation.strain[:, es], moved, wall.thickness_mm[None]])
    means, count = bin_means(values, torch.where(wall.inside, number, -1))
    names = (
        *(f"{name}_es_pct" for name in SEGMENT_STRAINS),
        *(f"{direction}_displacement_es_mm" for direction in DISPLACEMENTS),
    )
    columns = zip((*names, "wall_thickness_ed_mm"), means.tolist(), strict=True)
    by_name = dict(columns)
    return [
        {**asdict(item), "voxels": voxels, **{name: _known(listed[place]) for name, listed in by_name.items()}}
        for place, (item, voxels) in enumerate(zip(bins(), count.tolist(), strict=True))
    ]
