"""Load the reference masks of a case at ED and ES for the training of the shape motion network."""

from collections.abc import Callable
from dataclasses import dataclass

from cmnet_cli.cohort.case import Case
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.training.shape_motion.reference_pair import ReferencePair, reference_pair


@dataclass(frozen=True, slots=True)
class LoadReferencePairStage:
    """Load the reference masks of every case and bring them to the window of the network; nothing is written.

    Attributes:
        window: Size of the window along y and x, in voxels of 3 mm.
    """

    window: int
    name: str = "load"

    def open(self) -> Callable[[Case], ReferencePair]:
        """Return the function that loads a case."""
        return lambda case: load_reference_pair(case, window=self.window)


def load_reference_pair(case: Case, *, window: int) -> ReferencePair:
    """Read the reference masks of a case at ED and ES.

    Args:
        case: The row of the manifest. Without ED or ES, they are detected from the reference masks.
        window: Size of the window along y and x, in voxels of 3 mm.

    Raises:
        CaseError: The image or the masks cannot be used, or there are no masks at ED and ES.
    """
    labels = load_reference_masks(case, load_cine(case), purpose="Training")
    ed, es = labelled_phases(case, labels)
    return reference_pair(labels.at(ed), labels.at(es), labels.spacing, window=window)
