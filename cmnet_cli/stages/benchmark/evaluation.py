"""The evaluation of a benchmark: the stored motion of every method against reference masks and known motion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import EvaluateConfig, Protocol
from cmnet_cli.derivatives.tracking import advise_repair
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.benchmark.error_maps import ErrorMap, error_maps
from cmnet_cli.stages.benchmark.known_motion import has_truth, read_truth
from cmnet_cli.stages.benchmark.motion import BenchmarkedMotion, read_benchmarked
from cmnet_cli.stages.benchmark.volume_curves import VolumeCurve, volume_curve
from cmnet_cli.stages.evaluate import (
    ED_TO_ES,
    ES_TO_ED,
    POOLED,
    ReferenceMasks,
    Row,
    compare_pairs,
    folding_row,
    propagate_labels,
)
from cmnet_cli.stages.indices import identity_columns
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.imaging.preprocess import extract_labels, restore_motion
from cmnet_core.imaging.regrid import regrid_labels, regrid_motion
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import jacobian_determinant
from cmnet_core.registration.label_warp import warp_labels_nearest
from cmnet_core.stats.motion_errors import in_plane_strain_errors_pct, mean_endpoint_error_mm, sd_log_jacobian
from cmnet_core.types import Spacing

NAME = "benchmark"

ACDC_SPACING = Spacing(10.0, 1.8, 1.8)
"""Voxel spacing of the published registration tables on ACDC."""


@dataclass(frozen=True, slots=True)
class BenchmarkedCase:
    """What one case adds to the tables, and error maps if it is the example.

    Attributes:
        overlaps: One row per method, comparison and structure.
        motions: One row per method.
        maps: An error map of each method; empty for all cases but one.
        curves: The LV volume over the cycle by each method; empty for all cases but one.
    """

    overlaps: tuple[Row, ...]
    motions: tuple[Row, ...]
    maps: tuple[ErrorMap, ...] = ()
    curves: tuple[VolumeCurve, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchmarkEvaluationStage:
    """Evaluate the stored motion of all methods.

    Attributes:
        root: The run folder.
        protocol: Protocol of the comparison with the masks.
        methods: Names of the methods.
        example: The case of which error maps and volume curves are returned.
    """

    root: Path
    protocol: Protocol
    methods: tuple[str, ...]
    example: str
    name: str = NAME

    def open(self) -> Callable[[Case], BenchmarkedCase]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)

        def evaluation_of(case: Case) -> BenchmarkedCase:
            with advise_repair(run):
                return evaluate_benchmarked(case, run, self)

        return evaluation_of


def evaluate_benchmarked(case: Case, run: RunFolder, stage: BenchmarkEvaluationStage) -> BenchmarkedCase:
    """Evaluate the stored motion of all methods that have finished for a case.

    Args:
        case: The case.
        run: The run folder.
        stage: The stage, with its methods and protocol.

    Raises:
        CaseError: A mask cannot be used, or a file is damaged.
    """
    cine, folder = load_cine(case), run.case(case.case_id)
    labels = load_reference_masks(case, cine, purpose="A benchmark")
    reference = ReferenceMasks(*labelled_phases(case, labels), labels)
    found = {method: read_benchmarked(folder, method) for method in stage.methods}
    finished = {method: motion for method, motion in found.items() if motion is not None}
    described = {**identity_columns(case), "group": case.group}
    overlaps: list[Row] = []
    motions: list[Row] = []
    for method, motion in finished.items():
        overlaps += [described | row for row in _overlap_rows(method, motion, reference, stage.protocol)]
        cost = {"method": method, "cpu_s": motion.cpu_s, "peak_mb": motion.peak_mb}
        motions.append(described | cost | _regularity(motion, reference) | _errors(case, motion, reference))
    maps = error_maps(case, cine, finished, reference) if case.case_id == stage.example else ()
    curves = (volume_curve(method, motion.lv_ml, reference) for method, motion in finished.items() if motion.lv_ml)
    return BenchmarkedCase(tuple(overlaps), tuple(motions), maps, tuple(curves))


def _overlap_rows(method: str, motion: BenchmarkedMotion, reference: ReferenceMasks, protocol: Protocol) -> list[Row]:
    at_ed, at_es, spacing = reference.at_ed, reference.at_es, reference.labels.spacing
    if protocol == Protocol.NATIVE:
        es = propagate_labels(at_ed, motion.to_es, motion.window)
        ed = propagate_labels(at_es, motion.to_ed, motion.window)
        return compare_pairs(method, {ED_TO_ES: (es, at_es), ES_TO_ED: (ed, at_ed)}, spacing)
    at_ed, at_es = (regrid_labels(mask, spacing, ACDC_SPACING) for mask in (at_ed, at_es))
    to_es, to_ed = (
        regrid_motion(restore_motion(field, motion.window), ACDC_SPACING) for field in (motion.to_es, motion.to_ed)
    )
    es, ed = warp_labels_nearest(at_ed, to_es), warp_labels_nearest(at_es, to_ed)
    rows = compare_pairs(method, {ED_TO_ES: (es, at_es), ES_TO_ED: (ed, at_ed)}, ACDC_SPACING)
    return [_mean_of_directions(row, rows) if row["comparison"] == POOLED else row for row in rows]


def _mean_of_directions(pooled: Row, rows: list[Row]) -> Row:
    """Replace the overlap of the pooled voxels by the mean of both directions, as the published tables do."""
    directions = [row for row in rows if row["structure"] == pooled["structure"] and row["comparison"] != POOLED]
    means = {}
    for name in ("dsc_pct", "jac_pct"):
        values = [row[name] for row in directions if row[name] is not None]
        means[name] = sum(values) / len(values) if len(values) == len(directions) else None
    return pooled | means


def _regularity(motion: BenchmarkedMotion, reference: ReferenceMasks) -> Row:
    """Folding and SDlogJ of both fields on the window's grid."""
    row: Row = {}
    for comparison, field, fixed in (
        (ED_TO_ES, motion.to_es, reference.at_es),
        (ES_TO_ED, motion.to_ed, reference.at_ed),
    ):
        folding = folding_row(comparison, field, fixed, motion.window, EvaluateConfig())
        suffix = comparison.replace("-", "_")
        row |= {f"{name}_{suffix}": folding.get(name) for name in ("njd_field", "njd_heart")}
        row[f"sd_log_j_{suffix}"] = sd_log_jacobian(jacobian_determinant(field))
    return row


def _errors(case: Case, motion: BenchmarkedMotion, reference: ReferenceMasks) -> Row:
    """Errors against the true motion; nothing where it is not known."""
    if not has_truth(case):
        return {}
    to_es, to_ed = read_truth(case, motion.window, ed=reference.ed, es=reference.es)
    at_es, at_ed = extract_labels(torch.stack([reference.at_es, reference.at_ed]), motion.window)
    err, ecc = in_plane_strain_errors_pct(motion.to_ed, to_ed, at_ed)
    return {
        "endpoint_ed_to_es_mm": mean_endpoint_error_mm(motion.to_es, to_es, at_es > 0),
        "endpoint_es_to_ed_mm": mean_endpoint_error_mm(motion.to_ed, to_ed, at_ed > 0),
        "endpoint_myo_mm": mean_endpoint_error_mm(motion.to_ed, to_ed, at_ed == Label.MYO),
        "err_error_pct": err,
        "ecc_error_pct": ecc,
    }
