"""Export masks: label maps and images of single frames, for ITK-SNAP, 3D Slicer and similar programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.tracking import StoredTracking, advise_repair, open_tracking
from cmnet_cli.runs.paths import MaskFolder, RunFolder
from cmnet_cli.stages.read_images import load_cine
from cmnet_core.errors import CaseError, ErrorCode, LabelError
from cmnet_core.io.nifti import inspect, read_label_map, write_image, write_labels
from cmnet_core.labels import Label
from cmnet_core.types import CineSequence, LabelSequence

NAME = "export-masks"

COLOURS = {
    Label.BACKGROUND: ("background", (0, 0, 0)),
    Label.LV: ("left ventricle", (230, 75, 60)),
    Label.MYO: ("myocardium", (80, 190, 110)),
    Label.RV: ("right ventricle", (70, 130, 230)),
}
"""Name and colour (red, green, blue) of each label."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported of a case.

    Attributes:
        case_id: The id of the case.
        frames: The frames.
        with_images: Whether their images were exported too.
    """

    case_id: str
    frames: tuple[int, ...]
    with_images: bool


@dataclass(frozen=True, slots=True)
class ExportMasksStage:
    """Export the label maps of every case.

    Attributes:
        root: The run folder.
        out: The folder to write to.
        all_frames: Whether all frames are exported, or ED and ES alone.
        force: Whether files that were edited are replaced.
    """

    root: Path
    out: Path
    all_frames: bool
    force: bool
    name: str = NAME

    def open(self) -> Callable[[Case], Exported]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)

        def exported(case: Case) -> Exported:
            with advise_repair(run):
                return export_case(case, run, self)

        return exported


def export_case(case: Case, run: RunFolder, stage: ExportMasksStage) -> Exported:
    """Export the label maps of a case with the images of the same frames.

    Args:
        case: The case.
        run: The run folder.
        stage: What to export, and where to.

    Raises:
        CaseError: Nothing is stored of the case, or a file that would be replaced was edited.
    """
    folder, target = run.case(case.case_id).current, MaskFolder(stage.out)
    stored = open_tracking(folder)
    frames = tuple(range(stored.facts.frames)) if stage.all_frames else (stored.facts.ed, stored.facts.es)
    header = inspect(folder.segnet_labels)
    for frame in frames:
        path = target.mask(case.case_id, frame)
        if path.exists() and not stage.force and not _is_same(path, stored, frame):
            raise LabelError(
                f"{path} exists and differs from the stored mask: it was edited.",
                hint="Apply it with cmnet correct, export to another folder, or replace it with --force.",
                code=ErrorCode.CORRECTION,
            )
    cine = _cine_or_none(case)
    for frame in frames:
        labels = LabelSequence(stored.segmented[frame][None], (frame,), header.spacing, header.affine)
        write_labels(target.mask(case.case_id, frame), labels, frame_ms=None)
        if cine is not None:
            image = target.image(case.case_id, frame)
            write_image(image, cine.voxels[frame], affine=header.affine, frame_ms=None)
    return Exported(case.case_id, frames, cine is not None)


def _is_same(path: Path, stored: StoredTracking, frame: int) -> bool:
    try:
        return torch.equal(read_label_map(path, image=inspect(path)), stored.segmented[frame])
    except CaseError:
        return False


def _cine_or_none(case: Case) -> CineSequence | None:
    """Return the cine; None where its file was archived since: masks can be edited on a copy of the image elsewhere."""
    try:
        return load_cine(case)
    except CaseError as error:
        if error.code != ErrorCode.FILE_MISSING:
            raise
        return None


def itksnap_labels() -> str:
    """Return the label descriptions of ITK-SNAP: number, colour, opacity, visibility in 2-D and in 3-D, name."""
    lines = ["# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL"]
    for label, (name, (red, green, blue)) in COLOURS.items():
        shown = int(label != Label.BACKGROUND)
        lines.append(f'{int(label):5d} {red:5d} {green:4d} {blue:4d} {shown:9d} {shown:2d} {shown:2d}    "{name}"')
    return "\n".join(lines) + "\n"


def slicer_colours() -> str:
    """Return the colour table of 3D Slicer: number, name without blanks, red, green, blue, opacity."""
    lines = ["# Color table file labels_slicer.ctbl", f"# {len(COLOURS)} values"]
    for label, (name, colour) in COLOURS.items():
        opacity = 0 if label == Label.BACKGROUND else 255
        lines.append(f"{int(label)} {name.replace(' ', '_')} {' '.join(map(str, (*colour, opacity)))}")
    return "\n".join(lines) + "\n"
