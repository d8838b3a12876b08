"""Indices: volumes, function and motion from what infer stored. No network, no raw image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.tracking import StoredTracking, open_tracking
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.stages.intervals import Drawing, SamplingSettings, with_intervals
from cmnet_cli.stages.mechanics import NearHeart, mechanics_rows, near_heart, rate_values, segmented_walls, timing_of
from cmnet_cli.stages.quality_control import judged_indices
from cmnet_core.function.reference_ranges import Z_COLUMNS, ReferenceRange, compare_with_reference
from cmnet_core.function.volumes import (
    BodySurfaceFormula,
    ClinicalIndices,
    Volumes,
    body_surface_area_m2,
    cardiac_output_l_min,
    heart_rate_bpm,
    volumes_ml,
)
from cmnet_core.imaging.preprocess import extract_labels
from cmnet_core.labels import Label
from cmnet_core.models.losses import bending_energy
from cmnet_core.qc.result_checks import check_motion
from cmnet_core.registration.displacement import to_voxels
from cmnet_core.types import MotionField

NAME = "indices"
TABLES_OF_INDICES = ("indices", "frames", "segments", "motion", "bullseye")
_STRUCTURES = {"lv": Label.LV, "myo": Label.MYO, "rv": Label.RV}
_INDEXED = {
    "lvedv_index_ml_m2": "lvedv_ml",
    "lvesv_index_ml_m2": "lvesv_ml",
    "lvsv_index_ml_m2": "lvsv_ml",
    "lvm_index_g_m2": "lvm_g",
    "rvedv_index_ml_m2": "rvedv_ml",
    "rvesv_index_ml_m2": "rvesv_ml",
    "rvsv_index_ml_m2": "rvsv_ml",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaseRows:
    """The rows that one case adds to the tables."""

    indices: Row
    frames: tuple[Row, ...]
    segments: tuple[Row, ...]
    motion: Row
    bullseye: tuple[Row, ...]

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """The rows by table."""
        return {
            "indices": (self.indices,),
            "frames": self.frames,
            "segments": self.segments,
            "motion": (self.motion,),
            "bullseye": self.bullseye,
        }


@dataclass(frozen=True, slots=True)
class IndicesStage:
    """Compute the rows of every case of a run folder.

    Attributes:
        root: The run folder.
        reference: Reference ranges.
        draws: How many draws of the posterior, and from which seed.
    """

    root: Path
    reference: tuple[ReferenceRange, ...]
    draws: SamplingSettings
    name: str = NAME

    @property
    def reference_tables(self) -> list[str]:
        """Names and versions of the tables of reference ranges."""
        return sorted({item.table for item in self.reference})

    def open(self) -> Callable[[Case], CaseRows]:
        """Nothing to load; the function of a case."""
        return lambda case: indices_case(
            case, RunFolder(self.root).case(case.case_id), reference=self.reference, draws=self.draws
        )


def indices_case(
    case: Case, folder: CaseFolder, *, reference: tuple[ReferenceRange, ...], draws: SamplingSettings
) -> CaseRows:
    """All rows of one case.

    Args:
        case: The case.
        folder: What infer stored of it.
        reference: Reference ranges.
        draws: Of the posterior.

    Raises:
        CaseError: Infer has not been run for it, or what it stored is damaged.
    """
    stored = open_tracking(folder)
    volumes = volumes_ml(stored.segmented, stored.spacing)
    carried = volumes_ml(stored.propagated, stored.spacing)
    indices = _compared(_indices_row(case, stored, volumes), reference)
    walls = segmented_walls(stored)
    near = near_heart(folder, stored, walls)
    wall = mechanics_rows(stored, walls, near, indices["qc_flags"])
    indices = indices | wall.indices | {"qc_flags": [*indices["qc_flags"], *wall.flags]}
    frames = _joined(_frame_rows(case, stored, volumes, carried), wall.frames)
    frames = _joined(frames, _motion_by_frame(stored, near))
    drawing = Drawing(folder, stored, walls, has_wall=bool(wall.indices))
    indices, segments = with_intervals(indices, wall.segments, drawing, draws)
    return CaseRows(
        indices=indices,
        frames=tuple(frames),
        segments=tuple(who(case) | row for row in segments),
        motion=_motion_row(case, stored, carried, frames) | _smoothness(stored, near),
        bullseye=tuple(who(case) | row for row in wall.bullseye),
    )


def _joined(rows: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    """Rows with what there is more to say of each, or as they are."""
    return [row | extra for row, extra in zip(rows, more, strict=True)] if more else list(rows)


def who(case: Case) -> Row:
    """The columns that say whose row it is."""
    return {"case_id": case.case_id, "subject_id": case.subject_id, "session": case.session}


def _indices_row(case: Case, stored: StoredTracking, volumes: Volumes) -> Row:
    facts = stored.facts
    found, flags = judged_indices(case, stored, volumes)
    values: Row = {item.name: getattr(found, item.name) for item in fields(ClinicalIndices) if item.name != "flags"}
    rate = _heart_rate(case, stored)
    bsa = _body_surface(case, BodySurfaceFormula.MOSTELLER)
    reasons = [flag for flag, unknown in (("no-heart-rate", rate is None), ("no-body-size", bsa is None)) if unknown]
    described = {name: getattr(case, name) for name in ("group", "site", "scanner", "sex", "age_years")}
    return {
        **who(case),
        **case.extra,
        **described,
        "height_cm": case.height_cm,
        "weight_kg": case.weight_kg,
        "frames": facts.frames,
        "frame_ms": facts.frame_ms,
        "heart_rate_bpm": rate,
        "ed_frame": facts.ed,
        "es_frame": facts.es,
        **values,
        "cardiac_output_l_min": cardiac_output_l_min(found.lvsv_ml, rate),
        "bsa_m2": bsa,
        "bsa_du_bois_m2": _body_surface(case, BodySurfaceFormula.DU_BOIS),
        **{name: _divided(values[index], bsa) for name, index in _INDEXED.items()},
        **rate_values(volumes, timing_of(stored), values),
        "qc_flags": [*facts.flags, *flags, *reasons],
    }


def _compared(row: Row, reference: tuple[ReferenceRange, ...]) -> Row:
    """The row with its z-scores."""
    values = {name: row[name] for name in Z_COLUMNS}
    standing = compare_with_reference(values, reference, sex=row["sex"], age_years=row["age_years"])
    flags = [*row["qc_flags"], *standing.flags]
    return {**row, **standing.z, "reference_flags": list(standing.outside), "qc_flags": flags}


def _heart_rate(case: Case, stored: StoredTracking) -> float | None:
    frames, frame_ms = stored.facts.frames, stored.facts.frame_ms
    if case.heart_rate_bpm is not None or frame_ms is None:
        return case.heart_rate_bpm
    return heart_rate_bpm(frames=frames, frame_ms=frame_ms)


def _body_surface(case: Case, formula: BodySurfaceFormula) -> float | None:
    if case.height_cm is None or case.weight_kg is None:
        return None
    return body_surface_area_m2(case.height_cm, case.weight_kg, formula=formula)


def _divided(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value / by


def _frame_rows(case: Case, stored: StoredTracking, volumes: Volumes, carried: Volumes) -> list[Row]:
    frame_ms = stored.facts.frame_ms
    return [
        {
            **who(case),
            "frame": frame,
            "time_ms": None if frame_ms is None else frame * frame_ms,
            **{f"{name}_ml": float(getattr(volumes, f"{name}_ml")[frame]) for name in _STRUCTURES},
            **{f"{name}_propagated_ml": float(getattr(carried, f"{name}_ml")[frame]) for name in _STRUCTURES},
            **_entropy_by_structure(stored.entropy[frame], stored.segmented[frame]),
        }
        for frame in range(stored.facts.frames)
    ]


def _entropy_by_structure(entropy: Float[Tensor, "z y x"], labels: UInt8[Tensor, "z y x"]) -> Row:
    label = labels.flatten().to(torch.int32)
    total = torch.bincount(label, entropy.flatten().double(), minlength=len(Label))
    voxels = torch.bincount(label, minlength=len(Label))
    mean = [float(total[item] / voxels[item]) if voxels[item] else None for item in Label]
    inside = {f"entropy_{name}_nats": mean[structure] for name, structure in _STRUCTURES.items()}
    return inside | {"entropy_outside_nats": mean[Label.BACKGROUND]}


def _mean(values: Float[Tensor, " n"]) -> float | None:
    return float(values.mean()) if values.numel() else None


def _motion_by_frame(stored: StoredTracking, near: NearHeart | None) -> list[Row]:
    """Displacement from ED and folding of each frame, in the order of the input; nothing without motion."""
    if near is None:
        return []
    labels = extract_labels(stored.propagated, near.cutout.narrowed(stored.facts.window))
    rows: dict[int, Row] = {}
    for to_ed in near.to_ed:
        # The last field leads once round the cycle: at ED nothing has moved yet.
        moved = None if to_ed.fixed == stored.facts.ed else to_ed
        folded = stored.facts.folded_voxels[to_ed.fixed]
        rows[to_ed.fixed] = {"folded_voxels": folded, **_displacements(moved, labels[to_ed.fixed])}
    return [rows[frame] for frame in range(stored.facts.frames)]


def _displacements(to_ed: MotionField | None, labels: UInt8[Tensor, "z y x"]) -> Row:
    """Mean and largest length of the displacement in each structure; at ED itself it is 0."""
    heart = labels > 0
    inside = labels[heart]
    length = torch.zeros(len(inside)) if to_ed is None else to_ed.displacement_mm[:, heart].square().sum(0).sqrt()
    row: Row = {}
    for name, label in _STRUCTURES.items():
        there = length[inside == label]
        row[f"mean_displacement_{name}_mm"] = _mean(there)
        row[f"max_displacement_{name}_mm"] = float(there.max()) if there.numel() else None
    return row


def _motion_row(case: Case, stored: StoredTracking, carried: Volumes, frames: Sequence[Row]) -> Row:
    facts = stored.facts
    at_ed, at_es = float(carried.myo_ml[facts.ed]), float(carried.myo_ml[facts.es])
    outside = torch.tensor([row["entropy_outside_nats"] or 0.0 for row in frames])
    entropy = _mean(stored.entropy[stored.segmented > 0])
    change = 100 * (at_es - at_ed) / at_ed if at_ed else None
    judged = check_motion(
        folded_voxels=facts.folded_voxels[facts.es],
        cycle_consistency_error_mm=facts.cycle_consistency_error_mm,
        entropy_heart_nats=entropy,
        myocardial_volume_change_pct=change,
    )
    return {
        **who(case),
        "ed_frame": facts.ed,
        "es_frame": facts.es,
        "mean_displacement_es_myo_mm": frames[facts.es].get("mean_displacement_myo_mm"),
        "max_displacement_es_myo_mm": frames[facts.es].get("max_displacement_myo_mm"),
        "myo_volume_change_pct": change,
        "myo_volume_change_largest_pct": 100 * float((carried.myo_ml / at_ed - 1).abs().max()) if at_ed else None,
        "folded_voxels": facts.folded_voxels[facts.es],
        "cycle_consistency_error_mm": facts.cycle_consistency_error_mm,
        "entropy_heart_nats": entropy,
        "entropy_outside_nats": float(outside.mean()),
        "qc_flags": [*facts.flags, *judged, *(() if stored.has_steps else ("motion-not-stored",))],
    }


def _smoothness(stored: StoredTracking, near: NearHeart | None) -> Row:
    if near is None or stored.facts.es == stored.facts.ed:
        return {}
    [to_ed] = [field for field in near.to_ed if field.fixed == stored.facts.es]
    return {"bending_energy_per_mm2": float(bending_energy(to_voxels(to_ed), to_ed.spacing))}
