"""Made cines on disk: real hearts, moved on a path that is known, and that path beside them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cases import Case
from cmnet_cli.stages.known_motion import known_motion_of, write_known_motion
from cmnet_cli.stages.train import load_training_case
from cmnet_core.io.nifti import LabelScheme, write_image, write_labels
from cmnet_core.phantom.made import MadeCine, fit_motion, make_cine
from cmnet_core.training.cases import TrainingCase
from cmnet_core.types import LabelSequence, Spacing

SPACING_MM = 1.5
"""Of the plane of a made cine: that of the networks."""

SIZE = 128
"""Voxels along each in-plane axis of a made cine."""

CYCLE_MS = 900.0
"""Duration of a made cycle, 67 beats a minute."""

BRIGHTEST = 1000.0
"""Scanners write whole numbers; normalised intensities are written in thousandths."""


@dataclass(frozen=True, slots=True)
class MakeStage:
    """Make one cine, or several, of every labelled case.

    Attributes:
        out: Folder to write to.
        frames: In each cycle.
        variants: Cines of each heart, which differ in what no mask shows.
        seed: What all chance starts from.
    """

    out: Path
    frames: int
    variants: int
    seed: int
    name: str = "make"

    def open(self) -> Callable[[Case], list[Case]]:
        """Nothing to load; the function of a case."""
        return lambda case: list(self._make(case))

    def _make(self, case: Case) -> Iterator[Case]:
        real = load_training_case(case, spacing_mm=SPACING_MM)
        ed, es, image = _window(real)
        velocity = fit_motion(ed, es, real.spacing)
        for variant in range(1, self.variants + 1):
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + 1_009 * case.row + variant)
            made = make_cine(image, ed, velocity, real.spacing, frames=self.frames, generator=generator)
            subject = f"{case.subject_id}-made{variant}"
            yield _write(self.out / f"sub-{subject}", replace(case, subject_id=subject), made, real.spacing)


def _window(real: TrainingCase) -> tuple[Tensor, Tensor, Float[Tensor, "z y x"]]:
    """Both masks and the ED image, cut out around the heart."""
    corner = [round(middle) - SIZE // 2 for middle in real.centre]
    rows, columns = (_within(first, size) for first, size in zip(corner, real.voxels.shape[2:], strict=True))
    cut = (slice(None), rows, columns)
    return real.mask(real.ed)[cut], real.mask(real.es)[cut], real.voxels[real.ed][cut]


def _within(first: int, size: int) -> slice:
    start = max(min(first, size - SIZE), 0)
    return slice(start, min(start + SIZE, size))


def _write(folder: Path, case: Case, made: MadeCine, spacing: Spacing) -> Case:
    """Write image, masks and motion; the row of the manifest."""
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    frame_ms = CYCLE_MS / len(made.voxels)
    image, labels = folder / f"{folder.name}_cine.nii.gz", folder / f"{folder.name}_dseg.nii.gz"
    write_image(image, (BRIGHTEST * made.voxels).round().short(), affine=affine, frame_ms=frame_ms)
    every = tuple(range(len(made.labels)))
    write_labels(labels, LabelSequence(made.labels, every, spacing, affine), frame_ms=frame_ms)
    write_known_motion(known_motion_of(image), made)
    return replace(
        case,
        image=(image,),
        labels=labels,
        labels_ed=None,
        labels_es=None,
        label_scheme=LabelScheme.CMNET,
        ed=0,
        es=made.es,
        frame_ms=frame_ms,
    )
