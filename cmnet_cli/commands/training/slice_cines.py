"""Whole cardiac cycles of single slices of ACDC's patients, with the reference masks of these slices at ED and ES."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_reference_masks
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io import nifti
from cmnet_core.types import LabelSequence

_CINE = re.compile(r"(?P<patient>patient\d{3})_\w+_slice(?P<slice>\d{2})_cine\.nii\.gz")
_LABELLED = re.compile(r"_frame(?P<frame>\d{2})_")


@dataclass(frozen=True, slots=True)
class SliceCine:
    """The cine of one slice.

    Attributes:
        path: The image, with one slice and all frames of the cycle.
        patient: The patient at ED and ES, with the reference masks of the whole stack.
        slice: Index of the slice in the stack, from 0.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
    """

    path: Path
    patient: Case
    slice: int
    ed: int
    es: int


def find_slice_cines(folder: Path, patients: Sequence[Case]) -> list[SliceCine]:
    """Return the cines of single slices that a folder has of some patients.

    Beside ``patientNNN_LEVEL_sliceZZ_cine.nii.gz`` there are masks of ED and of ES, whose names state the frames.

    Raises:
        ManifestError: There are none.
    """
    by_id = {case.subject_id: case for case in patients}
    found = []
    for path in sorted(folder.glob("*_cine.nii.gz")):
        name = _CINE.fullmatch(path.name)
        masks = sorted(folder.glob(path.name.replace("_cine.nii.gz", "_frame*_myo.nii.gz")))
        frames = [int(match["frame"]) for mask in masks if (match := _LABELLED.search(mask.name))]
        if name and name["patient"] in by_id and len(frames) == 2:
            found.append(SliceCine(path, by_id[name["patient"]], int(name["slice"]), *frames))
    if not found:
        raise ManifestError(
            f"{folder}: expected files like patientNNN_mid_slice05_cine.nii.gz, found none.",
            hint="Check the folder.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return found


def with_reference_masks(cine: SliceCine, masks: Path) -> Case:
    """Return a slice's cine as a case, and write the masks of the slice, which are taken from those of the stack.

    Args:
        cine: The cine of a slice.
        masks: Folder to write the masks to.

    Raises:
        CaseError: The image or the masks of the patient cannot be used.
    """
    stack = load_reference_masks(cine.patient, load_cine(cine.patient), purpose="Training")
    image = nifti.read_cine(cine.path, frame_ms=None)
    labels = torch.zeros(image.voxels.shape, dtype=torch.uint8)
    phases = labelled_phases(cine.patient, stack)
    labels[[cine.ed, cine.es], 0] = torch.stack([stack.at(frame)[cine.slice] for frame in phases])
    path = masks / cine.path.name.replace("_cine", "_dseg")
    frames = tuple(range(image.frames))
    masks.mkdir(parents=True, exist_ok=True)
    nifti.write_labels(path, LabelSequence(labels, frames, image.spacing, image.affine), frame_ms=None)
    return replace(
        Case(cine.patient.row, cine.patient.subject_id, (cine.path,)),
        session=f"slice{cine.slice:02d}",
        labels=path,
        ed=cine.ed,
        es=cine.es,
        extra=cine.patient.extra,
    )
