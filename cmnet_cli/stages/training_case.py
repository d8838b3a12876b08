"""Load a labelled case for training."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.ground_truth_motion import read_ground_truth_motion
from cmnet_cli.runs.paths import ground_truth_motion_path
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.training.training_case import TrainingCase, require_structures, training_case


@dataclass(frozen=True, slots=True)
class LoadTrainingStage:
    """Load every case and resample it to the in-plane spacing of the networks; nothing is written."""

    spacing_mm: float
    name: str = "load"

    def open(self) -> Callable[[Case], TrainingCase]:
        """Return the function that loads a case."""
        return lambda case: load_training_case(case, spacing_mm=self.spacing_mm)


def load_training_case(case: Case, *, spacing_mm: float) -> TrainingCase:
    """Read a labelled cine with its reference masks and, if it was simulated, its true motion.

    Args:
        case: The row of the manifest. Without ED or ES, they are detected from the reference masks.
        spacing_mm: In-plane voxel size to which image and masks are resampled.

    Raises:
        CaseError: The image or the masks cannot be used, or there are no masks at ED and ES.
    """
    cine = load_cine(case)
    labels = load_reference_masks(case, cine, purpose="Training")
    require_structures(labels.labels, "The masks lack")
    ed, es = labelled_phases(case, labels)
    path = ground_truth_motion_path(case.image[0])
    _, _, rows, columns = cine.voxels.shape
    return training_case(
        replace(cine, ed=ed, es=es),
        labels,
        spacing_mm=spacing_mm,
        motion_mm=read_ground_truth_motion(path, size=(rows, columns)) if path.exists() else None,
    )
