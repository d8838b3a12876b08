"""Labelled subjects as training sees them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.preprocess import Window, extract, extract_labels, normalise, wide_window
from cmnet_core.types import CineSequence, Label, LabelSequence, Spacing

CLASSES = len(Label)
STRUCTURES = (Label.LV, Label.MYO, Label.RV)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCase:
    """One subject: the whole field of view at the network's in-plane spacing.

    Attributes:
        voxels: Normalised intensities.
        labels: Masks of the frames in ``labelled``.
        labelled: Frames that have a mask; ED and ES are among them.
        spacing: Voxel spacing in mm.
        ed: End-diastolic frame.
        es: End-systolic frame.
        centre: Middle of the heart in voxels (y, x).
        motion: Where it is known: the displacement of every frame into ED, in voxels of ``voxels``, kept for each 2 × 2
            of them.
    """

    voxels: Float[Tensor, "t z y x"]
    labels: UInt8[Tensor, "n z y x"]
    labelled: tuple[int, ...]
    spacing: Spacing
    ed: int
    es: int
    centre: tuple[float, float]
    motion: Float16[Tensor, "t 3 z yh xh"] | None = None

    def mask(self, frame: int) -> UInt8[Tensor, "z y x"]:
        """The mask of one labelled frame."""
        return self.labels[self.labelled.index(frame)]


def training_case(
    cine: CineSequence,
    labels: LabelSequence,
    *,
    spacing_mm: float,
    motion_mm: Float[Tensor, "t 3 z y x"] | None = None,
) -> TrainingCase:
    """Bring a labelled cine to the network's spacing.

    Args:
        cine: With ED and ES.
        labels: Masks of both, and of other frames if there are any.
        spacing_mm: In the plane.
        motion_mm: Where it is known, the displacement of every frame into ED, on the cine's own grid.

    Raises:
        LabelError: ED or ES is not known or not labelled, or the masks are empty.
    """
    if cine.ed is None or cine.es is None or not {cine.ed, cine.es} <= set(labels.frames):
        raise LabelError(
            f"Training needs masks at ED and ES; ED is {cine.ed}, ES is {cine.es}, masks exist for {labels.frames}.",
            hint="Give ed, es and the masks of both in the manifest.",
            code=ErrorCode.LABEL_GEOMETRY,
        )
    window = wide_window(cine, spacing_mm=spacing_mm)
    maps = extract_labels(labels.labels, window)
    heart = (maps != Label.BACKGROUND).flatten(0, 1).any(0).nonzero().float()
    if len(heart) == 0:
        raise LabelError(
            "The masks hold no heart.",
            hint="Check the masks and the label_scheme, or leave the subject out.",
            code=ErrorCode.LABEL_VALUES,
        )
    y, x = heart.mean(0).tolist()
    voxels = extract(normalise(cine.voxels), window)
    motion = None if motion_mm is None else _kept_motion(motion_mm, window)
    return TrainingCase(voxels, maps, labels.frames, window.spacing, cine.ed, cine.es, (y, x), motion)


def _kept_motion(motion_mm: Float[Tensor, "t 3 z y x"], window: Window) -> Float16[Tensor, "t 3 z yh xh"]:
    """Known motion as training keeps it: a whole cine's in full precision would fill the memory."""
    size_mm = torch.tensor(window.spacing.zyx).view(3, 1, 1, 1)
    frames = [functional.avg_pool2d(extract(frame, window) / size_mm, 2).half() for frame in motion_mm]
    return torch.stack(frames)


def drop_slices(depth: int, generator: torch.Generator) -> slice:
    """Now and then a stack lacks slices at its ends: the slices to keep."""
    if depth < 4 or float(torch.rand((), generator=generator)) < 0.7:
        return slice(0, depth)
    lost = int(torch.randint(1, depth - 1, (), generator=generator))
    start = int(torch.randint(0, lost + 1, (), generator=generator))
    return slice(start, start + depth - lost)
