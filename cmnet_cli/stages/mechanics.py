"""Rows of the tables about the LV wall: what :func:`analyse_wall` found, in the columns of the documentation."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float64, UInt8
from torch import Tensor

from cmnet_cli.derivatives.heart_motion import HeartMotion
from cmnet_cli.derivatives.tracking import TrackingFacts
from cmnet_cli.tables.columns.mechanics import DISPLACEMENTS, LAYERS, LEVELS, SEGMENT_STRAINS, STRAINS
from cmnet_core.geometry.lv_coordinates import SEGMENTS, lv_coordinates
from cmnet_core.geometry.shared_bins import bins
from cmnet_core.geometry.wall_thickness import WallThickness, thickening_pct, wall_thickness
from cmnet_core.imaging.preprocess import window_affine
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import StrainSummary, WallAnalysis, analyse_wall, flag_segments, timing_flags
from cmnet_core.mechanics.lagrangian import follow_material
from cmnet_core.mechanics.strain import Direction, WallVoxels
from cmnet_core.qc.flags import STRAIN_PCT
from cmnet_core.qc.result_checks import check_strain

Row = dict[str, Any]

WITHOUT_WALL = {
    *("lv-missing-at-ed", "myo-missing-at-ed", "no-lv-wall"),
    *("too-few-slices", "lv-gap-in-stack", "lv-cut-at-border"),
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
        flags: Reasons of null values and of limited reliability.
        voxels: Voxels of the wall, for strain by other motions; None where no motion of the wall is reported.
    """

    indices: Row
    frames: list[Row]
    segments: list[Row]
    bullseye: list[Row]
    flags: list[str]
    voxels: WallVoxels | None


def wall_rows(
    labels: UInt8[Tensor, "2 z y x"],
    motion: HeartMotion | None,
    facts: TrackingFacts,
    affine: Float64[Tensor, "4 4"],
    raised: Collection[str],
) -> WallRows:
    """Analyse the wall of one case and write the result in the columns of the tables.

    Args:
        labels: Label maps at ED and at ES on the window's grid.
        motion: Motion of the heart, or None where it was not stored.
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
        reasons = flag_segments([*coordinates.flags, "motion-not-stored"], ed, es)
        segments = _numbered(segment_thickness_columns(ed, es), reasons)
        return WallRows(thickness_columns(ed.whole_mm, es.whole_mm), [], segments, [], flags, None)
    analysis = analyse_wall(
        labels[0],
        follow_material(motion.to_ed, motion.crop.of_window(labels[0] == Label.MYO)),
        spacing=spacing,
        affine=affine,
        ed=facts.ed,
        es=facts.es,
        frame_ms=facts.frame_ms,
        labels_es=labels[1],
    )
    flags = [flag for flag in analysis.flags if flag not in raised]
    return _withheld(raised, flags) or _analysis_rows(analysis, flags)


def _withheld(raised: Collection[str], flags: list[str]) -> WallRows | None:
    """The rows of a wall that is not complete: segments without values, each with the reasons; else None."""
    reasons = tuple(sorted({*raised, *flags} & WITHOUT_WALL))
    segments = _numbered([{} for _ in range(SEGMENTS)], (reasons,) * SEGMENTS)
    return WallRows({}, [], segments, [], flags, None) if reasons else None


def _analysis_rows(analysis: WallAnalysis, flags: list[str]) -> WallRows:
    ed, es = analysis.thickness_ed, analysis.thickness_es
    assert es is not None, "the stage gives a label map of ES"
    indices = {
        **global_strain_columns(analysis.strain_summary),
        **_regional_strain_columns(analysis.strain_summary),
        **_line_columns(analysis),
        **_rotation_columns(analysis),
        "dyssynchrony_ms": analysis.dyssynchrony_ms,
        **thickness_columns(ed.whole_mm, es.whole_mm),
    }
    strain = segment_strain_columns(analysis.strain_summary)
    others = (_segment_curve_columns(analysis), _segment_line_columns(analysis), segment_thickness_columns(ed, es))
    segments = [a | b | c | d for a, b, c, d in zip(strain, *others, strict=True)]
    return WallRows(
        indices=indices,
        frames=_frame_columns(analysis),
        segments=_numbered(segments, analysis.segment_flags),
        bullseye=_bullseye_rows(analysis),
        flags=[*flags, *check_strain({name: indices[f"{name}_peak_pct"] for name in STRAIN_PCT})],
        voxels=analysis.voxels,
    )


def _numbered(segments: Sequence[Row], flags: Sequence[Sequence[str]]) -> list[Row]:
    """Rows of the segments with their numbers and flags."""
    numbered = enumerate(zip(segments, flags, strict=True), start=1)
    return [{"segment": number, **row, "qc_flags": list(reasons)} for number, (row, reasons) in numbered]


# ── columns of a case ────────────────────────────────────────────────────────────────────────────────────────────


def global_strain_columns(summary: StrainSummary) -> Row:
    """Peaks, values at ES, times and rates of the global strains."""
    row: Row = {}
    for name, whole in zip(STRAINS, summary.whole, strict=True):
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


def _regional_strain_columns(summary: StrainSummary) -> Row:
    """Peaks over the layers and the levels of the wall."""
    regions = ((LAYERS, summary.layers), (LEVELS, summary.levels))
    return {
        f"{name}_{part}_peak_pct": one.peak
        for parts, summaries in regions
        for name, of_direction in zip(STRAINS, summaries, strict=True)
        for part, one in zip(parts, of_direction, strict=True)
    }


def _line_columns(analysis: WallAnalysis) -> Row:
    """Peaks of engineering strain: of the contours, and along the radius."""
    lines, radial = analysis.line_summary, analysis.engineering_summary.whole[Direction.RADIAL]
    contours = {f"gcs_line_{name}_peak_pct": getattr(lines, name).peak for name in ("endo", "mid", "epi")}
    return contours | {"grs_line_peak_pct": radial.peak}


def _rotation_columns(analysis: WallAnalysis) -> Row:
    """Peaks of rotation, twist and torsion, and the twist at ES."""
    found = analysis.rotation_summary
    return {
        "basal_rotation_deg": found.basal.peak,
        "apical_rotation_deg": found.apical.peak,
        "twist_deg": found.twist.peak,
        "twist_es_deg": found.twist.at_es,
        "torsion_deg_per_cm": found.torsion.peak,
    }


def thickness_columns(ed_mm: float | None, es_mm: float | None) -> Row:
    """Thickness at ED and ES and thickening, of the whole wall or of a segment."""
    return {
        "wall_thickness_ed_mm": ed_mm,
        "wall_thickness_es_mm": es_mm,
        "wall_thickening_pct": thickening_pct(ed_mm, es_mm),
    }


# ── columns of segments, frames and bins ─────────────────────────────────────────────────────────────────────────


def segment_strain_columns(summary: StrainSummary) -> list[Row]:
    """Peaks and times to peak of each AHA segment."""
    rows: list[Row] = [{} for _ in range(SEGMENTS)]
    for name, of_direction in zip(SEGMENT_STRAINS, summary.segments, strict=True):
        for row, one in zip(rows, of_direction, strict=True):
            row |= {f"{name}_peak_pct": one.peak, f"time_to_peak_{name}_ms": one.time_to_peak_ms}
    return rows


def segment_thickness_columns(ed: WallThickness, es: WallThickness) -> list[Row]:
    """Thickness and thickening of each AHA segment."""
    return [thickness_columns(*both) for both in zip(ed.segments_mm, es.segments_mm, strict=True)]


def _segment_curve_columns(analysis: WallAnalysis) -> list[Row]:
    """Circumferential strain of each AHA segment over the cycle; null where it is not known in every frame."""
    curves = analysis.strain.segments[Direction.CIRCUMFERENTIAL].T.tolist()
    return [{"ecc_curve_pct": None if any(map(math.isnan, curve)) else curve} for curve in curves]


def _segment_line_columns(analysis: WallAnalysis) -> list[Row]:
    """Peaks of engineering strain of each AHA segment."""
    segments = analysis.engineering_summary.segments
    both = zip(segments[Direction.CIRCUMFERENTIAL], segments[Direction.RADIAL], strict=True)
    return [{"ecc_line_peak_pct": around.peak, "err_line_peak_pct": radial.peak} for around, radial in both]


def _frame_columns(analysis: WallAnalysis) -> list[Row]:
    """The curves of global strain, rotation and twist, one row for each frame."""
    curves = {f"{name}_pct": curve.tolist() for name, curve in zip(STRAINS, analysis.strain.whole, strict=True)}
    curves |= {
        "basal_rotation_deg": analysis.rotation.basal_deg.tolist(),
        "apical_rotation_deg": analysis.rotation.apical_deg.tolist(),
        "twist_deg": analysis.rotation.twist_deg.tolist(),
    }
    frames = range(len(analysis.motion.frames))
    return [{name: _known(values[frame]) for name, values in curves.items()} for frame in frames]


def _bullseye_rows(analysis: WallAnalysis) -> list[Row]:
    """Strain, displacement and thickness of each bin of the shared space."""
    found = analysis.bins
    if found is None:
        return []
    means = {f"{name}_es_pct": strain for name, strain in zip(SEGMENT_STRAINS, found.strain_es_pct, strict=True)}
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
