"""Preprocess: read a cine, locate the heart from its motion, and store the input window of the networks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import PreprocessConfig, digest_settings
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import (
    Expected,
    FileRecord,
    Sidecar,
    record_inputs,
    record_outputs,
    remove_leftovers,
    write_sidecar,
)
from cmnet_cli.stages.read_images import load_checked_cine, naming
from cmnet_core import __version__
from cmnet_core.imaging.preprocess import (
    Window,
    extract,
    heart_centre_from_motion,
    normalise,
    window_affine,
    window_around,
)
from cmnet_core.io.nifti import write_image
from cmnet_core.types import CineSequence

NAME = "preprocess"


@dataclass(frozen=True, slots=True)
class PreprocessStage:
    """Store the input window of the networks for every case in a run folder."""

    root: Path
    config: PreprocessConfig
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Return the function that preprocesses a case."""
        return lambda case: preprocess_case(case, RunFolder(self.root).case(case.case_id), self.config)

    def expected(self, case: Case) -> Expected:
        """Return the inputs and digests that the sidecar of a case must have."""
        return Expected(case.image, settings_digest(case, self.config), "")


def settings_digest(case: Case, config: PreprocessConfig) -> str:
    """Return the digest of the settings and of the cells of the manifest on which the window depends."""
    return digest_settings(config, case.frame_ms, case.heart_rate_bpm, *chosen_files(case))


def chosen_files(case: Case) -> tuple[object, ...]:
    """Return the cells of the manifest that choose files of a folder; nothing where they are empty."""
    return (case.dicom_study, case.follow_links) if case.dicom_study or case.follow_links else ()


def preprocess_case(case: Case, folder: CaseFolder, config: PreprocessConfig) -> str:
    """Crop and resample the cine of one case to the input window of the networks, and store it.

    Returns:
        The id of the case.

    Raises:
        CaseError: The image cannot be used, or nothing in it moves.
    """
    inputs = record_inputs(case.image)
    cine = load_checked_cine(case)
    with naming(case.image[0]):
        centre = heart_centre_from_motion(cine)
        window = window_around(cine, centre, spacing_mm=config.spacing_mm, size=(config.size, config.size))
        voxels = extract(normalise(cine.voxels), window)
    store_window(folder, voxels, window, cine, inputs, settings_digest(case, config))
    return case.case_id


def store_window(
    folder: CaseFolder,
    voxels: Float[Tensor, "t z y x"],
    window: Window,
    cine: CineSequence,
    inputs: tuple[FileRecord, ...],
    settings: str,
) -> None:
    """Store the input window of the networks, for inspection and for reports, and last its sidecar.

    Intensities are stored in 32 grey levels from 0 to 248. The noise of an image is as wide as one level: more levels
    would store noise, at twice the size.

    Args:
        folder: The folder of the case.
        voxels: Normalised intensities in the window.
        window: Position of the window in the subject's stack.
        cine: The cine from which the window was extracted.
        inputs: The files of the cine.
        settings: Digest of the settings.
    """
    folder.sidecar(NAME).unlink(missing_ok=True)
    remove_leftovers(folder.folder)
    levels = 8 * (31 * voxels.clamp(0, 1)).round().to(torch.uint8)
    write_image(folder.preproc_cine, levels, affine=window_affine(cine.affine, window), frame_ms=cine.frame_ms)
    sidecar = Sidecar(
        stage=NAME,
        case_id=folder.case_id,
        version=__version__,
        settings_digest=settings,
        model_digest="",
        inputs=inputs,
        outputs=record_outputs([folder.preproc_cine]),
        facts={"window": asdict(window), "flags": list(cine.flags)},
    )
    write_sidecar(folder.sidecar(NAME), sidecar)
