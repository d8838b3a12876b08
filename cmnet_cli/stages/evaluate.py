"""Evaluate: compare what infer stored with reference masks at ED and ES (protocol in docs/validation.md)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import EvaluateConfig
from cmnet_cli.derivatives.tracking import SEGNET, StoredTracking, advise_repair, open_tracking, read_field
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.indices import identity_columns
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.function.volumes import ClinicalIndices, clinical_indices, volumes_ml
from cmnet_core.imaging.preprocess import Window, extract, extract_labels, restore_motion
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import jacobian_determinant, propagate_probabilities
from cmnet_core.stats.metrics import (
    Overlap,
    SurfaceDistance,
    auroc,
    dilated,
    folded_voxels,
    overlap,
    surface_distances_mm,
)
from cmnet_core.types import LabelSequence, MotionField, Spacing

NAME = "evaluate"
ED_TO_ES, ES_TO_ED, POOLED, AT_ED, AT_ES = "ed-to-es", "es-to-ed", "pooled", "at-ed", "at-es"
NO_MOTION = "no-motion"
"""Name of the comparison without any motion, in the column ``method``."""

_STRUCTURES = (Label.LV, Label.MYO, Label.RV)

Row = dict[str, Any]
Map = UInt8[Tensor, "z y x"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rows that one case adds to the tables of an evaluation; ``motion`` is one row."""

    overlaps: tuple[Row, ...]
    folding: tuple[Row, ...]
    agreement: tuple[Row, ...]
    motion: Row


@dataclass(frozen=True, slots=True)
class ReferenceMasks:
    """The reference masks of a case at its two phases.

    Attributes:
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        labels: Masks of both frames.
    """

    ed: int
    es: int
    labels: LabelSequence

    @property
    def at_ed(self) -> Map:
        """The mask at end-diastole."""
        return self.labels.at(self.ed)

    @property
    def at_es(self) -> Map:
        """The mask at end-systole."""
        return self.labels.at(self.es)


@dataclass(frozen=True, slots=True)
class EvaluateStage:
    """Compare every case of a run with its reference masks."""

    root: Path
    config: EvaluateConfig
    name: str = NAME

    def open(self) -> Callable[[Case], Evaluation]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)

        def evaluation_of(case: Case) -> Evaluation:
            with advise_repair(run):
                return evaluate_case(case, run, self.config)

        return evaluation_of


def evaluate_case(case: Case, run: RunFolder, config: EvaluateConfig) -> Evaluation:
    """Compare one case with its reference masks.

    Args:
        case: The case.
        run: The run folder.
        config: Settings of the evaluation.

    Raises:
        CaseError: Infer has not been run for it, its motion was not stored, or a mask cannot be used.
    """
    folder = run.case(case.case_id)
    stored = open_tracking(folder)
    labels = load_reference_masks(case, load_cine(case), purpose="Evaluation")
    reference = ReferenceMasks(*labelled_phases(case, labels), labels)
    to_es = read_field(folder, stored.facts, moving=reference.ed, fixed=reference.es)
    to_ed = read_field(folder, stored.facts, moving=reference.es, fixed=reference.ed)
    described = {**identity_columns(case), "group": case.group}
    return Evaluation(
        overlaps=tuple(described | row for row in _overlap_rows(stored, reference, to_es, to_ed)),
        folding=(
            described | folding_row(ED_TO_ES, to_es, reference.at_es, stored.facts.window, config),
            described | folding_row(ES_TO_ED, to_ed, reference.at_ed, stored.facts.window, config),
        ),
        agreement=tuple(described | row for row in _agreement_rows(stored, reference)),
        motion=described | _motion_row(stored, reference),
    )


def propagate_labels(labels: Map, field: MotionField, window: Window) -> Map:
    """Propagate a label map from the field's moving frame to its fixed frame, on the subject's own grid.

    Args:
        labels: Label map of the moving frame.
        field: Displacement field on the window's grid.
        window: The window.
    """
    fractions = torch.stack([labels == label for label in Label]).float()
    propagated: Tensor = propagate_probabilities(fractions, restore_motion(field, window)).argmax(0)
    return propagated.to(torch.uint8)


def _overlap_rows(
    stored: StoredTracking, reference: ReferenceMasks, to_es: MotionField, to_ed: MotionField
) -> list[Row]:
    window, spacing = stored.facts.window, stored.spacing
    at_ed, at_es = reference.at_ed, reference.at_es
    rows = []
    for method, es, ed in (
        (stored.facts.method, propagate_labels(at_ed, to_es, window), propagate_labels(at_es, to_ed, window)),
        (NO_MOTION, at_ed, at_es),
    ):
        rows += compare_pairs(method, {ED_TO_ES: (es, at_es), ES_TO_ED: (ed, at_ed)}, spacing)
    segmented = {AT_ED: (stored.segmented[reference.ed], at_ed), AT_ES: (stored.segmented[reference.es], at_es)}
    return rows + compare_pairs(SEGNET, segmented, spacing)


def compare_pairs(method: str, pairs: Mapping[str, tuple[Map, Map]], spacing: Spacing) -> list[Row]:
    """Rows of each comparison and structure, and of both comparisons pooled.

    Args:
        method: Name of the method.
        pairs: Estimated and true label map of each of two comparisons, by name.
        spacing: Voxel spacing in mm.
    """
    rows = []
    for label in _STRUCTURES:
        overlaps, distances = [], []
        for comparison, (estimate, truth) in pairs.items():
            overlaps.append(overlap(estimate, truth, label))
            distances.append(surface_distances_mm(estimate == label, truth == label, spacing))
            rows.append(_overlap_row(method, comparison, label, overlaps[-1], distances[-1]))
        rows.append(_overlap_row(method, POOLED, label, overlaps[0] + overlaps[1], _mean_distance(*distances)))
    return rows


def _overlap_row(method: str, comparison: str, label: Label, measured: Overlap, distance: SurfaceDistance) -> Row:
    return {
        "method": method,
        "comparison": comparison,
        "structure": label.name.lower(),
        "dsc_pct": measured.dice_pct,
        "jac_pct": measured.jaccard_pct,
        "hd95_mm": distance.hd95_mm,
        "msd_mm": distance.msd_mm,
        "failure": distance.failure,
    }


def _mean_distance(first: SurfaceDistance, second: SurfaceDistance) -> SurfaceDistance:
    """Mean of the distances of two comparisons: voxels can be pooled, distances cannot."""
    failure = first.failure or second.failure
    if failure or first.hd95_mm is None or second.hd95_mm is None or first.msd_mm is None or second.msd_mm is None:
        return SurfaceDistance(None, None, failure)
    return SurfaceDistance((first.hd95_mm + second.hd95_mm) / 2, (first.msd_mm + second.msd_mm) / 2)


def folding_row(comparison: str, field: MotionField, fixed: Map, window: Window, config: EvaluateConfig) -> Row:
    """Return the folded voxels of a field in the whole window and near the heart.

    Args:
        comparison: Name of the direction.
        field: Displacement field on the window's grid.
        fixed: Reference mask of the fixed frame, on the subject's own grid.
        window: The window.
        config: Settings of the evaluation.
    """
    jacobian = jacobian_determinant(field)
    heart = dilated(extract_labels(fixed[None], window)[0] > 0, window.spacing, by_mm=config.heart_margin_mm)
    whole = folded_voxels(jacobian)
    row: Row = {"comparison": comparison, "njd_field": whole.count, "njd_field_pct": whole.fraction_pct}
    if bool(heart.any()):
        near_heart = folded_voxels(jacobian, heart)
        row |= {"njd_heart": near_heart.count, "njd_heart_pct": near_heart.fraction_pct}
    return row


def _motion_row(stored: StoredTracking, reference: ReferenceMasks) -> Row:
    """Cycle consistency, and how well entropy separates the heart from its surroundings.

    Label maps do not constrain motion away from the heart, so the posterior should be wide there.
    """
    row: Row = {"cycle_consistency_error_mm": stored.facts.cycle_consistency_error_mm}
    if stored.entropy is None:
        return row | dict.fromkeys(("entropy_heart_nats", "entropy_background_nats", "entropy_auroc"))
    window, phases = stored.facts.window, [reference.ed, reference.es]
    # Motion is not estimated outside the image.
    within = extract(torch.ones((1, *window.source_shape)), window) > 0.999
    entropy = extract(stored.entropy[phases], window)
    heart = extract_labels(torch.stack([reference.at_ed, reference.at_es]), window) > 0
    inside, outside = entropy[heart & within], entropy[~heart & within]
    return row | {
        "entropy_heart_nats": float(inside.mean()) if len(inside) else None,
        "entropy_background_nats": float(outside.mean()) if len(outside) else None,
        "entropy_auroc": auroc(inside, outside),
    }


def _agreement_rows(stored: StoredTracking, reference: ReferenceMasks) -> list[Row]:
    """Each clinical index from SegNet's label maps and from the reference masks."""
    facts = stored.facts
    estimate = clinical_indices(volumes_ml(stored.segmented, stored.spacing), ed=facts.ed, es=facts.es)
    both = torch.stack([reference.at_ed, reference.at_es])
    truth = clinical_indices(volumes_ml(both, stored.spacing), ed=0, es=1)
    names = [item.name for item in fields(ClinicalIndices) if item.name != "flags"]
    return [{"index": name, "estimate": getattr(estimate, name), "reference": getattr(truth, name)} for name in names]
