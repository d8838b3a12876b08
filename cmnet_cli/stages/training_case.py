"""Load what training sees of a case."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.ground_truth_motion import ground_truth_motion_path, read_ground_truth_motion
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.function.volumes import find_phases, volumes_ml
from cmnet_core.training.training_case import TrainingCase, require_structures, training_case
from cmnet_core.types import CineSequence, LabelSequence


@dataclass(frozen=True, slots=True)
class LoadStage:
    """Bring every case to the network's in-plane spacing, in memory."""

    spacing_mm: float
    name: str = "load"

    def open(self) -> Callable[[Case], TrainingCase]:
        """Nothing to load; the function of a case."""
        return lambda case: load_training_case(case, spacing_mm=self.spacing_mm)


def load_training_case(case: Case, *, spacing_mm: float) -> TrainingCase:
    """Read a labelled cine; ED and ES come from the manifest, else from the reference masks.

    Raises:
        CaseError: Image or masks cannot be used, or there are no masks of both phases.
    """
    cine = load_cine(case)
    labels = load_labels(case, cine)
    if labels is None or len(labels.frames) < 2:
        raise LabelError(
            f"Training needs masks at ED and ES; {case.case_id} has {len(labels.frames) if labels else 0} of them.",
            hint="Name labels_ed and labels_es, or a 4-D mask in the column labels, or leave the subject out.",
            code=ErrorCode.LABEL_GEOMETRY,
        )
    require_structures(labels.labels, "The masks lack")
    ed, es = _phases(labels)
    known = replace(cine, ed=ed if cine.ed is None else cine.ed, es=es if cine.es is None else cine.es)
    return training_case(known, labels, spacing_mm=spacing_mm, motion_mm=_known_motion(case, known))


def _known_motion(case: Case, cine: CineSequence) -> Float[Tensor, "t 3 z y x"] | None:
    path = ground_truth_motion_path(case.image[0])
    size = (int(cine.voxels.shape[2]), int(cine.voxels.shape[3]))
    return read_ground_truth_motion(path, size=size) if path.exists() else None


def _phases(labels: LabelSequence) -> tuple[int, int]:
    largest, smallest = find_phases(volumes_ml(labels.labels, labels.spacing).lv_ml)
    return labels.frames[largest], labels.frames[smallest]
