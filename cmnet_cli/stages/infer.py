"""Infer: from the image of a case to label maps, motion and uncertainty on the subject's own grid.

A case of the manifest becomes a :class:`CineSequence`, the networks turn it into a :class:`Tracking` with the motion of
every frame, and this module stores it (see :mod:`cmnet_cli.derivatives.tracking` for the files).
"""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import InferConfig, PreprocessConfig, SaveMotion, digest_settings
from cmnet_cli.derivatives.posterior import write_posterior
from cmnet_cli.derivatives.tracking import TrackingFacts, write_entropy, write_velocities
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Expected, Sidecar, record_inputs, record_outputs, remove_leftovers, write_sidecar
from cmnet_cli.stages import preprocess
from cmnet_cli.stages.read_images import load_checked_cine, naming
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.inference.tracking import Model, Tracking, load_model, track
from cmnet_core.io.nifti import write_labels, write_motion
from cmnet_core.qc.image_checks import check_bands
from cmnet_core.types import CineSequence

NAME = "infer"


@dataclass(frozen=True, slots=True)
class InferStage:
    """Segment and track every case, and store the results in a run folder.

    Attributes:
        root: The run folder.
        config: Settings.
        device: Name of the device of the networks, which each worker resolves for itself.
        model_digest: Digest of the weights; with it, pending cases are found without loading the weights.
    """

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Load the networks, and return the function that infers a case."""
        model = load_model(self.config.model, torch.device(resolve_device(self.device)))
        if model.digest != self.model_digest:
            raise CheckpointError(
                f"The weights {self.config.model} on {platform.node()} are not those with which this command started.",
                hint="Use the same file on every machine; start the command again if the weights were meant to change.",
                code=ErrorCode.CHECKPOINT,
            )
        return lambda case: infer_case(case, RunFolder(self.root).case(case.case_id), model=model, config=self.config)

    def expected(self, case: Case) -> Expected:
        """Return the inputs and digests that the sidecar of a case must have."""
        return Expected(case.image, _settings_digest(case, self.config), self.model_digest)


def infer_case(case: Case, folder: CaseFolder, *, model: Model, config: InferConfig) -> str:
    """Segment and track one case, and store the results.

    Returns:
        The id of the case.

    Raises:
        CaseError: The image cannot be used, or no heart is found in it.
    """
    inputs = record_inputs(case.image)
    cine = load_checked_cine(case)
    tracking = track_case(case, cine, model)
    # Without its sidecar, the case is pending until all files are written.
    folder.sidecar(NAME).unlink(missing_ok=True)
    remove_leftovers(folder.folder)
    preprocess.store_window(
        folder,
        tracking.cine.voxels,
        tracking.window,
        cine,
        inputs,
        preprocess.settings_digest(case, PreprocessConfig()),
    )
    outputs = _store_tracking(folder, tracking, cine, config.save_motion)
    sidecar = Sidecar(
        stage=NAME,
        case_id=case.case_id,
        version=__version__,
        settings_digest=_settings_digest(case, config),
        model_digest=model.digest,
        inputs=inputs,
        outputs=record_outputs(outputs),
        facts=asdict(facts_of(tracking, model)),
    )
    write_sidecar(folder.sidecar(NAME), sidecar)
    return case.case_id


def track_case(
    case: Case, cine: CineSequence, model: Model, *, corrected: UInt8[Tensor, "t z y x"] | None = None
) -> Tracking:
    """Segment and track the cine of a case, with the flags of the checks that need its labels.

    Args:
        case: The case.
        cine: Its cine.
        model: The networks.
        corrected: Label maps of all frames that take the place of SegNet's.

    Raises:
        CaseError: No heart is found in the cine; the message names the file.
    """
    with naming(case.image[0]):
        tracking = track(model, cine, corrected=corrected)
    bands = check_bands(cine.voxels[tracking.ed], tracking.segmentation.labels[tracking.ed], cine.spacing)
    return replace(tracking, flags=(*tracking.flags, *bands))


def _store_tracking(folder: CaseFolder, tracking: Tracking, cine: CineSequence, save_motion: SaveMotion) -> list[Path]:
    """Write the files of a tracked cine, remove those that are not wanted, and return the paths of those written."""
    write_labels(folder.segnet_labels, tracking.segmentation, frame_ms=cine.frame_ms)
    write_labels(folder.propagated_labels, tracking.propagated, frame_ms=cine.frame_ms)
    write_entropy(folder.entropy, tracking.entropy, affine=cine.affine, frame_ms=cine.frame_ms)
    written = [folder.segnet_labels, folder.propagated_labels, folder.entropy]
    for earlier in (folder.ed2es_motion, folder.motion, folder.posterior):
        earlier.unlink(missing_ok=True)
    if save_motion != SaveMotion.NONE:
        write_motion(folder.ed2es_motion, tracking.ed_to_es, affine=cine.affine)
        written.append(folder.ed2es_motion)
    if save_motion == SaveMotion.FULL:
        write_velocities(folder.motion, tracking.velocities)
        write_posterior(folder.posterior, tracking.posterior)
        written += [folder.motion, folder.posterior]
    return written


def facts_of(tracking: Tracking, model: Model) -> TrackingFacts:
    """Return the facts about a tracked cine that later stages need."""
    return TrackingFacts(
        frames=tracking.cine.frames,
        frame_ms=tracking.cine.frame_ms,
        ed=tracking.ed,
        es=tracking.es,
        cycle_consistency_error_mm=tracking.cycle_consistency_error_mm,
        folded_voxels=tracking.folded_voxels,
        window=tracking.window,
        motion=model.sizes,
        flags=tracking.flags,
    )


def _settings_digest(case: Case, config: InferConfig) -> str:
    # The weights have their own digest: the same file under another name changes nothing.
    settings = (config.save_motion, case.ed, case.es, case.frame_ms, case.heart_rate_bpm)
    return digest_settings(*settings, *preprocess.chosen_files(case))
