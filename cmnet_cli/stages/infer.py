"""Infer: from the image of a case to label maps, motion and uncertainty on the subject's own grid.

A case of the manifest becomes a :class:`CineSequence`, the networks turn it into a :class:`Tracking` with the motion of
every frame, and this module stores it (see :mod:`cmnet_cli.derivatives.tracking` for the files).
"""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import InferConfig, PreprocessConfig, SaveMotion, digest_settings
from cmnet_cli.derivatives.posterior import write_posterior
from cmnet_cli.derivatives.tracking import DEFAULT_METHOD, SEGNET, TrackingFacts, write_entropy, write_velocities
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Expected, Sidecar, record_inputs, record_outputs, remove_leftovers, write_sidecar
from cmnet_cli.stages import preprocess
from cmnet_cli.stages.read_images import load_checked_cine, naming
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.inference.tracking import Tracking, load_model
from cmnet_core.io.nifti import write_labels, write_motion
from cmnet_core.methods.interface import Method
from cmnet_core.methods.registry import method_digest, open_method
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
        model_digest: Digest of the weights and of the method; with it, pending cases are found without loading the
            weights.
    """

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Load the networks, and return the function that infers a case."""
        model = load_model(self.config.model, torch.device(resolve_device(self.device)))
        if method_digest(self.config.method, model.digest) != self.model_digest:
            raise CheckpointError(
                f"The weights {self.config.model} on {platform.node()} are not those with which this command started.",
                hint="Use the same file on every machine; start the command again if the weights were meant to change.",
                code=ErrorCode.CHECKPOINT,
            )
        method, run = open_method(self.config.method, model), RunFolder(self.root)
        return lambda case: infer_case(case, run.case(case.case_id), method=method, stage=self)

    def expected(self, case: Case) -> Expected:
        """Return the inputs and digests that the sidecar of a case must have."""
        return Expected(case.image, _settings_digest(case, self.config), self.model_digest)


def infer_case(case: Case, folder: CaseFolder, *, method: Method, stage: InferStage) -> str:
    """Segment and track one case, and store the results.

    Returns:
        The id of the case.

    Raises:
        CaseError: The image cannot be used, or no heart is found in it.
    """
    inputs = record_inputs(case.image)
    cine = load_checked_cine(case)
    tracking = track_case(case, cine, method.track)
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
    outputs = _store_tracking(folder, tracking, cine, stage.config.save_motion)
    sidecar = Sidecar(
        stage=NAME,
        case_id=case.case_id,
        version=__version__,
        settings_digest=_settings_digest(case, stage.config),
        model_digest=stage.model_digest,
        inputs=inputs,
        outputs=record_outputs(outputs),
        facts=asdict(facts_of(tracking, stage.config.method)),
    )
    write_sidecar(folder.sidecar(NAME), sidecar)
    return case.case_id


def track_case(case: Case, cine: CineSequence, track: Callable[[CineSequence], Tracking]) -> Tracking:
    """Segment and track the cine of a case, with the flags of the checks that need its labels.

    Args:
        case: The case.
        cine: Its cine.
        track: Segments and tracks a cine.

    Raises:
        CaseError: No heart is found in the cine; the message names the file.
    """
    with naming(case.image[0]):
        tracking = track(cine)
    bands = check_bands(cine.voxels[tracking.ed], tracking.segmentation.labels[tracking.ed], cine.spacing)
    return replace(tracking, flags=(*tracking.flags, *bands))


def _store_tracking(folder: CaseFolder, tracking: Tracking, cine: CineSequence, save_motion: SaveMotion) -> list[Path]:
    """Write the files of a tracked cine, remove those that are not wanted, and return the paths of those written."""
    write_labels(folder.segnet_labels, tracking.segmentation, frame_ms=cine.frame_ms)
    write_labels(folder.propagated_labels, tracking.propagated, frame_ms=cine.frame_ms)
    written = [folder.segnet_labels, folder.propagated_labels]
    for earlier in (folder.entropy, folder.ed2es_motion, folder.motion, folder.posterior):
        earlier.unlink(missing_ok=True)
    if tracking.entropy is not None:
        write_entropy(folder.entropy, tracking.entropy, affine=cine.affine, frame_ms=cine.frame_ms)
        written.append(folder.entropy)
    if save_motion != SaveMotion.NONE:
        write_motion(folder.ed2es_motion, tracking.ed_to_es, affine=cine.affine)
        written.append(folder.ed2es_motion)
    if save_motion == SaveMotion.FULL:
        write_velocities(folder.motion, tracking.velocities)
        written.append(folder.motion)
    if save_motion == SaveMotion.FULL and tracking.posterior is not None:
        write_posterior(folder.posterior, tracking.posterior)
        written.append(folder.posterior)
    return written


def facts_of(tracking: Tracking, method: str) -> TrackingFacts:
    """Return the facts about a tracked cine that later stages need."""
    return TrackingFacts(
        frames=tracking.cine.frames,
        frame_ms=tracking.cine.frame_ms,
        ed=tracking.ed,
        es=tracking.es,
        cycle_consistency_error_mm=tracking.cycle_consistency_error_mm,
        folded_voxels=tracking.folded_voxels,
        window=tracking.window,
        motion=tracking.integration,
        flags=tracking.flags,
        method=method,
        masks=method if tracking.own_masks and method != DEFAULT_METHOD else SEGNET,
        has_entropy=tracking.entropy is not None,
    )


def _settings_digest(case: Case, config: InferConfig) -> str:
    # The weights have their own digest: the same file under another name changes nothing.
    settings = (config.save_motion, case.ed, case.es, case.frame_ms, case.heart_rate_bpm)
    return digest_settings(*settings, *preprocess.chosen_files(case))
