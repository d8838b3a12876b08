"""Plausibility of results: quality flags from label maps, volumes, motion and strain.

The documentation of each flag is in :mod:`cmnet_core.qc.flags`, its threshold in :mod:`cmnet_core.qc.thresholds`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.function.volumes import ClinicalIndices, pump_indices, smooth_volume_curve
from cmnet_core.labels import Label
from cmnet_core.qc import thresholds

LabelMap = UInt8[Tensor, "z y x"]

LV_TRUNCATED = frozenset({QCFlag.TOO_FEW_SLICES, QCFlag.LV_GAP_IN_STACK, QCFlag.LV_CUT_AT_BORDER})
"""Flags that withhold the LV's volumes and mass."""

RV_TRUNCATED = frozenset({QCFlag.TOO_FEW_SLICES, QCFlag.RV_GAP_IN_STACK, QCFlag.RV_CUT_AT_BORDER})
"""Flags that withhold the RV's volumes."""

_GAPS = {Label.LV: QCFlag.LV_GAP_IN_STACK, Label.RV: QCFlag.RV_GAP_IN_STACK}
_CONNECTED = ((Label.LV,), (Label.LV, Label.MYO), (Label.RV,))
_CUTS = {QCFlag.LV_CUT_AT_BORDER: (Label.LV, Label.MYO), QCFlag.RV_CUT_AT_BORDER: (Label.RV,)}


@dataclass(frozen=True, slots=True, eq=False)
class PhaseLabels:
    """The label maps at end-diastole and end-systole.

    Attributes:
        ed: The label map at end-diastole.
        es: The label map at end-systole.
    """

    ed: LabelMap
    es: LabelMap

    @property
    def phases(self) -> tuple[LabelMap, LabelMap]:
        """Both label maps, ED first."""
        return self.ed, self.es


def check_contours(own: PhaseLabels, window: PhaseLabels) -> Iterator[QCFlag]:
    """Yield the flags about slices, coverage and borders; a structure that is missing altogether has its own flags.

    Args:
        own: The label maps on the subject's own grid, which ends with the image.
        window: The label maps on the grid of the networks' window.
    """
    yield from _check_slices(own.ed)
    yield from _check_coverage(own)
    for cavity, flag in _GAPS.items():
        if any(_has_gap(labels == cavity) for labels in own.phases):
            yield flag
    if any(_is_fragmented(_mask(labels, *structure)) for structure in _CONNECTED for labels in own.phases):
        yield QCFlag.CONTOURS_FRAGMENTED
    for flag, structure in _CUTS.items():
        in_image = any(_touches_border(_mask(labels, *structure), rows=1) for labels in own.phases)
        # Resampling to the subject's own grid and back removes one voxel of a label at the window's edge.
        if in_image or any(_touches_border(_mask(labels, *structure), rows=2) for labels in window.phases):
            yield flag


def _mask(labels: LabelMap, *classes: Label) -> Bool[Tensor, "z y x"]:
    return torch.isin(labels, torch.tensor([int(label) for label in classes], dtype=labels.dtype))


def _cavity_areas(labels: LabelMap) -> Float[Tensor, " z"]:
    """Number of voxels of the LV cavity in each slice."""
    return (labels == Label.LV).sum(dim=(1, 2)).float()


def _check_slices(at_ed: LabelMap) -> Iterator[QCFlag]:
    slices = int((_cavity_areas(at_ed) > 0).sum())
    if 0 < slices < thresholds.FEWEST_SLICES:
        yield QCFlag.TOO_FEW_SLICES
    elif 0 < slices < thresholds.FULL_LENGTH_SLICES:
        yield QCFlag.FEW_SLICES


def _check_coverage(labels: PhaseLabels) -> Iterator[QCFlag]:
    at_ed, at_es = _cavity_areas(labels.ed), _cavity_areas(labels.es)
    visible = at_ed[at_ed > 0]
    # The base is the end of the ventricle with more cavity; with equal ends, as in a cylinder, the first end.
    base, apex = (0, -1) if len(visible) == 0 or visible[0] >= visible[-1] else (-1, 0)
    if float(at_es.max()) > 0 and at_es[base] >= thresholds.BASE_FRACTION * at_es.max():
        yield QCFlag.BASE_NOT_COVERED
    if len(visible) and visible[apex] >= thresholds.APEX_FRACTION * visible.max():
        yield QCFlag.APEX_NOT_COVERED


def _has_gap(mask: Bool[Tensor, "z y x"]) -> bool:
    slices = mask.any(dim=(1, 2)).nonzero()
    return bool(len(slices)) and int(slices[-1] - slices[0]) + 1 > len(slices)


def _is_fragmented(mask: Bool[Tensor, "z y x"]) -> bool:
    """Return whether a structure has a second part of considerable size in any slice (8-connectivity)."""
    for plane in mask.numpy():
        parts, count = ndimage.label(plane, structure=np.ones((3, 3)))
        if count > 1:
            areas = np.sort(np.bincount(parts.ravel())[1:])
            if areas[-2] > thresholds.FRAGMENT_FRACTION * areas.sum():
                return True
    return False


def _touches_border(mask: Bool[Tensor, "z y x"], *, rows: int) -> bool:
    edges = (mask[:, :rows], mask[:, -rows:], mask[:, :, :rows], mask[:, :, -rows:])
    return any(bool(edge.any()) for edge in edges)


def check_function(indices: ClinicalIndices) -> Iterator[QCFlag]:
    """Yield the flags about ejection fractions and stroke volumes."""
    for flag, name, value in (
        (QCFlag.LVEF_IMPLAUSIBLE, "lv", indices.lvef_pct),
        (QCFlag.RVEF_IMPLAUSIBLE, "rv", indices.rvef_pct),
    ):
        low, high = thresholds.EF_PCT[name]
        if value is not None and not low <= value <= high:
            yield flag
    difference_pct = pump_indices(indices).sv_difference_pct
    if difference_pct is not None and abs(difference_pct) >= thresholds.STROKE_DIFFERENCE_PCT:
        yield QCFlag.STROKE_VOLUMES_DIFFER
    if difference_pct is not None and abs(difference_pct) >= thresholds.WIDE_STROKE_DIFFERENCE_PCT:
        yield QCFlag.STROKE_VOLUMES_DIFFER_WIDELY


def check_volume_curve(lv_ml: Float[Tensor, " t"], *, given_ed: int | None, given_es: int | None) -> Iterator[QCFlag]:
    """Yield the flags about the LV volume over the cycle.

    Args:
        lv_ml: LV volume of every frame, in mL.
        given_ed: The ED frame of the manifest, or None if ED was detected.
        given_es: The ES frame of the manifest, or None if ES was detected.
    """
    range_ml = float(lv_ml.max() - lv_ml.min())
    if range_ml <= 0:
        return
    if len(lv_ml) >= thresholds.CURVE_FROM_FRAMES and _main_minima(lv_ml) > 1:
        yield QCFlag.MULTIPLE_VOLUME_MINIMA
    allowed_ml = thresholds.PHASE_FRACTION * range_ml
    if given_ed is not None and float(lv_ml.max() - lv_ml[given_ed]) > allowed_ml:
        yield QCFlag.ED_INCONSISTENT_WITH_VOLUMES
    if given_es is not None and float(lv_ml[given_es] - lv_ml.min()) > allowed_ml:
        yield QCFlag.ES_INCONSISTENT_WITH_VOLUMES


def _main_minima(lv_ml: Float[Tensor, " t"]) -> int:
    """Number of minima of the cyclic curve whose prominence exceeds the fraction of its range."""
    curve = smooth_volume_curve(lv_ml.double()).numpy()
    # Opened at its maximum, the cyclic curve has no minimum at its ends.
    opened = np.roll(curve, -int(curve.argmax()))
    opened = np.append(opened, opened[0])
    # A fall by the prominence and then a rise by it enclose such a minimum. Importing scipy.signal would take a second.
    prominence, minima, falling, turn = thresholds.MINIMUM_PROMINENCE * float(np.ptp(opened)), 0, True, opened[0]
    for volume in opened:
        turn = max(turn, volume) if falling else min(turn, volume)
        if abs(volume - turn) >= prominence:
            minima += not falling
            falling, turn = not falling, volume
    return minima


def check_motion(
    *,
    folded_voxels: int,
    cycle_consistency_error_mm: float | None,
    entropy_heart_nats: float | None,
    myocardial_volume_change_pct: float | None,
) -> Iterator[QCFlag]:
    """Yield the flags about the motion as a whole."""
    if folded_voxels > 0:
        yield QCFlag.MOTION_FOLDS
    if cycle_consistency_error_mm is not None and cycle_consistency_error_mm > thresholds.CYCLE_CONSISTENCY_MM:
        yield QCFlag.CYCLE_INCONSISTENT
    if entropy_heart_nats is not None and entropy_heart_nats > thresholds.ENTROPY_NATS:
        yield QCFlag.LOW_CONFIDENCE_MOTION
    change_pct = myocardial_volume_change_pct
    if change_pct is not None and abs(change_pct) > thresholds.MYOCARDIAL_VOLUME_CHANGE_PCT:
        yield QCFlag.MYOCARDIAL_VOLUME_CHANGES


def check_strain(peaks_pct: Mapping[str, float | None]) -> Iterator[QCFlag]:
    """Yield the flag about global peak strains.

    Args:
        peaks_pct: Peak strain in %, by the names of :data:`cmnet_core.qc.thresholds.STRAIN_PCT`; None where undefined.
    """
    defined = ((thresholds.STRAIN_PCT[name], peak) for name, peak in peaks_pct.items() if peak is not None)
    if any(not low <= peak <= high for (low, high), peak in defined):
        yield QCFlag.STRAIN_IMPLAUSIBLE


def check_confidence(probabilities: Float[Tensor, "n 4 z y x"]) -> Iterator[QCFlag]:
    """Yield the flag about a segmentation of low confidence.

    Args:
        probabilities: Class probabilities of some frames; one frame of low confidence raises the flag.
    """
    best, label = probabilities.max(dim=1)
    heart = (label != Label.BACKGROUND).flatten(1)
    uncertain = heart & (best < thresholds.CONFIDENT_PROBABILITY).flatten(1)
    fraction = uncertain.sum(1) / heart.sum(1).clamp_min(1)
    if bool((fraction > thresholds.LOW_CONFIDENCE_FRACTION).any()):
        yield QCFlag.LOW_CONFIDENCE_SEGMENTATION


def withhold_truncated(indices: ClinicalIndices, raised: set[QCFlag]) -> ClinicalIndices:
    """Set the volumes of a ventricle that is not wholly segmented to None; the flags give the reason."""
    if raised & LV_TRUNCATED:
        indices = replace(indices, lvedv_ml=None, lvesv_ml=None, lvsv_ml=None, lvef_pct=None, lvm_g=None)
    if raised & RV_TRUNCATED:
        indices = replace(indices, rvedv_ml=None, rvesv_ml=None, rvsv_ml=None, rvef_pct=None)
    return indices
