"""Indices: volumes, function, wall mechanics and motion of each case, from what infer stored; no network runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.correction import current_results, read_correction
from cmnet_cli.derivatives.heart_motion import HeartMotion, read_heart_motion
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts, advise_repair, open_tracking
from cmnet_cli.runs.paths import CaseFolder, CorrectionFolder, RunFolder
from cmnet_cli.stages.intervals import SamplingSettings, Spreads, add_intervals
from cmnet_cli.stages.mechanics import wall_rows
from cmnet_cli.stages.volume_rates import divided, volume_rate_columns
from cmnet_cli.tables.schema import name_in_table
from cmnet_core.flags import QCFlag
from cmnet_core.function.reference_ranges import Z_COLUMNS, ReferenceRange, compare_with_reference
from cmnet_core.function.volumes import (
    BodySurfaceFormula,
    ClinicalIndices,
    Volumes,
    body_surface_area_m2,
    cardiac_output_l_min,
    clinical_indices,
    heart_rate_bpm,
    pump_indices,
    volumes_ml,
)
from cmnet_core.imaging.preprocess import extract_labels
from cmnet_core.labels import Label
from cmnet_core.mechanics.strain_curves import Timing
from cmnet_core.models.losses import bending_energy
from cmnet_core.qc.result_checks import (
    PhaseLabels,
    check_contours,
    check_function,
    check_motion,
    check_volume_curve,
    withhold_truncated,
)
from cmnet_core.registration.displacement import to_voxels
from cmnet_core.types import MotionField

NAME = "indices"
TABLES_OF_INDICES = ("indices", "frames", "segments", "motion", "bullseye", "experimental")
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
    """The rows that one case adds to the tables; ``indices`` and ``motion`` are one row each.

    ``spreads`` has the spread of values of ``indices`` and ``segments`` over the posterior samples that were drawn.
    """

    indices: Row
    frames: tuple[Row, ...]
    segments: tuple[Row, ...]
    motion: Row
    bullseye: tuple[Row, ...]
    experimental: tuple[Row, ...]
    spreads: Spreads

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Return the rows by table."""
        return {
            "indices": (self.indices,),
            "frames": self.frames,
            "segments": self.segments,
            "motion": (self.motion,),
            "bullseye": self.bullseye,
            "experimental": self.experimental,
        }


@dataclass(frozen=True, slots=True)
class IndicesStage:
    """Compute the rows of every case of a run folder.

    Attributes:
        root: The run folder.
        reference: Reference ranges.
        draws: Number and seed of the posterior samples, and the calibration.
        experimental: Whether strain that is not measured reliably is reported, in a table of its own.
    """

    root: Path
    reference: tuple[ReferenceRange, ...]
    draws: SamplingSettings
    experimental: bool = False
    name: str = NAME

    @property
    def reference_tables(self) -> list[str]:
        """Return the names and versions of the tables of reference ranges."""
        return sorted({item.table for item in self.reference})

    def open(self) -> Callable[[Case], CaseRows]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)

        def indices_of(case: Case) -> CaseRows:
            with advise_repair(run):
                return indices_case(
                    case,
                    current_results(run.case(case.case_id)),
                    reference=self.reference,
                    draws=self.draws,
                    experimental=self.experimental,
                )

        return indices_of


def indices_case(
    case: Case,
    folder: CaseFolder,
    *,
    reference: tuple[ReferenceRange, ...],
    draws: SamplingSettings,
    experimental: bool = False,
) -> CaseRows:
    """Compute all rows of one case.

    Args:
        case: The case.
        folder: What infer or correct stored of it.
        reference: Reference ranges.
        draws: Number and seed of the posterior samples, and the calibration.
        experimental: Whether strain that is not measured reliably is reported.

    Raises:
        CaseError: Infer has not been run for it, or what it stored is damaged.
    """
    stored = open_tracking(folder)
    facts = stored.facts
    phases = stored.segmented[[facts.ed, facts.es]]
    labels = extract_labels(phases, facts.window)
    motion = read_heart_motion(folder, stored, labels[0])

    volumes, propagated = (volumes_ml(maps, stored.spacing) for maps in (stored.segmented, stored.propagated))
    function, function_flags = _assess_function(case, facts, volumes, PhaseLabels(*phases), PhaseLabels(*labels))
    wall = wall_rows(labels, motion, facts, stored.affine, {*facts.flags, *function_flags})

    indices = _compared(_indices_row(case, facts, volumes, function, function_flags), reference)
    indices = _marked(indices, folder)
    indices |= wall.indices | {"qc_flags": [*indices["qc_flags"], *wall.flags]}
    indices, segments, spreads = add_intervals(indices, wall.segments, folder, stored, labels[0], wall.voxels, draws)

    frames = _frame_rows(case, stored, volumes, propagated)
    for more in (wall.frames, _displacement_rows(stored, motion)):
        frames = [row | columns for row, columns in zip(frames, more, strict=True)] if more else frames
    return CaseRows(
        indices=indices,
        frames=tuple(frames),
        segments=tuple(identity_columns(case) | row for row in segments),
        motion=_motion_row(case, stored, propagated, frames) | _smoothness(facts, motion),
        bullseye=tuple(identity_columns(case) | row for row in wall.bullseye),
        experimental=tuple(identity_columns(case) | row for row in wall.experimental if experimental),
        spreads=spreads,
    )


def identity_columns(case: Case) -> Row:
    """Return the columns that identify the subject and visit of a row."""
    return {"case_id": case.case_id, "subject_id": case.subject_id, "session": case.session}


# ── function ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _assess_function(
    case: Case, facts: TrackingFacts, volumes: Volumes, own: PhaseLabels, window: PhaseLabels
) -> tuple[ClinicalIndices, list[str]]:
    """Clinical indices from SegNet's labels without those of a truncated ventricle, and all flags about them."""
    measured = clinical_indices(volumes, ed=facts.ed, es=facts.es)
    raised = [*check_contours(own, window), *check_volume_curve(volumes.lv_ml, given_ed=case.ed, given_es=case.es)]
    reported = withhold_truncated(measured, set(raised))
    return reported, [*measured.flags, *raised, *check_function(reported)]


def _indices_row(
    case: Case, facts: TrackingFacts, volumes: Volumes, function: ClinicalIndices, function_flags: Sequence[str]
) -> Row:
    values: Row = {item.name: getattr(function, item.name) for item in fields(ClinicalIndices) if item.name != "flags"}
    rate = _heart_rate(case, facts)
    bsa = _body_surface(case, BodySurfaceFormula.MOSTELLER)
    reasons = [
        flag for flag, unknown in ((QCFlag.NO_HEART_RATE, rate is None), (QCFlag.NO_BODY_SIZE, bsa is None)) if unknown
    ]
    described = {name: getattr(case, name) for name in ("group", "site", "scanner", "sex", "age_years")}
    return {
        **identity_columns(case),
        **{name_in_table(column): text for column, text in case.extra.items()},
        **described,
        "height_cm": case.height_cm,
        "weight_kg": case.weight_kg,
        "frames": facts.frames,
        "frame_ms": facts.frame_ms,
        "heart_rate_bpm": rate,
        "ed_frame": facts.ed,
        "es_frame": facts.es,
        **values,
        "cardiac_output_l_min": cardiac_output_l_min(function.lvsv_ml, rate),
        "bsa_m2": bsa,
        "bsa_du_bois_m2": _body_surface(case, BodySurfaceFormula.DU_BOIS),
        **{name: divided(values[index], bsa) for name, index in _INDEXED.items()},
        **asdict(pump_indices(function)),
        **volume_rate_columns(volumes, function, Timing(facts.ed, facts.es, facts.frame_ms)),
        "qc_flags": [*facts.flags, *function_flags, *reasons],
    }


def _compared(row: Row, reference: tuple[ReferenceRange, ...]) -> Row:
    """The row with its z-scores."""
    values = {name: row[name] for name in Z_COLUMNS}
    comparison = compare_with_reference(values, reference, sex=row["sex"], age_years=row["age_years"])
    flags = [*row["qc_flags"], *comparison.flags]
    return {**row, **comparison.z, "reference_flags": list(comparison.outside), "qc_flags": flags}


def _marked(row: Row, folder: CaseFolder) -> Row:
    """The row with digest and date of the edited masks, if its masks were corrected."""
    correction = read_correction(folder) if isinstance(folder, CorrectionFolder) else None
    if correction is None:
        return row
    return row | {
        "corrected_frames": " ".join(map(str, correction.frames)),
        "corrected_mask_date": correction.mask_date,
        "corrected_mask_sha256": correction.mask_sha256,
        "qc_flags": [*row["qc_flags"], QCFlag.MASKS_CORRECTED],
    }


def _heart_rate(case: Case, facts: TrackingFacts) -> float | None:
    if case.heart_rate_bpm is not None or facts.frame_ms is None:
        return case.heart_rate_bpm
    return heart_rate_bpm(frames=facts.frames, frame_ms=facts.frame_ms)


def _body_surface(case: Case, formula: BodySurfaceFormula) -> float | None:
    if case.height_cm is None or case.weight_kg is None:
        return None
    return body_surface_area_m2(case.height_cm, case.weight_kg, formula=formula)


# ── frames and motion ────────────────────────────────────────────────────────────────────────────────────────────


def _frame_rows(case: Case, stored: StoredTracking, volumes: Volumes, propagated: Volumes) -> list[Row]:
    frame_ms = stored.facts.frame_ms
    return [
        {
            **identity_columns(case),
            "frame": frame,
            "time_ms": None if frame_ms is None else frame * frame_ms,
            **{f"{name}_ml": float(getattr(volumes, f"{name}_ml")[frame]) for name in _STRUCTURES},
            **{f"{name}_propagated_ml": float(getattr(propagated, f"{name}_ml")[frame]) for name in _STRUCTURES},
            **_entropy_by_structure(stored, frame),
        }
        for frame in range(stored.facts.frames)
    ]


def _entropy_by_structure(stored: StoredTracking, frame: int) -> Row:
    """Mean entropy in each structure and outside; no values for a method without a posterior."""
    if stored.entropy is None:
        return dict.fromkeys((*(f"entropy_{name}_nats" for name in _STRUCTURES), "entropy_outside_nats"))
    entropy, labels = stored.entropy[frame], stored.segmented[frame]
    heart = labels.nonzero(as_tuple=True)
    label = labels[heart].long()
    total = torch.bincount(label, entropy[heart].double(), minlength=len(Label))
    voxels = torch.bincount(label, minlength=len(Label))
    total[Label.BACKGROUND] = entropy.sum(dtype=torch.float64) - total.sum()
    voxels[Label.BACKGROUND] = labels.numel() - len(label)
    mean = [float(total[item] / voxels[item]) if voxels[item] else None for item in Label]
    inside = {f"entropy_{name}_nats": mean[structure] for name, structure in _STRUCTURES.items()}
    return inside | {"entropy_outside_nats": mean[Label.BACKGROUND]}


def _mean(values: Float[Tensor, " n"]) -> float | None:
    return float(values.mean()) if values.numel() else None


def _displacement_rows(stored: StoredTracking, motion: HeartMotion | None) -> list[Row]:
    """Displacement from ED and folding of each frame, in the order of the input; no rows without motion."""
    if motion is None:
        return []
    labels = extract_labels(stored.propagated, motion.crop.narrowed(stored.facts.window))
    rows: dict[int, Row] = {}
    for to_ed in motion.to_ed:
        # The last field leads once round the cycle; the displacement at ED itself is 0 by definition.
        moved = None if to_ed.fixed == stored.facts.ed else to_ed
        folded = stored.facts.folded_voxels[to_ed.fixed]
        rows[to_ed.fixed] = {"folded_voxels": folded, **_displacements(moved, labels[to_ed.fixed])}
    return [rows[frame] for frame in range(stored.facts.frames)]


def _displacements(to_ed: MotionField | None, labels: UInt8[Tensor, "z y x"]) -> Row:
    """Mean and largest length of the displacement in each structure; 0 without a field."""
    heart = labels > 0
    structure = labels[heart]
    length = torch.zeros(len(structure)) if to_ed is None else to_ed.displacement_mm[:, heart].square().sum(0).sqrt()
    row: Row = {}
    for name, label in _STRUCTURES.items():
        lengths = length[structure == label]
        row[f"mean_displacement_{name}_mm"] = _mean(lengths)
        row[f"max_displacement_{name}_mm"] = float(lengths.max()) if lengths.numel() else None
    return row


def _motion_row(case: Case, stored: StoredTracking, propagated: Volumes, frames: Sequence[Row]) -> Row:
    facts = stored.facts
    at_ed, at_es = float(propagated.myo_ml[facts.ed]), float(propagated.myo_ml[facts.es])
    outside = torch.tensor([row["entropy_outside_nats"] or 0.0 for row in frames])
    entropy = None if stored.entropy is None else _mean(stored.entropy[stored.segmented > 0])
    change = 100 * (at_es - at_ed) / at_ed if at_ed else None
    motion_flags = check_motion(
        folded_voxels=facts.folded_voxels[facts.es],
        cycle_consistency_error_mm=facts.cycle_consistency_error_mm,
        entropy_heart_nats=entropy,
        myocardial_volume_change_pct=change,
    )
    return {
        **identity_columns(case),
        "ed_frame": facts.ed,
        "es_frame": facts.es,
        "mean_displacement_es_myo_mm": frames[facts.es].get("mean_displacement_myo_mm"),
        "max_displacement_es_myo_mm": frames[facts.es].get("max_displacement_myo_mm"),
        "myo_volume_change_pct": change,
        "myo_volume_change_largest_pct": 100 * float((propagated.myo_ml / at_ed - 1).abs().max()) if at_ed else None,
        "folded_voxels": facts.folded_voxels[facts.es],
        "cycle_consistency_error_mm": facts.cycle_consistency_error_mm,
        "entropy_heart_nats": entropy,
        "entropy_outside_nats": None if stored.entropy is None else float(outside.mean()),
        "qc_flags": [*facts.flags, *motion_flags, *(() if stored.has_steps else (QCFlag.MOTION_NOT_STORED,))],
    }


def _smoothness(facts: TrackingFacts, motion: HeartMotion | None) -> Row:
    if motion is None or facts.es == facts.ed:
        return {}
    [to_ed] = [field for field in motion.to_ed if field.fixed == facts.es]
    return {"bending_energy_per_mm2": float(bending_energy(to_voxels(to_ed), to_ed.spacing))}
