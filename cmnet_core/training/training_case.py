"""Labelled subjects in the form in which training uses them, and their segmentation metrics."""

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
    """One subject with its whole field of view at the network's in-plane spacing.

    Attributes:
        voxels: Normalised intensities.
        labels: Reference masks of the frames in ``labelled``.
        labelled: Frames that have a reference mask; ED and ES are among them.
        spacing: Voxel spacing in mm.
        ed: End-diastolic frame.
        es: End-systolic frame.
        centre: Centre (y, x) of the heart in voxels.
        motion: The displacement of every frame into ED, in voxels of ``voxels`` and at half their in-plane resolution,
            where it is known; otherwise None.
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
        """Return the reference mask of a labelled frame."""
        return self.labels[self.labelled.index(frame)]


def training_case(
    cine: CineSequence,
    labels: LabelSequence,
    *,
    spacing_mm: float,
    motion_mm: Float[Tensor, "t 3 z y x"] | None = None,
) -> TrainingCase:
    """Resample a labelled cine to the network's in-plane spacing.

    Args:
        cine: The cine, with known ED and ES.
        labels: Reference masks of ED, ES and possibly other frames.
        spacing_mm: In-plane voxel spacing in mm.
        motion_mm: The displacement of every frame into ED in mm, on the cine's own grid, where it is known.

    Raises:
        LabelError: ED or ES is not known or has no mask, or a mask lacks a structure.
    """
    if cine.ed is None or cine.es is None or not {cine.ed, cine.es} <= set(labels.frames):
        raise LabelError(
            f"Training needs masks at ED and ES; ED is {cine.ed}, ES is {cine.es}, masks exist for {labels.frames}.",
            hint="Give ed, es and the masks of both frames in the manifest.",
            code=ErrorCode.LABEL_GEOMETRY,
        )
    window = wide_window(cine, spacing_mm=spacing_mm)
    maps = extract_labels(labels.labels, window)
    for phase, frame in (("ED", cine.ed), ("ES", cine.es)):
        require_structures(labels.at(frame)[None], f"The mask at {phase} lacks")
    heart = (maps != Label.BACKGROUND).flatten(0, 1).any(0).nonzero().float()
    y, x = heart.mean(0).tolist()
    voxels = extract(normalise(cine.voxels), window)
    motion = None if motion_mm is None else _half_precision_motion(motion_mm, window)
    return TrainingCase(voxels, maps, labels.frames, window.spacing, cine.ed, cine.es, (y, x), motion)


def _half_precision_motion(motion_mm: Float[Tensor, "t 3 z y x"], window: Window) -> Float16[Tensor, "t 3 z yh xh"]:
    """Return known motion at half the in-plane resolution and in half precision, which saves memory."""
    size_mm = torch.tensor(window.spacing.zyx).view(3, 1, 1, 1)
    frames = [functional.avg_pool2d(extract(frame, window) / size_mm, 2).half() for frame in motion_mm]
    return torch.stack(frames)


def require_structures(masks: UInt8[Tensor, "n z y x"], lacks: str) -> None:
    """Require that LV, myocardium and RV are all in the masks.

    Args:
        masks: Label maps.
        lacks: Begin of the error message, which the names of the missing structures follow.

    Raises:
        LabelError: A structure is in none of the masks.
    """
    missing = [label.name for label in STRUCTURES if not bool((masks == label).any())]
    if missing:
        raise LabelError(
            f"{lacks} {' and '.join(missing)}; training needs all of LV, MYO and RV.",
            hint="Check the mask and its label_scheme, add the missing structures, or leave the subject out.",
            code=ErrorCode.LABEL_CLASS,
        )


def drop_end_slices(depth: int, probability: float, generator: torch.Generator) -> slice:
    """Drop slices at the ends of a stack with some probability, and return the slices to keep."""
    if depth < 4 or float(torch.rand((), generator=generator)) >= probability:
        return slice(0, depth)
    dropped = int(torch.randint(1, depth - 1, (), generator=generator))
    start = int(torch.randint(0, dropped + 1, (), generator=generator))
    return slice(start, start + depth - dropped)


def most_probable_labels(probabilities: Float[Tensor, "z k y x"]) -> UInt8[Tensor, "z y x"]:
    """Return the most probable label of every voxel."""
    labels: Tensor = probabilities.argmax(1)
    return labels.to(torch.uint8)


def metric_names(phase: str) -> tuple[str, ...]:
    """Return the names of the metrics of :func:`dice_metrics` and :func:`surface_metrics`."""
    names = [label.name.lower() for label in STRUCTURES]
    dice, hd95 = [f"dice_{name}_{phase}_pct" for name in names], [f"hd95_{name}_{phase}_mm" for name in names]
    return (f"dice_{phase}_pct", *dice, *hd95, f"not_found_{phase}")


def dice_metrics(
    predicted: Float[Tensor, "z k y x"], reference: Float[Tensor, "z k y x"], *, phase: str
) -> dict[str, float]:
    """Compute Dice in % of each structure that the reference has, and their mean."""
    labels, reference_labels = most_probable_labels(predicted), most_probable_labels(reference)
    scores = {label: metrics.dice_pct(labels, reference_labels, label) for label in STRUCTURES}
    known = {f"dice_{label.name.lower()}_{phase}_pct": score for label, score in scores.items() if score is not None}
    return known | ({f"dice_{phase}_pct": sum(known.values()) / len(known)} if known else {})


def surface_metrics(
    predicted: Float[Tensor, "z k y x"], reference: Float[Tensor, "z k y x"], spacing: Spacing, *, phase: str
) -> dict[str, float]:
    """Compute HD95 in mm of each structure, and the number of structures that the prediction lacks."""
    labels, reference_labels = most_probable_labels(predicted), most_probable_labels(reference)
    found = {f"not_found_{phase}": 0.0}
    for label in STRUCTURES:
        distance = metrics.surface_distances_mm(labels == label, reference_labels == label, spacing)
        found[f"not_found_{phase}"] += distance.failure == "empty-prediction"
        if distance.hd95_mm is not None:
            found[f"hd95_{label.name.lower()}_{phase}_mm"] = distance.hd95_mm
    return found
