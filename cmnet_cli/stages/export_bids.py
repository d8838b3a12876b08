"""Export BIDS: label maps and the displacement field of a case, as BIDS derivatives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.runs.bids import BidsFolder
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.seals import copy_file
from cmnet_core.errors import CaseError, ErrorCode
from cmnet_core.io.atomic import write_json

NAME = "export-bids"

_DISPLACEMENT = "from-ED_to-ES_mode-image_xfm.nii.gz"
_DESCRIPTIONS = {
    "desc-segnet_dseg.nii.gz": "Label map of every frame, segmented independently.",
    "desc-corrected_dseg.nii.gz": "Label map of every frame, corrected by hand in some frames.",
    "desc-propagated_dseg.nii.gz": "Label map of end-diastole, propagated to every frame by the motion.",
    _DISPLACEMENT: (
        "Displacement field in mm, in the convention of ITK: defined at end-systole and pointing to end-diastole, it "
        "resamples an image or label map of end-diastole at end-systole."
    ),
}


@dataclass(frozen=True, slots=True)
class ExportBidsStage:
    """Export every case as BIDS derivatives.

    Attributes:
        root: The run folder.
        out: The folder to write to.
    """

    root: Path
    out: Path
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Return the function of a case; there is nothing to load."""
        run, target = RunFolder(self.root), BidsFolder(self.out)
        return lambda case: export_case(case, run, target)


def export_case(case: Case, run: RunFolder, target: BidsFolder) -> str:
    """Copy the label maps and the displacement field of a case, each with a sidecar, and return the id of the case.

    Args:
        case: The case.
        run: The run folder.
        target: The folder of derivatives.

    Raises:
        CaseError: A label map is missing.
    """
    stored, files = run.case(case.case_id).current, target.case(case)
    copies = {
        path: path.name.removeprefix(f"{case.case_id}_") for path in (stored.segnet_labels, stored.propagated_labels)
    }
    if stored.ed2es_motion.exists():
        copies[stored.ed2es_motion] = _DISPLACEMENT
    for source, ending in copies.items():
        try:
            copy_file(source, files.file(ending))
        except FileNotFoundError as error:
            raise CaseError(
                f"The file {source.name} of the run is missing.",
                hint="cmnet verify --repair makes it again.",
                code=ErrorCode.FILE_MISSING,
            ) from error
        sidecar: dict[str, object] = {"Description": _DESCRIPTIONS[ending], "SpatialReference": "orig"}
        if ending != _DISPLACEMENT:
            sidecar["Manual"] = "corrected" in ending
        write_json(files.file(ending.replace(".nii.gz", ".json")), sidecar)
    return case.case_id
