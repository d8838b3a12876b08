"""The mechanics of one left ventricle, from its label map and its motion to one record: start here for strain.

The parts are in the other modules of this package and of :mod:`cmnet_core.geometry`; this module puts them in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.flags import QCFlag
from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates, lv_coordinates
from cmnet_core.geometry.shared_bins import bin_means, bin_of
from cmnet_core.geometry.wall_thickness import WallThickness, wall_thickness
from cmnet_core.labels import Label
from cmnet_core.mechanics.lagrangian import MaterialMotion, follow_material
from cmnet_core.mechanics.line_strain import LineStrain, line_strain
from cmnet_core.mechanics.rotation import Rotation, rotation
from cmnet_core.mechanics.strain import (
    SIGN,
    Deformation,
    Direction,
    RegionalStrain,
    WallVoxels,
    deform,
    engineering_strain,
    regional_strain,
    wall_voxels,
)
from cmnet_core.mechanics.strain_curves import (
    FRAMES_FOR_TIMES,
    CurveSummary,
    Timing,
    dyssynchrony_ms,
    summarise_all,
)
from cmnet_core.mechanics.ukb_strain import UKBStrain, ukb_strain
from cmnet_core.types import MotionField, Spacing

_MEASURED = Direction.LONGITUDINAL
"""Number of directions whose strain raises flags: a stack of short-axis slices does not measure the longitudinal."""


@dataclass(frozen=True, slots=True)
class StrainSummary:
    """Summaries of the curves of a :class:`RegionalStrain`, by :class:`Direction` and then by region.

    Attributes:
        whole: Of the whole wall.
        layers: Of the endocardial, middle and epicardial third of the depth.
        levels: Of the basal, middle and apical third of the length.
        segments: Of AHA segments 1 to 16.
    """

    whole: tuple[CurveSummary, ...]
    layers: tuple[tuple[CurveSummary, ...], ...]
    levels: tuple[tuple[CurveSummary, ...], ...]
    segments: tuple[tuple[CurveSummary, ...], ...]


@dataclass(frozen=True, slots=True)
class LineStrainSummary:
    """Summaries of the curves of a :class:`LineStrain`."""

    endo: CurveSummary
    midwall: CurveSummary
    epi: CurveSummary


@dataclass(frozen=True, slots=True)
class RotationSummary:
    """Summaries of the curves of a :class:`Rotation`."""

    basal: CurveSummary
    apical: CurveSummary
    twist: CurveSummary
    torsion: CurveSummary
    shear: CurveSummary


@dataclass(frozen=True, slots=True, eq=False)
class WallBins:
    """Means over the bins that all ventricles share, in the order of :func:`shared_bins.bins`; NaN in an empty bin.

    Attributes:
        engineering_es_pct: Engineering strain at ES in %, by :class:`Direction`.
        strain_es_pct: Green-Lagrange strain at ES in %, by :class:`Direction`.
        displacement_es_mm: Displacement from ED to ES in mm: outward, around the axis, towards the apex.
        thickness_ed_mm: Wall thickness at ED in mm.
        voxels: Number of voxels in the bin.
    """

    engineering_es_pct: Float[Tensor, "3 bins"]
    strain_es_pct: Float[Tensor, "3 bins"]
    displacement_es_mm: Float[Tensor, "3 bins"]
    thickness_ed_mm: Float[Tensor, " bins"]
    voxels: Int64[Tensor, " bins"]


@dataclass(frozen=True, slots=True, eq=False)
class WallAnalysis:
    """Geometry and mechanics of the LV wall over a cardiac cycle, reference ED.

    Curves have one value for each frame of ``motion.frames``. A value that is not defined is NaN in a curve and None in
    a summary, and a flag gives the reason.

    Attributes:
        coordinates: Longitudinal, circumferential and transmural coordinates of the wall at ED.
        thickness_ed: Wall thickness at ED.
        thickness_es: Wall thickness at ES, or None where no label map of ES was given.
        voxels: Voxels of the myocardium at ED, with their coordinates and the operator that differentiates on them.
        motion: Displacement of these voxels from ED.
        deformation: Deformation gradient and Green-Lagrange strain of these voxels.
        timing: ED and ES as positions in the curves, and the time between two frames.
        strain: Green-Lagrange strain in %, mean over the wall, its layers, levels and segments.
        engineering_strain: Engineering strain √(1 + 2E) - 1 in % along the same directions, over the same regions.
        line_strain: Change of length of the endocardial, mid-wall and epicardial contours in %.
        ukb_strain: Strain by the definition of the UK Biobank's derived fields, in %.
        rotation: Basal and apical rotation, twist and torsion.
        strain_summary: Peaks, values at ES, times and rates of ``strain``.
        engineering_summary: The same of ``engineering_strain``.
        line_summary: The same of ``line_strain``.
        rotation_summary: The same of ``rotation``.
        dyssynchrony_ms: Standard deviation of the segments' times to peak circumferential strain.
        bins: Means over the bins that all ventricles share, or None where the coordinates do not define them.
        flags: Reasons of undefined values and of limited reliability.
        segment_flags: The same for each AHA segment.
    """

    coordinates: LVCoordinates
    thickness_ed: WallThickness
    thickness_es: WallThickness | None
    voxels: WallVoxels
    motion: MaterialMotion
    deformation: Deformation
    timing: Timing
    strain: RegionalStrain
    engineering_strain: RegionalStrain
    line_strain: LineStrain
    ukb_strain: UKBStrain
    rotation: Rotation
    strain_summary: StrainSummary
    engineering_summary: StrainSummary
    line_summary: LineStrainSummary
    rotation_summary: RotationSummary
    dyssynchrony_ms: float | None
    bins: WallBins | None
    flags: tuple[QCFlag, ...]
    segment_flags: tuple[tuple[QCFlag, ...], ...]

    @property
    def grs_pct(self) -> Float[Tensor, " t"]:
        """Global radial strain in every frame, in %."""
        return self.strain.whole[Direction.RADIAL]

    @property
    def gcs_pct(self) -> Float[Tensor, " t"]:
        """Global circumferential strain in every frame, in %."""
        return self.strain.whole[Direction.CIRCUMFERENTIAL]

    @property
    def gls_sax_pct(self) -> Float[Tensor, " t"]:
        """Global longitudinal strain along the short-axis stack in every frame, in %."""
        return self.strain.whole[Direction.LONGITUDINAL]


def analyse_wall(
    labels_ed: UInt8[Tensor, "z y x"],
    motion: Sequence[MotionField] | MaterialMotion,
    *,
    spacing: Spacing,
    affine: Float64[Tensor, "4 4"],
    ed: int,
    es: int,
    frame_ms: float | None,
    labels_es: UInt8[Tensor, "z y x"] | None = None,
) -> WallAnalysis:
    """Analyse the LV wall at ED and its motion over the cycle.

    Strain is Green-Lagrange, ``E = ½(FᵀF - I)``, reference ED, along the ventricle's own radial, circumferential and
    longitudinal directions::

        wall = analyse_wall(labels[ed], fields, spacing=spacing, affine=affine, ed=ed, es=es, frame_ms=30.0)
        wall.gcs_pct[es]                                                       # in %
        wall.strain_summary.whole[Direction.CIRCUMFERENTIAL].peak             # in %
        wall.strain_summary.segments[Direction.CIRCUMFERENTIAL][8].peak       # AHA segment 9

    Args:
        labels_ed: Label map at ED.
        motion: Displacement fields as :func:`follow_material` takes them, each fixed at its own frame and pointing into
            ED, on the grid of the label map. Where the fields cover a part of that grid only, or the motion of each
            voxel is known otherwise: the displacement of the myocardium's voxels, in the order of
            ``(labels_ed == Label.MYO).nonzero()``.
        spacing: Voxel spacing of the label map in mm.
        affine: Maps a voxel index ``(z, y, x, 1)`` of the label map to scanner millimetres (RAS+).
        ed: End-diastolic frame.
        es: End-systolic frame.
        frame_ms: Time between two frames in ms, or None where it is not known; there are then no times and no rates.
        labels_es: Label map at ES on the same grid, for the thickness of the wall there.

    Raises:
        GeometryError: The motion does not refer to ED, lacks ES, or does not fit the label map.
    """
    myocardium = labels_ed == Label.MYO
    material = motion if isinstance(motion, MaterialMotion) else follow_material(motion, myocardium)
    if material.ed != ed or es not in material.frames:
        raise GeometryError(
            f"The motion refers to frame {material.ed} and has frames {material.frames}; expected ED {ed} and ES {es}.",
            hint="Give ED-referenced motion, with the frames ed and es among its frames.",
            code=ErrorCode.GEOMETRY,
        )
    timing = Timing(material.frames.index(ed), material.frames.index(es), frame_ms)

    coordinates = lv_coordinates(labels_ed, spacing, affine)
    has_thirds = QCFlag.TOO_FEW_SLICES_FOR_SEGMENTS not in coordinates.flags
    thickness_ed = wall_thickness(coordinates)
    thickness_es = None if labels_es is None else wall_thickness(lv_coordinates(labels_es, spacing, affine))

    voxels = wall_voxels(coordinates, myocardium, spacing)
    deformation = deform(voxels, material)
    strain = regional_strain(voxels, deformation)
    engineering = regional_strain(voxels, replace(deformation, strain=engineering_strain(deformation.strain)))
    lines = line_strain(voxels, material, deformation)
    turned = rotation(voxels, material)
    if not has_thirds:
        strain, engineering = (replace(s, levels=torch.full_like(s.levels, torch.nan)) for s in (strain, engineering))
        turned = Rotation(*(torch.full_like(turned.twist_deg, torch.nan),) * 5)

    strain_summary, rotation_summary = summarise_strain(strain, timing), summarise_rotation(turned, timing)
    line_summary = summarise_lines(lines, timing)
    dyssynchrony = dyssynchrony_ms([one.time_to_peak_ms for one in strain_summary.segments[Direction.CIRCUMFERENTIAL]])

    without_times = timing_flags(frames=len(material.frames), frame_ms=frame_ms)
    reasons = (*coordinates.flags, *without_times)
    remarks = {
        QCFlag.TWIST_NOT_CONSTRAINED_BY_MASKS: rotation_summary.twist.peak is not None,
        QCFlag.LEVEL_MISSING: has_thirds and rotation_summary.twist.peak is None,
        QCFlag.NO_CLOSED_SLICE: line_summary.midwall.peak is None,
        QCFlag.WALL_STRETCHES: has_systolic_stretch(strain_summary.whole[:_MEASURED], has_times=not without_times),
        QCFlag.FEW_SEGMENTS_WITH_TIMES: not without_times and dyssynchrony is None,
    }
    return WallAnalysis(
        coordinates=coordinates,
        thickness_ed=thickness_ed,
        thickness_es=thickness_es,
        voxels=voxels,
        motion=material,
        deformation=deformation,
        timing=timing,
        strain=strain,
        engineering_strain=engineering,
        line_strain=lines,
        ukb_strain=ukb_strain(voxels, material, deformation),
        rotation=turned,
        strain_summary=strain_summary,
        engineering_summary=summarise_strain(engineering, timing),
        line_summary=line_summary,
        rotation_summary=rotation_summary,
        dyssynchrony_ms=dyssynchrony,
        bins=_bin_wall(voxels, material, deformation, timing.es) if has_thirds else None,
        flags=(*reasons, *(flag for flag, raised in remarks.items() if raised)),
        segment_flags=flag_segments(reasons, thickness_ed, thickness_es, strain_summary),
    )


# ── summaries ────────────────────────────────────────────────────────────────────────────────────────────────────


def summarise_strain(strain: RegionalStrain, timing: Timing) -> StrainSummary:
    """Summarise every curve of a regional strain, each in the direction in which its strain contracts."""
    parts = (strain.whole[..., None], strain.layers, strain.levels, strain.segments)
    curves, ends = torch.cat(parts, dim=-1), list(accumulate((part.shape[-1] for part in parts), initial=0))
    found = [tuple(summarise_all(curves[d].T, timing, sign=SIGN[d])) for d in Direction]
    whole, layers, levels, segments = (
        tuple(of_direction[start:end] for of_direction in found) for start, end in pairwise(ends)
    )
    return StrainSummary(tuple(one for [one] in whole), layers, levels, segments)


def summarise_lines(lines: LineStrain, timing: Timing) -> LineStrainSummary:
    """Summarise the curves of the three contours, which shorten in systole."""
    sign = SIGN[Direction.CIRCUMFERENTIAL]
    curves = torch.stack([lines.endo_pct, lines.midwall_pct, lines.epi_pct])
    return LineStrainSummary(*summarise_all(curves, timing, sign=sign))


def summarise_rotation(turned: Rotation, timing: Timing) -> RotationSummary:
    """Summarise the curves of rotation, twist and torsion, each in the direction in which it deflects more."""
    curves = (turned.basal_deg, turned.apical_deg, turned.twist_deg, turned.torsion_deg_cm, turned.shear_deg)
    return RotationSummary(*summarise_all(torch.stack(curves), timing, sign=None))


# ── flags ────────────────────────────────────────────────────────────────────────────────────────────────────────


def timing_flags(*, frames: int, frame_ms: float | None) -> tuple[QCFlag, ...]:
    """Reasons why a cycle of so many frames has no times and no rates; none where it has them."""
    reasons = ((QCFlag.NO_FRAME_TIME, frame_ms is None), (QCFlag.TOO_FEW_FRAMES, frames < FRAMES_FOR_TIMES))
    return tuple(flag for flag, raised in reasons if raised)


def has_systolic_stretch(whole: Sequence[CurveSummary], *, has_times: bool) -> bool:
    """Whether a global strain never contracts, so that its peak has no time, or has the wrong sign at ES.

    Args:
        whole: Summaries of the global strains by :class:`Direction`, or of the first of them.
        has_times: Whether the cycle has times at all.
    """
    never_contracts = has_times and any(one.time_to_peak_ms is None for one in whole)
    return never_contracts or any(
        one.at_es is not None and SIGN[direction] * one.at_es < 0.0
        for direction, one in zip(Direction, whole, strict=False)
    )


def flag_segments(
    reasons: Sequence[QCFlag],
    thickness_ed: WallThickness,
    thickness_es: WallThickness | None,
    strain: StrainSummary | None = None,
) -> tuple[tuple[QCFlag, ...], ...]:
    """Flags of each AHA segment: those of the whole wall, then the one that gives the reason of its own gaps.

    Args:
        reasons: Flags of the whole wall.
        thickness_ed: Thickness at ED, which a segment that is not visible lacks.
        thickness_es: Thickness at ES, or None where it was not measured.
        strain: Summaries of the strain, or None without motion.
    """
    if {QCFlag.RV_INSERTION_NOT_FOUND, QCFlag.TOO_FEW_SLICES_FOR_SEGMENTS} & set(reasons):
        return (tuple(reasons),) * SEGMENTS
    has_times = not {QCFlag.NO_FRAME_TIME, QCFlag.TOO_FEW_FRAMES} & set(reasons)
    flags = []
    for number in range(SEGMENTS):
        if thickness_ed.segments_mm[number] is None:
            own = [QCFlag.SEGMENT_MISSING_AT_ED]
        elif thickness_es is not None and thickness_es.segments_mm[number] is None:
            own = [QCFlag.SEGMENT_MISSING_AT_ES]
        elif strain and has_times and any(of[number].time_to_peak_ms is None for of in strain.segments[:_MEASURED]):
            own = [QCFlag.SEGMENT_DOES_NOT_CONTRACT]
        else:
            own = []
        flags.append((*reasons, *own))
    return tuple(flags)


# ── bins ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bin_wall(voxels: WallVoxels, motion: MaterialMotion, deformation: Deformation, es: int) -> WallBins | None:
    number = bin_of(voxels.longitudinal, voxels.circumferential_deg, voxels.transmural)
    if not bool((number >= 0).any()):
        return None
    displacement = torch.einsum("nd,nkd->kn", motion.displacement_mm[es], voxels.directions)
    green = deformation.strain[:, es]
    strains = 100.0 * torch.cat([engineering_strain(green), green])
    values = torch.cat([strains, displacement, voxels.thickness_mm[None]])
    means, count = bin_means(values, torch.where(voxels.ventricular, number, -1))
    return WallBins(means[:3], means[3:6], means[6:9], means[9], count)
