"""Volumes of the cardiac structures, detection of end-diastole and end-systole, and the clinical indices."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.labels import Label
from cmnet_core.types import Spacing

MYOCARDIAL_DENSITY_G_PER_ML = 1.05
"""Density of myocardium in g/mL, which turns its volume into mass."""

SMOOTH_FROM_FRAMES = 10
"""Frames of a cycle from which on curves are smoothed; with fewer of them, neighbours are too far apart in time."""


@dataclass(frozen=True, slots=True, eq=False)
class Volumes:
    """Volume of each structure in each frame, in mL.

    Attributes:
        lv_ml: LV cavity.
        myo_ml: LV myocardium.
        rv_ml: RV cavity.
    """

    lv_ml: Float[Tensor, " t"]
    myo_ml: Float[Tensor, " t"]
    rv_ml: Float[Tensor, " t"]


def volumes_ml(labels: UInt8[Tensor, "t z y x"], spacing: Spacing) -> Volumes:
    """Compute the volume of each structure as that of its voxels, slice gap included.

    Args:
        labels: Label maps of all frames.
        spacing: Voxel spacing in mm, slice gap included.
    """
    frames = labels.cpu().numpy()
    lv, myo, rv = (
        torch.tensor([np.count_nonzero(frame == label) for frame in frames]).double() * spacing.voxel_ml
        for label in (Label.LV, Label.MYO, Label.RV)
    )
    return Volumes(lv_ml=lv, myo_ml=myo, rv_ml=rv)


def find_phases(lv_ml: Float[Tensor, " t"]) -> tuple[int, int]:
    """Find the frames (ED, ES) of the largest and the smallest LV volume; of equal volumes the earliest.

    From 10 frames on, the curve is smoothed over the closed cycle first, so that one badly segmented frame does not
    change the result.

    Args:
        lv_ml: LV volume in every frame, in mL.

    Raises:
        ImageError: The LV has no volume in any frame.
    """
    if float(lv_ml.max()) <= 0:
        raise ImageError(
            "End-diastole was not found: the LV has no volume in any frame.",
            hint="Check that the file is a short-axis cine of the heart, or give ed and es in the manifest.",
            code=ErrorCode.HEART_NOT_FOUND,
        )
    curve = smooth_volume_curve(lv_ml.double())
    return int(curve.argmax()), int(curve.argmin())


def smooth_cyclic(curve: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """Smooth a curve over the closed cycle: median of three frames, then weights 1-2-1; unchanged below 10 frames.

    Args:
        curve: Values in all frames of the cycle.
    """
    if len(curve) < SMOOTH_FROM_FRAMES:
        return curve
    median = torch.stack([curve.roll(1), curve, curve.roll(-1)]).median(dim=0).values
    smooth: Tensor = (median.roll(1) + 2.0 * median + median.roll(-1)) / 4.0
    return smooth


def smooth_volume_curve(lv_ml: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """Smooth a volume curve and express it in billionths of its maximum; unchanged below 10 frames.

    Args:
        lv_ml: LV volume in every frame, in mL.
    """
    if len(lv_ml) < SMOOTH_FROM_FRAMES:
        return lv_ml
    smooth = smooth_cyclic(lv_ml)
    # Rounded, so that rounding errors do not decide between equal volumes.
    return (smooth / smooth.max() * 1e9).round()


@dataclass(frozen=True, slots=True)
class ClinicalIndices:
    """The nine clinical indices; one that cannot be computed is None, and a flag gives the reason.

    Attributes:
        lvedv_ml: LV end-diastolic volume in mL.
        lvesv_ml: LV end-systolic volume in mL.
        lvsv_ml: LV stroke volume in mL, EDV - ESV.
        lvef_pct: LV ejection fraction in %, 100 SV / EDV.
        lvm_g: LV myocardial mass at ED in g, 1.05 g/mL.
        rvedv_ml: RV volume at the LV's ED in mL.
        rvesv_ml: RV volume at the LV's ES in mL.
        rvsv_ml: RV stroke volume in mL.
        rvef_pct: RV ejection fraction in %.
        flags: ``lv-missing-at-ed`` and the like (a structure has no voxel), ``lv-does-not-contract`` and
            ``rv-does-not-contract`` (ESV is not smaller than EDV).
    """

    lvedv_ml: float | None
    lvesv_ml: float | None
    lvsv_ml: float | None
    lvef_pct: float | None
    lvm_g: float | None
    rvedv_ml: float | None
    rvesv_ml: float | None
    rvsv_ml: float | None
    rvef_pct: float | None
    flags: tuple[QCFlag, ...] = ()


def clinical_indices(volumes: Volumes, *, ed: int, es: int) -> ClinicalIndices:
    """Compute the nine clinical indices from the volumes at ED and ES.

    Args:
        volumes: Volumes in every frame.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.

    Raises:
        GeometryError: A frame is not among the volumes.
    """
    frames = len(volumes.lv_ml)
    if not (0 <= ed < frames and 0 <= es < frames):
        raise GeometryError(
            f"ED and ES must be frames 0 to {frames - 1}, found ed={ed} and es={es}.",
            hint="Frames are counted from 0; leave ed and es empty to have them found.",
            code=ErrorCode.GEOMETRY,
        )
    lv = _pump_function(volumes.lv_ml, ed=ed, es=es, name="lv")
    rv = _pump_function(volumes.rv_ml, ed=ed, es=es, name="rv")
    myo_ml = _volume_or_none(volumes.myo_ml, ed)
    return ClinicalIndices(
        lvedv_ml=lv.edv_ml,
        lvesv_ml=lv.esv_ml,
        lvsv_ml=lv.sv_ml,
        lvef_pct=lv.ef_pct,
        lvm_g=None if myo_ml is None else myo_ml * MYOCARDIAL_DENSITY_G_PER_ML,
        rvedv_ml=rv.edv_ml,
        rvesv_ml=rv.esv_ml,
        rvsv_ml=rv.sv_ml,
        rvef_pct=rv.ef_pct,
        flags=(*lv.flags, *((QCFlag.MYO_MISSING_AT_ED,) if myo_ml is None else ()), *rv.flags),
    )


@dataclass(frozen=True, slots=True)
class PumpIndices:
    """Indices that combine volumes and mass; one that cannot be computed is None.

    Attributes:
        sv_difference_ml: RV minus LV stroke volume in mL.
        sv_difference_pct: The same in % of the larger of both.
        lv_mass_to_volume_g_per_ml: LV mass divided by LV end-diastolic volume in g/mL.
        lv_contraction_fraction_pct: Myocardial contraction fraction in %, stroke volume divided by myocardial volume
            (King et al., J Am Coll Cardiol 40 (2002) 325).
        lv_global_function_index_pct: LV global function index in %, stroke volume divided by the sum of mean cavity
            volume and myocardial volume (Mewton et al., Am J Physiol 305 (2013) H1443).
    """

    sv_difference_ml: float | None
    sv_difference_pct: float | None
    lv_mass_to_volume_g_per_ml: float | None
    lv_contraction_fraction_pct: float | None
    lv_global_function_index_pct: float | None


def pump_indices(function: ClinicalIndices) -> PumpIndices:
    """Compute the indices that combine volumes and mass.

    Args:
        function: The nine clinical indices.
    """
    lv, rv = function.lvsv_ml, function.rvsv_ml
    difference = None if lv is None or rv is None else rv - lv
    larger = None if lv is None or rv is None else max(lv, rv)
    edv, esv, mass = function.lvedv_ml, function.lvesv_ml, function.lvm_g
    myocardium = None if not mass else mass / MYOCARDIAL_DENSITY_G_PER_ML
    total = None if edv is None or esv is None or myocardium is None else 0.5 * (edv + esv) + myocardium
    return PumpIndices(
        sv_difference_ml=difference,
        sv_difference_pct=None if difference is None or not larger or larger < 0 else 100.0 * difference / larger,
        lv_mass_to_volume_g_per_ml=None if mass is None or edv is None else mass / edv,
        lv_contraction_fraction_pct=None if lv is None or not myocardium else 100.0 * lv / myocardium,
        lv_global_function_index_pct=None if lv is None or not total else 100.0 * lv / total,
    )


_MISSING = {
    "lv": (QCFlag.LV_MISSING_AT_ED, QCFlag.LV_MISSING_AT_ES),
    "rv": (QCFlag.RV_MISSING_AT_ED, QCFlag.RV_MISSING_AT_ES),
}
_DOES_NOT_CONTRACT = {"lv": QCFlag.LV_DOES_NOT_CONTRACT, "rv": QCFlag.RV_DOES_NOT_CONTRACT}


@dataclass(frozen=True, slots=True)
class _PumpFunction:
    """Volumes and ejection fraction of one ventricle."""

    edv_ml: float | None
    esv_ml: float | None
    sv_ml: float | None
    ef_pct: float | None
    flags: tuple[QCFlag, ...]


def _volume_or_none(volume_ml: Float[Tensor, " t"], frame: int) -> float | None:
    value = float(volume_ml[frame])
    return value if value > 0 else None


def _pump_function(volume_ml: Float[Tensor, " t"], *, ed: int, es: int, name: str) -> _PumpFunction:
    edv, esv = _volume_or_none(volume_ml, ed), _volume_or_none(volume_ml, es)
    if edv is None or esv is None:
        at_ed, at_es = _MISSING[name]
        missing = tuple(flag for flag, ml in ((at_ed, edv), (at_es, esv)) if ml is None)
        return _PumpFunction(edv, esv, None, None, missing)
    flags = () if esv < edv else (_DOES_NOT_CONTRACT[name],)
    return _PumpFunction(edv, esv, edv - esv, 100 * (edv - esv) / edv, flags)


def heart_rate_bpm(*, frames: int, frame_ms: float) -> float:
    """Compute the heart rate in beats per minute of a cine whose frames cover one whole cycle.

    Args:
        frames: Number of frames.
        frame_ms: Time between two frames in ms.
    """
    return 60_000 / (frames * frame_ms)


def cardiac_output_l_min(sv_ml: float | None, heart_rate: float | None) -> float | None:
    """Compute cardiac output in L/min, stroke volume times heart rate; None where either is unknown.

    Args:
        sv_ml: Stroke volume in mL.
        heart_rate: Heart rate in beats per minute.
    """
    return None if sv_ml is None or heart_rate is None else sv_ml * heart_rate / 1000


class BodySurfaceFormula(StrEnum):
    """Formula for the body surface area."""

    MOSTELLER = "mosteller"
    DU_BOIS = "du-bois"


def body_surface_area_m2(
    height_cm: float, weight_kg: float, *, formula: BodySurfaceFormula = BodySurfaceFormula.MOSTELLER
) -> float | None:
    """Estimate body surface area in m²; None where height or weight cannot be those of a person in cm and kg.

    Mosteller, N Engl J Med 317 (1987) 1098: ``√(cm · kg / 3600)``. Du Bois and Du Bois, Arch Intern Med 17 (1916)
    863: ``0.007184 · cm^0.725 · kg^0.425``.

    Args:
        height_cm: Height in cm.
        weight_kg: Weight in kg.
        formula: Formula to use.
    """
    if not (40 <= height_cm <= 260 and 2 <= weight_kg <= 400):
        return None
    if formula is BodySurfaceFormula.MOSTELLER:
        return math.sqrt(height_cm * weight_kg / 3600)
    return float(0.007184 * height_cm**0.725 * weight_kg**0.425)
