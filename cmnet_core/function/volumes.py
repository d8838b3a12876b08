"""Volumes of the cardiac structures, the frames of end-diastole and end-systole, and the clinical indices."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.labels import Label
from cmnet_core.types import Spacing

MYOCARDIAL_DENSITY_G_PER_ML = 1.05
SMOOTH_FROM_FRAMES = 10  # with fewer frames, neighbours are too far apart in the cycle to vouch for each other


@dataclass(frozen=True, slots=True, eq=False)
class Volumes:
    """Volume of each structure in each frame, in mL."""

    lv_ml: Float[Tensor, " t"]
    myo_ml: Float[Tensor, " t"]
    rv_ml: Float[Tensor, " t"]


def volumes_ml(labels: UInt8[Tensor, "t z y x"], spacing: Spacing) -> Volumes:
    """Count voxels: the volume of a structure is that of its voxels, slice gap included."""
    frames = labels.cpu().numpy()
    lv, myo, rv = (
        torch.tensor([np.count_nonzero(frame == label) for frame in frames]).double() * spacing.voxel_ml
        for label in (Label.LV, Label.MYO, Label.RV)
    )
    return Volumes(lv_ml=lv, myo_ml=myo, rv_ml=rv)


def find_phases(lv_ml: Float[Tensor, " t"]) -> tuple[int, int]:
    """The frames (ED, ES) of the largest and the smallest LV volume; of equal ones the earliest.

    From 10 frames on, the curve is smoothed over the closed cycle first (median of three, then weights 1-2-1), so
    that one frame that was segmented badly decides nothing.

    Raises:
        ImageError: The LV has no volume in any frame.
    """
    if float(lv_ml.max()) <= 0:
        raise ImageError(
            "End-diastole was not found: the LV has no volume in any frame.",
            hint="Check that the file is a short-axis cine of the heart, or give ed and es in the manifest.",
            code=ErrorCode.HEART_NOT_FOUND,
        )
    curve = lv_ml.double()
    if len(curve) >= SMOOTH_FROM_FRAMES:
        curve = smooth_cyclic(curve)
    return int(curve.argmax()), int(curve.argmin())


def smooth_cyclic(curve: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """A closed curve in billionths of its maximum: median of three frames, then weights 1-2-1."""
    steady = torch.stack([curve.roll(1), curve, curve.roll(-1)]).median(dim=0).values
    smooth = (steady.roll(1) + 2 * steady + steady.roll(-1)) / 4
    # Rounding must not choose between equal volumes.
    return (smooth / smooth.max() * 1e9).round()


@dataclass(frozen=True, slots=True)
class ClinicalIndices:
    """The nine indices. What cannot be computed is None, and a flag says why.

    Attributes:
        lvedv_ml: LV end-diastolic volume.
        lvesv_ml: LV end-systolic volume.
        lvsv_ml: LV stroke volume, EDV - ESV.
        lvef_pct: LV ejection fraction, 100 SV / EDV.
        lvm_g: LV myocardial mass at ED, 1.05 g/mL.
        rvedv_ml: RV end-diastolic volume, at the LV's ED.
        rvesv_ml: RV end-systolic volume, at the LV's ES.
        rvsv_ml: RV stroke volume.
        rvef_pct: RV ejection fraction.
        flags: ``lv-missing-at-ed`` and the like (a structure without a voxel), ``lv-does-not-contract`` and
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
    flags: tuple[str, ...] = ()


def clinical_indices(volumes: Volumes, *, ed: int, es: int) -> ClinicalIndices:
    """The nine clinical indices from the volumes at two frames, counted from 0.

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
    lv = _function(volumes.lv_ml, ed=ed, es=es, name="lv")
    rv = _function(volumes.rv_ml, ed=ed, es=es, name="rv")
    myo_ml = _present(volumes.myo_ml, ed)
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
        flags=(*lv.flags, *(("myo-missing-at-ed",) if myo_ml is None else ()), *rv.flags),
    )


@dataclass(frozen=True, slots=True)
class _Function:
    """What one ventricle pumps."""

    edv_ml: float | None
    esv_ml: float | None
    sv_ml: float | None
    ef_pct: float | None
    flags: tuple[str, ...]


def _present(volume_ml: Float[Tensor, " t"], frame: int) -> float | None:
    value = float(volume_ml[frame])
    return value if value > 0 else None


def _function(volume_ml: Float[Tensor, " t"], *, ed: int, es: int, name: str) -> _Function:
    edv, esv = _present(volume_ml, ed), _present(volume_ml, es)
    if edv is None or esv is None:
        missing = tuple(f"{name}-missing-at-{phase}" for phase, ml in (("ed", edv), ("es", esv)) if ml is None)
        return _Function(edv, esv, None, None, missing)
    flags = () if esv < edv else (f"{name}-does-not-contract",)
    return _Function(edv, esv, edv - esv, 100 * (edv - esv) / edv, flags)


def heart_rate_bpm(*, frames: int, frame_ms: float) -> float:
    """Beats per minute of a cine whose frames cover one whole cycle."""
    return 60_000 / (frames * frame_ms)


def cardiac_output_l_min(sv_ml: float | None, heart_rate: float | None) -> float | None:
    """Litres per minute: stroke volume times heart rate in beats per minute; None where either is unknown."""
    return None if sv_ml is None or heart_rate is None else sv_ml * heart_rate / 1000


class BodySurfaceFormula(StrEnum):
    """Which formula estimates the body surface area."""

    MOSTELLER = "mosteller"
    DU_BOIS = "du-bois"


def body_surface_area_m2(
    height_cm: float, weight_kg: float, *, formula: BodySurfaceFormula = BodySurfaceFormula.MOSTELLER
) -> float | None:
    """Body surface area; None where height or weight cannot be those of a person in cm and kg.

    Mosteller, N Engl J Med 317 (1987) 1098: ``√(cm · kg / 3600)``. Du Bois and Du Bois, Arch Intern Med 17 (1916)
    863: ``0.007184 · cm^0.725 · kg^0.425``.
    """
    if not (40 <= height_cm <= 260 and 2 <= weight_kg <= 400):
        return None
    if formula is BodySurfaceFormula.MOSTELLER:
        return math.sqrt(height_cm * weight_kg / 3600)
    return float(0.007184 * height_cm**0.725 * weight_kg**0.425)
