"""Infer: a raw cine in; label maps, motion and uncertainty out, on the subject's own grid."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import InferConfig, PreprocessConfig, SaveMotion, digest_settings
from cmnet_cli.derivatives.posterior import write_posterior
from cmnet_cli.derivatives.tracking import TrackingFacts, facts_to_json, write_entropy, write_velocities
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Expected, FileRecord, Sidecar, record_inputs, record_outputs, write_sidecar
from cmnet_cli.stages import preprocess
from cmnet_cli.stages.read_images import load_cine, naming
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.inference.refinement import Refinement
from cmnet_core.inference.tracking import FRAMES_TO_CLOSE, Model, Tracking, load_model, track
from cmnet_core.io.nifti import write_labels, write_motion
from cmnet_core.types import CineSequence

NAME = "infer"


@dataclass(frozen=True, slots=True)
class InferStage:
    """Track every case into a run folder.

    Attributes:
        root: The run folder.
        config: Settings.
        device: Where the networks run, by a name that each worker resolves for itself.
        model_digest: Digest of the weights, so that a resume need not load them.
    """

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    name: str = NAME

    def open(self) -> Callable[[Case], str]:
        """Load the networks; the function of a case."""
        model = load_model(self.config.model, torch.device(resolve_device(self.device)))
        if model.digest != self.model_digest:
            raise CheckpointError(
                f"The weights {self.config.model} on {platform.node()} are not those that this run began with.",
                hint="Put the same file on every machine; begin again where they were meant to change.",
                code=ErrorCode.CHECKPOINT,
            )
        return lambda case: infer_case(case, RunFolder(self.root).case(case.case_id), model=model, config=self.config)

    def expected(self, case: Case) -> Expected:
        """What the sidecar of a case must agree with today."""
        return Expected(case.image, _settings_digest(case, self.config), self.model_digest)


def _settings_digest(case: Case, config: InferConfig) -> str:
    # The weights have a digest of their own: the same file under another name changes nothing.
    estimate = (config.save_motion, config.refine, config.close)
    return digest_settings(*estimate, case.ed, case.es, case.frame_ms, case.heart_rate_bpm)


def infer_case(case: Case, folder: CaseFolder, *, model: Model, config: InferConfig) -> str:
    """Segment and track one case and store what later stages read.

    Returns:
        The case's id.

    Raises:
        CaseError: The image cannot be used, or no heart is found in it.
    """
    inputs = record_inputs(case.image)
    cine = load_cine(case)
    with naming(case.image[0]):
        tracking = track(model, cine, refinement=Refinement(config.refine), close=config.close)
    folder.sidecar(NAME).unlink(missing_ok=True)
    _store_window(case, folder, inputs, tracking, cine)
    outputs = record_outputs(_store(folder, tracking, cine, config.save_motion))
    settings = _settings_digest(case, config)
    facts = facts_to_json(_facts_of(tracking, model, config))
    sidecar = Sidecar(NAME, case.case_id, __version__, settings, model.digest, inputs, outputs, facts)
    write_sidecar(folder.sidecar(NAME), sidecar)
    return case.case_id


def _store_window(
    case: Case, folder: CaseFolder, inputs: tuple[FileRecord, ...], tracking: Tracking, cine: CineSequence
) -> None:
    """Replace the window of preprocess by the one that the networks really saw."""
    settings = preprocess.settings_digest(case, PreprocessConfig())
    folder.sidecar(preprocess.NAME).unlink(missing_ok=True)
    preprocess.store_window(folder, tracking.cine.voxels, tracking.window, cine=cine)
    preprocess.prove_window(folder, inputs, settings, window=tracking.window, flags=cine.flags)


def _store(folder: CaseFolder, tracking: Tracking, cine: CineSequence, save: SaveMotion) -> list[Path]:
    """Write the files of a tracked cine; the paths of those that were asked for."""
    write_labels(folder.segnet_labels, tracking.segmentation, frame_ms=cine.frame_ms)
    write_labels(folder.propagated_labels, tracking.propagated, frame_ms=cine.frame_ms)
    write_entropy(folder.entropy, tracking.entropy, affine=cine.affine, frame_ms=cine.frame_ms)
    written = [folder.segnet_labels, folder.propagated_labels, folder.entropy]
    for leftover in (folder.ed2es_motion, folder.motion, folder.posterior):
        leftover.unlink(missing_ok=True)
    if save != SaveMotion.NONE:
        write_motion(folder.ed2es_motion, tracking.ed_to_es, affine=cine.affine)
        written.append(folder.ed2es_motion)
    if save == SaveMotion.FULL:
        write_velocities(folder.motion, tracking.velocities)
        write_posterior(folder.posterior, tracking.posterior)
        written += [folder.motion, folder.posterior]
    return written


def _facts_of(tracking: Tracking, model: Model, config: InferConfig) -> TrackingFacts:
    return TrackingFacts(
        frames=tracking.cine.frames,
        frame_ms=tracking.cine.frame_ms,
        ed=tracking.ed,
        es=tracking.es,
        cycle_consistency_error_mm=tracking.cycle_consistency_error_mm,
        folded_voxels=tracking.folded_voxels,
        window=tracking.window,
        motion=model.sizes,
        segnet_members=model.card.segnet.members,
        refinement_iterations=config.refine,
        cycle_closed=config.close and not model.sizes.ed_referenced and tracking.cine.frames >= FRAMES_TO_CLOSE,
        flags=tracking.flags,
    )
