"""Whether what was found can be a heart: quality flags from label maps and volumes.

Thresholds and words stand in :mod:`cmnet_core.qc.flags`; here is what is measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.signal import find_peaks
from torch import Tensor

from cmnet_core.function.volumes import ClinicalIndices, smooth_volume_curve
from cmnet_core.labels import Label
from cmnet_core.qc import flags

Map = UInt8[Tensor, "z y x"]

_WITHOUT_LV_VOLUME = {"too-few-slices", "lv-gap-in-stack", "lv-cut-at-border"}
_WITHOUT_RV_VOLUME = {"too-few-slices", "rv-gap-in-stack", "rv-cut-at-border"}


@dataclass(frozen=True, slots=True, eq=False)
class Contours:
    """The label maps of the two phases.

    Attributes:
        ed: At end-diastole.
        es: At end-systole.
    """

    ed: Map
    es: Map

    @property
    def phases(self) -> tuple[Map, Map]:
        """Both maps."""
        return self.ed, self.es


def check_contours(own: Contours, window: Contours) -> Iterator[str]:
    """Flags about slices, coverage and borders. A structure that is missing altogether has flags of its own.

    Args:
        own: On the subject's own grid, which ends with the image.
        window: On the grid of the networks' window.
    """
    yield from _judge_slices(own.ed)
    yield from _judge_coverage(own)
    for name, cavity in (("lv", Label.LV), ("rv", Label.RV)):
        if any(_has_gap(phase == cavity) for phase in own.phases):
            yield f"{name}-gap-in-stack"
    bodies: dict[str, tuple[Label, ...]] = {"lv": (Label.LV, Label.MYO), "rv": (Label.RV,)}
    for name, labels in bodies.items():
        in_image = any(_touches_border(_mask(phase, *labels), rows=1) for phase in own.phases)
        # Labels lose a voxel at the window's edge on their way to the subject's grid and back.
        if in_image or any(_touches_border(_mask(phase, *labels), rows=2) for phase in window.phases):
            yield f"{name}-cut-at-border"


def _mask(labels: Map, *wanted: Label) -> Bool[Tensor, "z y x"]:
    return torch.isin(labels, torch.tensor([int(label) for label in wanted], dtype=labels.dtype))


def _areas(labels: Map) -> Float[Tensor, " z"]:
    """Voxels of the LV's cavity in each slice."""
    return (labels == Label.LV).sum(dim=(1, 2)).float()


def _judge_slices(at_ed: Map) -> Iterator[str]:
    slices = int((_areas(at_ed) > 0).sum())
    if 0 < slices < flags.FEWEST_SLICES:
        yield "too-few-slices"
    elif 0 < slices < flags.FULL_LENGTH_SLICES:
        yield "few-slices"


def _judge_coverage(contours: Contours) -> Iterator[str]:
    at_ed, at_es = _areas(contours.ed), _areas(contours.es)
    # The base is the end of the stack with more cavity; with equal ends, as in a phantom made of cylinders, the first.
    base, apex = (0, -1) if at_ed[0] >= at_ed[-1] else (-1, 0)
    if float(at_es.max()) > 0 and at_es[base] >= flags.BASE_SHARE * at_es.max():
        yield "base-not-covered"
    if float(at_ed.max()) > 0 and at_ed[apex] >= flags.APEX_SHARE * at_ed.max():
        yield "apex-not-covered"


def _has_gap(mask: Bool[Tensor, "z y x"]) -> bool:
    seen = mask.any(dim=(1, 2)).nonzero()
    return bool(len(seen)) and int(seen[-1] - seen[0]) + 1 > len(seen)


def _touches_border(mask: Bool[Tensor, "z y x"], *, rows: int) -> bool:
    edges = (mask[:, :rows], mask[:, -rows:], mask[:, :, :rows], mask[:, :, -rows:])
    return any(bool(edge.any()) for edge in edges)


def check_function(found: ClinicalIndices) -> Iterator[str]:
    """Flags about ejection fractions and stroke volumes."""
    for name, (low, high) in flags.EF_PCT.items():
        value = found.lvef_pct if name == "lv" else found.rvef_pct
        if value is not None and not low <= value <= high:
            yield f"{name}ef-implausible"
    if found.lvsv_ml is not None and found.rvsv_ml is not None:
        difference = abs(found.lvsv_ml - found.rvsv_ml)
        allowed = flags.STROKE_DIFFERENCE_SHARE * max(found.lvsv_ml, found.rvsv_ml)
        if difference > flags.STROKE_DIFFERENCE_ML and difference > allowed:
            yield "stroke-volumes-differ"


def check_volume_curve(lv_ml: Float[Tensor, " t"], *, given_ed: int | None, given_es: int | None) -> Iterator[str]:
    """Flags about the LV's volume over the cycle.

    Args:
        lv_ml: Volume in every frame.
        given_ed: The ED that the manifest names, if it does.
        given_es: The ES that it names.
    """
    height = float(lv_ml.max() - lv_ml.min())
    if height <= 0:
        return
    if len(lv_ml) >= flags.CURVE_FROM_FRAMES and _main_minima(lv_ml) > 1:
        yield "several-volume-minima"
    allowed = flags.PHASE_SHARE * height
    if given_ed is not None and float(lv_ml.max() - lv_ml[given_ed]) > allowed:
        yield "ed-not-as-given"
    if given_es is not None and float(lv_ml[given_es] - lv_ml.min()) > allowed:
        yield "es-not-as-given"


def _main_minima(lv_ml: Float[Tensor, " t"]) -> int:
    """Minima of the closed curve that are deeper than a share of its range."""
    curve = smooth_volume_curve(lv_ml.double()).numpy()
    # Starting at the maximum, the closed cycle lies open between its two ends, and no minimum is cut.
    opened = np.roll(curve, -int(curve.argmax()))
    opened = np.append(opened, opened[0])
    minima, _ = find_peaks(-opened, prominence=flags.MINIMUM_PROMINENCE * float(np.ptp(opened)))
    return len(minima)


def check_motion(
    *,
    folded_voxels: int,
    cycle_consistency_error_mm: float,
    entropy_heart_nats: float | None,
    myocardial_volume_change_pct: float | None,
) -> Iterator[str]:
    """Flags about the motion as a whole."""
    if folded_voxels > 0:
        yield "motion-folds"
    if cycle_consistency_error_mm > flags.CLOSING_MM:
        yield "cycle-does-not-close"
    if entropy_heart_nats is not None and entropy_heart_nats > flags.ENTROPY_NATS:
        yield "low-confidence-motion"
    if myocardial_volume_change_pct is not None and abs(myocardial_volume_change_pct) > flags.MUSCLE_CHANGE_PCT:
        yield "muscle-volume-changes"


def check_strain(peaks_pct: Mapping[str, float | None]) -> Iterator[str]:
    """The flag about global peak strains, by the names of :data:`cmnet_core.qc.flags.STRAIN_PCT`."""
    known = ((flags.STRAIN_PCT[name], value) for name, value in peaks_pct.items() if value is not None)
    if any(not low <= value <= high for (low, high), value in known):
        yield "strain-implausible"


def is_low_confidence(probabilities: Float[Tensor, "n 4 z y x"]) -> bool:
    """Whether, at one of the phases, too many voxels of the heart have no tissue that is probable enough."""
    best, label = probabilities.max(dim=1)
    heart = (label != Label.BACKGROUND).flatten(1)
    doubtful = heart & (best < flags.DOUBTFUL_PROBABILITY).flatten(1)
    share = doubtful.sum(1) / heart.sum(1).clamp_min(1)
    return bool((share > flags.DOUBTFUL_SHARE).any())


def withhold_truncated(found: ClinicalIndices, raised: set[str]) -> ClinicalIndices:
    """Leave out the volumes that are known to miss a part of their ventricle; the flags say why."""
    if raised & _WITHOUT_LV_VOLUME:
        found = replace(found, lvedv_ml=None, lvesv_ml=None, lvsv_ml=None, lvef_pct=None, lvm_g=None)
    if raised & _WITHOUT_RV_VOLUME:
        found = replace(found, rvedv_ml=None, rvesv_ml=None, rvsv_ml=None, rvef_pct=None)
    return found
