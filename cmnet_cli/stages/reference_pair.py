"""Load the reference masks of a case at ED and ES for the training of the shape motion network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.imaging.preprocess import Window, extract, normalise
from cmnet_core.inference.segmentation import segment
from cmnet_core.io.orientation import standard_orientation
from cmnet_core.models.segnet import SegNet
from cmnet_core.training.shape_motion.reference_pair import ReferencePair, reference_pair

MIRRORED_AXES = (-1, -3)
"""Axes along which images are mirrored for further segmentations: in-plane, and the order of the slices.

On the patients that it was trained on SegNet is more accurate than on others. It has seen few mirrored hearts, so that
its errors on mirrored images, also at the ends of the stack, are about as large as those on other patients.
"""


@dataclass(frozen=True, slots=True)
class LoadReferencePairStage:
    """Load the reference masks of every case and bring them to the window of the network; nothing is written.

    Attributes:
        window: Size of the window along y and x, in voxels of 3 mm.
        segnet: A trained SegNet, which segments the same frames.
    """

    window: int
    segnet: SegNet
    name: str = "load"

    def open(self) -> Callable[[Case], ReferencePair]:
        """Return the function that loads a case."""
        return lambda case: load_reference_pair(case, window=self.window, segnet=self.segnet)


def load_reference_pair(case: Case, *, window: int, segnet: SegNet) -> ReferencePair:
    """Read the reference masks of a case at ED and ES, and segment both frames as they are and mirrored.

    Args:
        case: The row of the manifest. Without ED or ES, they are detected from the reference masks.
        window: Size of the window along y and x, in voxels of 3 mm.
        segnet: A trained SegNet.

    Raises:
        CaseError: The image or the masks cannot be used, or there are no masks at ED and ES.
    """
    stored = load_cine(case)
    labels = load_reference_masks(case, stored, purpose="Training")
    ed, es = labelled_phases(case, labels)
    orientation = standard_orientation(stored.affine, stored.flags)
    cine = orientation.orient_cine(stored)
    ed_mask, es_mask = (orientation.orient(labels.at(phase)) for phase in (ed, es))
    normalised = normalise(cine.voxels)[[ed, es]]

    def segment_in(target: Window) -> Float[Tensor, "n 2 4 z y x"]:
        voxels = extract(normalised, target)
        return torch.stack(
            [segment(segnet, voxels), *(segment(segnet, voxels.flip(axis)).flip(axis) for axis in MIRRORED_AXES)]
        )

    return reference_pair(ed_mask, es_mask, cine.spacing, window=window, segment_in=segment_in)
