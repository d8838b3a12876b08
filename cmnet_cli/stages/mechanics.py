"""Rows of the tables about the LV wall: what :func:`analyse_wall` found, in the columns of the documentation."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float64, UInt8
from torch import Tensor

from cmnet_cli.derivatives.heart_motion import HeartMotion
from cmnet_cli.derivatives.tracking import TrackingFacts
from cmnet_cli.tables.columns.mechanics import (
    DISPLACEMENTS,
    GREEN_STRAINS,
    LAYERS,
    LEVELS,
    LINE_STRAINS,
    SEGMENT_STRAINS,
)
from cmnet_core.flags import QCFlag
from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates, lv_coordinates
from cmnet_core.geometry.shared_bins import bins
from cmnet_core.geometry.wall_thickness import WallThickness, maximum_thickness, thickening_pct, wall_thickness
from cmnet_core.imaging.preprocess import window_affine
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import (
    LineStrainSummary,
    StrainSummary,
    WallAnalysis,
    analyse_wall,
    flag_segments,
    timing_flags,
)
from cmnet_core.mechanics.lagrangian import MaterialMotion, follow_material
from cmnet_core.mechanics.strain import Direction, WallVoxels
from cmnet_core.mechanics.ukb_strain import UKBStrain, peak_of
from cmnet_core.qc.result_checks import check_strain
from cmnet_core.qc.thresholds import STRAIN_PCT

Row = dict[str, Any]

WITHOUT_WALL = {
    *(QCFlag.LV_MISSING_AT_ED, QCFlag.MYO_MISSING_AT_ED, QCFlag.NO_LV_WALL),
    *(QCFlag.TOO_FEW_SLICES, QCFlag.LV_GAP_IN_STACK, QCFlag.LV_CUT_AT_BORDER),
}
"""Flags with which nothing is reported about the wall, because a part of it or all of it is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class WallRows:
    """The rows of one case about the LV wall.

    Attributes:
        indices: Columns of its row in ``indices``.
        frames: Columns of its rows in ``frames``, or none.
        segments: One row for each AHA segment.
        bullseye: One row for each bin of the shared space, or none.
        experimental: One row for each region, of strain that is not measured reliably.
        flags: Reasons of null values and of limited reliability.
        voxels: Voxels of the wall, for strain by other motions; None where no motion of the wall is reported.
    """

    indices: Row
    frames: list[Row]
    segments: list[Row]
    bullseye: list[Row]
    experimental: list[Row]
    flags: Sequence[str]
    voxels: WallVoxels | None


def wall_rows(
    labels: UInt8[Tensor, "2 z y x"],
    motion: HeartMotion | MaterialMotion | None,
    facts: TrackingFacts,
    affine: Float64[Tensor, "4 4"],
    raised: Collection[str],
) -> WallRows:
    """Analyse the wall of one case and write the result in the columns of the tables.

    Args:
        labels: Label maps at ED and at ES on the window's grid.
        motion: Motion of the heart, or of the voxels of the myocardium at ED; None where it was not stored.
        facts: Frames, timing and window of the case.
        affine: Of the subject's own grid.
        raised: Flags that were raised before.
    """
    spacing, affine = facts.window.spacing, window_affine(affine, facts.window)
    if motion is None or not WITHOUT_WALL.isdisjoint(raised):
        coordinates = lv_coordinates(labels[0], spacing, affine)
        found = (*coordinates.flags, *timing_flags(frames=facts.frames, frame_ms=facts.frame_ms))
        flags = [flag for flag in found if flag not in raised]
        withheld = _withheld(raised, flags)
        if withheld:
            return withheld
        ed, es = wall_thickness(coordinates), wall_thickness(lv_coordinates(labels[1], spacing, affine))
        reasons = flag_segments([*coordinates.flags, QCFlag.MOTION_NOT_STORED], ed, es)
        segments = _numbered(segment_thickness_columns(ed, es), reasons)
        whole = thickness_columns(ed.whole_mm, es.whole_mm) | _maximum_thickness_columns(coordinates)
        return WallRows(whole, [], segments, [], [], flags, None)
    if isinstance(motion, HeartMotion):
        motion = follow_material(motion.to_ed, motion.crop.of_window(labels[0] == Label.MYO))
    analysis = analyse_wall(
        labels[0],
        motion,
        spacing=spacing,
        affine=affine,
        ed=facts.ed,
        es=facts.es,
        frame_ms=facts.frame_ms,
        labels_es=labels[1],
    )
    flags = [flag for flag in analysis.flags if flag not in raised]
    return _withheld(raised, flags) or _analysis_rows(analysis, flags)


def _withheld(raised: Collection[str], flags: Sequence[str]) -> WallRows | None:
    """The rows of a wall that is not complete: segments without values, each with the reasons; else None."""
    reasons = tuple(sorted({*raised, *flags} & WITHOUT_WALL))
    segments = _numbered([{} for _ in range(SEGMENTS)], (reasons,) * SEGMENTS)
    return WallRows({}, [], segments, [], [], flags, None) if reasons else None


def _analysis_rows(analysis: WallAnalysis, flags: Sequence[str]) -> WallRows:
    ed, es = analysis.thickness_ed, analysis.thickness_es
    assert es is not None, "the stage gives a label map of ES"
    indices = {
        **global_strain_columns(analysis.line_summary, analysis.engineering_summary, analysis.strain_summary),
        **_regional_strain_columns(analysis),
        **_ukb_columns(analysis.ukb_strain),
        **_rotation_columns(analysis),
        "dyssynchrony_ms": analysis.dyssynchrony_ms,
        **thickness_columns(ed.whole_mm, es.whole_mm),
        **_maximum_thickness_columns(analysis.coordinates),
    }
    strain = segment_strain_columns(analysis.engineering_summary, analysis.strain_summary)
    others = (
        _segment_curve_columns(analysis),
        _segment_ukb_columns(analysis.ukb_strain),
        segment_thickness_columns(ed, es),
    )
    segments = [a | b | c | d for a, b, c, d in zip(strain, *others, strict=True)]
    return WallRows(
        indices=indices,
        frames=_frame_columns(analysis),
        segments=_numbered(segments, analysis.segment_flags),
        bullseye=_bullseye_rows(analysis),
        experimental=_experimental_rows(analysis),
        flags=[*flags, *check_strain({name: indices[f"{name}_peak_pct"] for name in STRAIN_PCT})],
        voxels=analysis.voxels,
    )


def _numbered(segments: Sequence[Row], flags: Sequence[Sequence[str]]) -> list[Row]:
    """Rows of the segments with their numbers and flags."""
    numbered = enumerate(zip(segments, flags, strict=True), start=1)
    return [{"segment": number, **row, "qc_flags": list(reasons)} for number, (row, reasons) in numbered]


# ── columns of a case ────────────────────────────────────────────────────────────────────────────────────────────


def global_strain_columns(lines: LineStrainSummary, engineering: StrainSummary, green: StrainSummary) -> Row:
    """Peaks, values at ES, times and rates of the global strains.

    Args:
        lines: Engineering strain of the contours.
        engineering: Engineering strain of the wall.
        green: Green-Lagrange strain of the wall.
    """
    curves = dict(zip(LINE_STRAINS, (lines.endo, lines.midwall, lines.epi), strict=False))
    curves["grs_line_wall"] = engineering.whole[Direction.RADIAL]
    curves |= dict(zip(GREEN_STRAINS, green.whole, strict=False))
    row: Row = {}
    for name, whole in curves.items():
        row |= {
            f"{name}_peak_pct": whole.peak,
            f"{name}_es_pct": whole.at_es,
            f"time_to_peak_{name}_ms": whole.time_to_peak_ms,
            f"{name}_systolic_rate_per_s": _from_percent(whole.systolic_rate),
            f"{name}_early_diastolic_rate_per_s": _from_percent(whole.early_diastolic_rate),
        }
    return row


def _from_percent(value: float | None) -> float | None:
    return None if value is None else value / 100.0


_NAMES = ("grs", "gcs")
"""Names of the global strains in the order of :class:`Direction`."""


def _regional_strain_columns(analysis: WallAnalysis) -> Row:
    """Peaks over the layers and the levels of the wall."""
    green, engineering = analysis.strain_summary, analysis.engineering_summary
    regions = (
        ("green", LAYERS, green.layers),
        ("line_wall", LEVELS, engineering.levels),
        ("green_wall", LEVELS, green.levels),
    )
    return {
        f"{name}_{kind}_{part}_peak_pct": one.peak
        for kind, parts, summaries in regions
        for name, of_direction in zip(_NAMES, summaries, strict=False)
        for part, one in zip(parts, of_direction, strict=True)
    }


def _ukb_columns(strain: UKBStrain) -> Row:
    """Peaks of the strain that UK Biobank's fields define."""
    return {
        "ukb_ecc_global_pct": peak_of(strain.circumferential_pct, sign=-1.0),
        "ukb_err_global_pct": peak_of(strain.radial_pct, sign=1.0),
    }


def _rotation_columns(analysis: WallAnalysis) -> Row:
    """Peaks of rotation, twist and torsion, and the twist at ES."""
    found = analysis.rotation_summary
    return {
        "basal_rotation_deg": found.basal.peak,
        "apical_rotation_deg": found.apical.peak,
        "twist_deg": found.twist.peak,
        "twist_es_deg": found.twist.at_es,
        "torsion_deg_per_cm": found.torsion.peak,
        "torsion_shear_deg": found.shear.peak,
    }


def thickness_columns(ed_mm: float | None, es_mm: float | None) -> Row:
    """Thickness at ED and ES and thickening, of the whole wall or of a segment."""
    return {
        "wall_thickness_ed_mm": ed_mm,
        "wall_thickness_es_mm": es_mm,
        "wall_thickening_pct": thickening_pct(ed_mm, es_mm),
    }


def _maximum_thickness_columns(coordinates: LVCoordinates) -> Row:
    """Maximum wall thickness at ED, and its segment."""
    found = maximum_thickness(coordinates)
    return {
        "wall_thickness_max_ed_mm": None if found is None else found.mm,
        "wall_thickness_max_segment": None if found is None else found.segment,
    }


# ── columns of segments, frames and bins ─────────────────────────────────────────────────────────────────────────


def segment_strain_columns(engineering: StrainSummary, green: StrainSummary) -> list[Row]:
    """Peaks and times to peak of each AHA segment."""
    rows: list[Row] = [{} for _ in range(SEGMENTS)]
    for kind, summary in (("line_wall", engineering), ("green_wall", green)):
        for name, of_direction in zip(SEGMENT_STRAINS, summary.segments, strict=False):
            for row, one in zip(rows, of_direction, strict=True):
                row |= {f"{name}_{kind}_peak_pct": one.peak, f"time_to_peak_{name}_{kind}_ms": one.time_to_peak_ms}
    return rows


def segment_thickness_columns(ed: WallThickness, es: WallThickness) -> list[Row]:
    """Thickness and thickening of each AHA segment."""
    return [thickness_columns(*both) for both in zip(ed.segments_mm, es.segments_mm, strict=True)]


def _segment_curve_columns(analysis: WallAnalysis) -> list[Row]:
    """Circumferential strain of each AHA segment over the cycle; null where it is not known in every frame."""
    curves = analysis.engineering_strain.segments[Direction.CIRCUMFERENTIAL].T
    return [{"ecc_line_wall_curve_pct": _known_curve(curve)} for curve in curves]


def _segment_ukb_columns(strain: UKBStrain) -> list[Row]:
    """Peaks of each AHA segment of the strain that UK Biobank's fields define."""
    both = zip(strain.circumferential_segments_pct.T, strain.radial_segments_pct.T, strict=True)
    return [
        {"ukb_ecc_pct": peak_of(around, sign=-1.0), "ukb_err_pct": peak_of(across, sign=1.0)} for around, across in both
    ]


def _frame_columns(analysis: WallAnalysis) -> list[Row]:
    """The curves of global strain, rotation and twist, one row for each frame."""
    lines, radial = analysis.line_strain, analysis.engineering_strain.whole[Direction.RADIAL]
    engineering = (lines.endo_pct, lines.midwall_pct, lines.epi_pct, radial)
    curves = {f"{name}_pct": curve.tolist() for name, curve in zip(LINE_STRAINS, engineering, strict=True)}
    green = zip(GREEN_STRAINS, analysis.strain.whole, strict=False)
    curves |= {f"{name}_pct": curve.tolist() for name, curve in green}
    curves |= {
        "basal_rotation_deg": analysis.rotation.basal_deg.tolist(),
        "apical_rotation_deg": analysis.rotation.apical_deg.tolist(),
        "twist_deg": analysis.rotation.twist_deg.tolist(),
    }
    frames = range(len(analysis.motion.frames))
    return [{name: _known(values[frame]) for name, values in curves.items()} for frame in frames]


def _experimental_rows(analysis: WallAnalysis) -> list[Row]:
    """Longitudinal strain from the short-axis stack, of the whole wall and of its parts."""
    curves, found = analysis.strain, analysis.strain_summary
    parts = (
        (("wall",), curves.whole[..., None], [(one,) for one in found.whole]),
        (LAYERS, curves.layers, found.layers),
        (LEVELS, curves.levels, found.levels),
        (tuple(f"aha{number}" for number in range(1, SEGMENTS + 1)), curves.segments, found.segments),
    )
    direction = Direction.LONGITUDINAL
    return [
        {
            "quantity": "gls_sax",
            "region": region,
            "peak_pct": one.peak,
            "es_pct": one.at_es,
            "time_to_peak_ms": one.time_to_peak_ms,
            "systolic_rate_per_s": _from_percent(one.systolic_rate),
            "early_diastolic_rate_per_s": _from_percent(one.early_diastolic_rate),
            "curve_pct": _known_curve(curve),
        }
        for regions, strain, summaries in parts
        for region, curve, one in zip(regions, strain[direction].T, summaries[direction], strict=True)
    ]


def _bullseye_rows(analysis: WallAnalysis) -> list[Row]:
    """Strain, displacement and thickness of each bin of the shared space."""
    found = analysis.bins
    if found is None:
        return []
    kinds = {"line": found.engineering_es_pct, "green": found.strain_es_pct}
    means = {
        f"{name}_{kind}_es_pct": strain
        for kind, strains in kinds.items()
        for name, strain in zip(SEGMENT_STRAINS, strains, strict=False)
    }
    for direction, displacement in zip(DISPLACEMENTS, found.displacement_es_mm, strict=True):
        means[f"{direction}_displacement_es_mm"] = displacement
    means["wall_thickness_ed_mm"] = found.thickness_ed_mm
    columns = {name: values.tolist() for name, values in means.items()}
    return [
        {**asdict(item), "voxels": voxels, **{name: _known(values[number]) for name, values in columns.items()}}
        for number, (item, voxels) in enumerate(zip(bins(), found.voxels.tolist(), strict=True))
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _known_curve(values: Tensor) -> list[float] | None:
    curve: list[float] = values.tolist()
    return None if any(map(math.isnan, curve)) else curve
