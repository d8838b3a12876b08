"""Hearts made of circles, drawn in a moment: what they hold is known, and nothing about them is hidden."""

import math
from pathlib import Path

import torch
from torch import Tensor

from cmnet_cli.runs.paths import MaskFolder
from cmnet_core.io.nifti import inspect, read_own, write_image, write_labels
from cmnet_core.labels import Label
from cmnet_core.types import CineSequence, LabelSequence, Spacing

# The tiny model of tests/tiny_model.py tells the tissues by these.
BRIGHTNESS = {Label.BACKGROUND: 0.0, Label.MYO: 0.4, Label.LV: 0.7, Label.RV: 1.0}


def beating_circles(
    *, frames: int, slices: int, size: int, spacing: Spacing, lv_mm: float = 24.0, contraction: float = 0.3
) -> tuple[CineSequence, LabelSequence]:
    """A heart whose LV and RV are circles that contract, ED at frame 0 and ES half a cycle later.

    Args:
        frames: Frames in the cycle.
        slices: Slices, all of the same size.
        size: Voxels along y and x.
        spacing: Voxel spacing.
        lv_mm: Radius of the LV at ED.
        contraction: Share by which the radii shrink at ES.
    """
    maps = torch.stack(
        [
            _draw(size, spacing, lv_mm, 1 - contraction * (1 - math.cos(2 * math.pi * t / frames)) / 2)
            for t in range(frames)
        ]
    )
    labels = maps[:, None].expand(frames, slices, size, size).contiguous()
    voxels = 1000 * sum(value * (labels == label).float() for label, value in BRIGHTNESS.items())
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    assert isinstance(voxels, Tensor)
    cine = CineSequence(voxels, spacing, affine, frame_ms=40.0, ed=None, es=None)
    return cine, LabelSequence(labels, tuple(range(frames)), spacing, affine)


def _draw(size: int, spacing: Spacing, lv_mm: float, share: float) -> Tensor:
    """One slice: the LV in its wall, the RV to the left of it; the wall keeps its area."""
    rows = (torch.arange(size) - (size - 1) / 2) * spacing.y
    columns = (torch.arange(size) - (size - 1) / 2) * spacing.x
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    inner = share * lv_mm
    outer = math.sqrt(inner**2 + (lv_mm + 10) ** 2 - lv_mm**2)
    labels = torch.zeros(size, size, dtype=torch.uint8)
    labels[(x + 40).hypot(y) < share * 22] = Label.RV
    labels[x.hypot(y) < outer] = Label.MYO
    labels[x.hypot(y) < inner] = Label.LV
    return labels


def write_heart(folder: Path, subject: str, *, frames: int = 4, lv_mm: float = 24.0) -> tuple[Path, Path]:
    """Write a small heart and its masks as NIfTI; the paths of both."""
    spacing = Spacing(z=10.0, y=2.0, x=2.0)
    cine, labels = beating_circles(frames=frames, slices=2, size=80, spacing=spacing, lv_mm=lv_mm)
    image, masks = folder / f"{subject}.nii.gz", folder / f"{subject}_labels.nii.gz"
    write_image(image, cine.voxels, affine=cine.affine, frame_ms=cine.frame_ms)
    write_labels(masks, labels, frame_ms=cine.frame_ms)
    return image, masks


def write_cohort(folder: Path, subjects: int, *, frames: int = 4, step_mm: float = 2.0) -> Path:
    """Write hearts of growing size and a manifest of them; the manifest's path."""
    rows = ["subject_id,image,labels,group,height_cm,weight_kg,clinic"]
    for number in range(subjects):
        subject = str(9900001 + number)
        write_heart(folder, subject, frames=frames, lv_mm=20.0 + step_mm * number)
        group = "NOR" if number % 2 else "DCM"
        rows.append(f"{subject},{subject}.nii.gz,{subject}_labels.nii.gz,{group},170,70,north")
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def write_edited_mask(folder: Path, subject: str = "9900001") -> Path:
    """Write an edited mask of frame 0 of a subject of :func:`write_cohort`, with a smaller LV; the folder of masks."""
    masks, _ = read_own(folder / f"{subject}_labels.nii.gz")
    edited, lv = torch.from_numpy(masks[0].copy()), torch.from_numpy(masks[0] == int(Label.LV))
    inside = lv & lv.roll(2, 1) & lv.roll(-2, 1) & lv.roll(2, 2) & lv.roll(-2, 2)
    edited[lv & ~inside] = int(Label.MYO)
    path = MaskFolder(folder / "masks").mask(f"sub-{subject}", 0)
    write_image(path, edited, affine=inspect(folder / f"{subject}_labels.nii.gz").affine, frame_ms=None)
    return folder / "masks"
