"""Preprocess: read a cine, find the heart without any mask, cut out the network's window."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import PreprocessConfig, digest_settings
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Expected, FileRecord, Sidecar, record_inputs, record_outputs, write_sidecar
from cmnet_cli.stages.read_images import load_cine, naming
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
    """Preprocess every case into a run folder."""

    root: Path
    config: PreprocessConfig
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Nothing to load; the function of a case."""
        return lambda case: preprocess_case(case, RunFolder(self.root).case(case.case_id), self.config)

    def expected(self, case: Case) -> Expected:
        """What the sidecar of a case must agree with today."""
        return Expected(case.image, settings_digest(case, self.config), "")


def settings_digest(case: Case, config: PreprocessConfig) -> str:
    """Digest of the settings and of the manifest's cells that decide what the window shows."""
    return digest_settings(config, case.frame_ms, case.heart_rate_bpm)


def preprocess_case(case: Case, folder: CaseFolder, config: PreprocessConfig) -> str:
    """Cut the network's window out of one case's cine and store it.

    Returns:
        The case's id.

    Raises:
        CaseError: The image cannot be used, or nothing in it moves.
    """
    inputs = record_inputs(case.image)
    cine = load_cine(case)
    with naming(case.image[0]):
        centre = heart_centre_from_motion(cine)
        window = window_around(cine, centre, spacing_mm=config.spacing_mm, size=(config.size, config.size))
        shown = extract(normalise(cine.voxels), window)
    folder.sidecar(NAME).unlink(missing_ok=True)
    store_window(folder, shown, window, cine=cine)
    prove_window(folder, inputs, settings_digest(case, config), window=window, flags=cine.flags)
    return case.case_id


def store_window(folder: CaseFolder, shown: Float[Tensor, "t z y x"], window: Window, *, cine: CineSequence) -> None:
    """Store the network's window for eyes and reports, in 32 grey levels from 0 to 248.

    An image's noise is as wide as such a level: more of them would store noise, at twice the size.
    """
    levels = 8 * (31 * shown.clamp(0, 1)).round().to(torch.uint8)
    write_image(folder.preproc_cine, levels, affine=window_affine(cine.affine, window), frame_ms=cine.frame_ms)


def prove_window(
    folder: CaseFolder,
    inputs: tuple[FileRecord, ...],
    settings: str,
    *,
    window: Window,
    flags: tuple[str, ...],
) -> None:
    """Write the sidecar of a stored window."""
    facts: dict[str, Any] = {"window": asdict(window), "flags": list(flags)}
    outputs = record_outputs([folder.preproc_cine])
    write_sidecar(
        folder.sidecar(NAME), Sidecar(NAME, folder.case_id, __version__, settings, "", inputs, outputs, facts)
    )
