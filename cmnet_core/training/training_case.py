"""Labelled subjects as training sees them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.imaging.preprocess import Window, extract, extract_labels, normalise, wide_window
from cmnet_core.labels import Label
from cmnet_core.stats import metrics
from cmnet_core.types import CineSequence, LabelSequence, Spacing

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
    for phase, frame in (("ED", cine.ed), ("ES", cine.es)):
        require_structures(labels.at(frame)[None], f"The mask at {phase} lacks")
    heart = (maps != Label.BACKGROUND).flatten(0, 1).any(0).nonzero().float()
    y, x = heart.mean(0).tolist()
    voxels = extract(normalise(cine.voxels), window)
    motion = None if motion_mm is None else _kept_motion(motion_mm, window)
    return TrainingCase(voxels, maps, labels.frames, window.spacing, cine.ed, cine.es, (y, x), motion)


def _kept_motion(motion_mm: Float[Tensor, "t 3 z y x"], window: Window) -> Float16[Tensor, "t 3 z yh xh"]:
    """Known motion as training keeps it: a whole cine's in full precision would fill the memory."""
    size_mm = torch.tensor(window.spacing.zyx).view(3, 1, 1, 1)
    frames = [functional.avg_pool2d(extract(frame, window) / size_mm, 2).half() for frame in motion_mm]
    return torch.stack(frames)


def require_structures(masks: UInt8[Tensor, "n z y x"], lacks: str) -> None:
    """Refuse masks without one of the structures.

    Args:
        masks: Label maps.
        lacks: What is said of them, before the structures that are missing.

    Raises:
        LabelError: A structure is in none of them.
    """
    missing = [label.name for label in STRUCTURES if not bool((masks == label).any())]
    if missing:
        raise LabelError(
            f"{lacks} {' and '.join(missing)}; training needs all of LV, MYO and RV.",
            hint="Check the mask and its label_scheme, draw what is missing, or leave the subject out.",
            code=ErrorCode.LABEL_CLASS,
        )


def drop_end_slices(depth: int, share: float, generator: torch.Generator) -> slice:
    """In this share of draws a stack lacks slices at its ends: the slices to keep."""
    if depth < 4 or float(torch.rand((), generator=generator)) >= share:
        return slice(0, depth)
    lost = int(torch.randint(1, depth - 1, (), generator=generator))
    start = int(torch.randint(0, lost + 1, (), generator=generator))
    return slice(start, start + depth - lost)


def hard(shape: Float[Tensor, "z k y x"]) -> UInt8[Tensor, "z y x"]:
    """The most probable label of every voxel."""
    winner: Tensor = shape.argmax(1)
    return winner.to(torch.uint8)


def metric_names(phase: str) -> tuple[str, ...]:
    """Names of what :func:`dice_metrics` and :func:`surface_metrics` give together."""
    names = [label.name.lower() for label in STRUCTURES]
    dice, hd95 = [f"dice_{name}_{phase}_pct" for name in names], [f"hd95_{name}_{phase}_mm" for name in names]
    return (f"dice_{phase}_pct", *dice, *hd95, f"not_found_{phase}")


def dice_metrics(
    found: Float[Tensor, "z k y x"], reference: Float[Tensor, "z k y x"], *, phase: str
) -> dict[str, float]:
    """Dice in % of each structure that the reference has, and their mean."""
    scores = {label: metrics.dice_pct(hard(found), hard(reference), label) for label in STRUCTURES}
    known = {f"dice_{label.name.lower()}_{phase}_pct": score for label, score in scores.items() if score is not None}
    return known | ({f"dice_{phase}_pct": sum(known.values()) / len(known)} if known else {})


def surface_metrics(
    found: Float[Tensor, "z k y x"], reference: Float[Tensor, "z k y x"], spacing: Spacing, *, phase: str
) -> dict[str, float]:
    """HD95 in mm of each structure, and how many were not found: these have no distance."""
    figures = {f"not_found_{phase}": 0.0}
    for label in STRUCTURES:
        distance = metrics.surface_distances_mm(hard(found) == label, hard(reference) == label, spacing)
        figures[f"not_found_{phase}"] += distance.failure == "empty-prediction"
        if distance.hd95_mm is not None:
            figures[f"hd95_{label.name.lower()}_{phase}_mm"] = distance.hd95_mm
    return figures
