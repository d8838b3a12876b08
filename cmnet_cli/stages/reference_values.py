"""The known values of a case: from its reference masks and, for phantoms and simulated cines, from the known motion.

They are computed as the values of the tables are, with the masks in place of SegNet's label maps and the known motion
in place of the estimated one.
"""

from dataclasses import asdict, fields, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.ground_truth_motion import read_ground_truth_motion
from cmnet_cli.derivatives.heart_motion import HeartMotion
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts
from cmnet_cli.runs.paths import SimulatedCaseFolder, ground_truth_motion_path
from cmnet_cli.stages.mechanics import wall_rows
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_cli.stages.volume_rates import volume_rate_columns
from cmnet_core.function.volumes import ClinicalIndices, clinical_indices, pump_indices, volumes_ml
from cmnet_core.imaging.crop import crop_around
from cmnet_core.imaging.preprocess import extract, extract_labels
from cmnet_core.io.atomic import read_json
from cmnet_core.labels import Label
from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.strain_curves import Timing
from cmnet_core.phantom import Truth, spec_from_values, truth_of
from cmnet_core.phantom.kinematics import push_forward
from cmnet_core.phantom.scan_grid import to_heart, to_image
from cmnet_core.types import MotionField

Row = dict[str, Any]


def reference_rows(case: Case, stored: StoredTracking) -> tuple[Row, list[Row]]:
    """Compute the known values in the columns of the tables ``indices`` and ``segments``.

    Rates of volume are known where every frame has a mask, strain and rotation where the motion is known.

    Args:
        case: The row of the manifest, with reference masks.
        stored: What infer stored of the case.

    Raises:
        CaseError: The masks or the known motion cannot be used.
    """
    masks = load_reference_masks(case, load_cine(case), purpose="Calibration")
    ed, es = labelled_phases(case, masks)
    facts = replace(stored.facts, ed=ed, es=es)
    volumes = volumes_ml(masks.labels, masks.spacing)
    function = clinical_indices(volumes, ed=masks.frames.index(ed), es=masks.frames.index(es))
    labels = extract_labels(torch.stack([masks.at(ed), masks.at(es)]), facts.window)
    wall = wall_rows(labels, _known_motion(case, facts, labels[0]), facts, stored.affine, set(function.flags))
    row = {item.name: getattr(function, item.name) for item in fields(ClinicalIndices) if item.name != "flags"}
    row |= asdict(pump_indices(function)) | wall.indices
    if len(masks.frames) == facts.frames:
        row |= volume_rate_columns(volumes, function, Timing(ed, es, facts.frame_ms))
    return row, wall.segments


def _known_motion(
    case: Case, facts: TrackingFacts, labels_ed: UInt8[Tensor, "z y x"]
) -> HeartMotion | MaterialMotion | None:
    """The known motion of a simulated cine or of a phantom; None where it is not known."""
    image = case.image[0]
    if ground_truth_motion_path(image).exists():
        return _motion_of_simulated_cine(case, facts, labels_ed)
    spec = (read_json(SimulatedCaseFolder(image.parent, case.case_id).truth) or {}).get("spec")
    return None if spec is None else _motion_of_phantom(truth_of(spec_from_values(spec)), facts, labels_ed)


def _motion_of_simulated_cine(case: Case, facts: TrackingFacts, labels_ed: UInt8[Tensor, "z y x"]) -> HeartMotion:
    _, rows, columns = facts.window.source_shape
    to_ed = read_ground_truth_motion(ground_truth_motion_path(case.image[0]), size=(rows, columns))
    crop = crop_around(labels_ed > 0, 2**facts.motion.output_level)
    window = crop.narrowed(facts.window)
    after_ed = [(facts.ed + step) % facts.frames for step in range(1, facts.frames + 1)]
    return HeartMotion(
        crop,
        tuple(
            MotionField(extract(to_ed[frame], window), window.spacing, fixed=frame, moving=facts.ed)
            for frame in after_ed
        ),
    )


def _motion_of_phantom(truth: Truth, facts: TrackingFacts, labels_ed: UInt8[Tensor, "z y x"]) -> MaterialMotion:
    """The motion of the myocardium's voxels in closed form."""
    window, scan, myocardium = facts.window, truth.spec.scan, labels_ed == Label.MYO
    origin = torch.tensor([0.0, *window.origin_mm], dtype=torch.float64)
    at_ed = origin + myocardium.nonzero() * torch.tensor(window.spacing.zyx, dtype=torch.float64)
    material, frames = to_heart(scan, *at_ed.T), range(facts.frames)
    moved = [
        torch.stack(to_image(scan, push_forward(truth.beat, truth.at(frame), material)), dim=1) for frame in frames
    ]
    return MaterialMotion(torch.stack(moved) - at_ed, tuple(frames), myocardium, window.spacing, facts.ed)
