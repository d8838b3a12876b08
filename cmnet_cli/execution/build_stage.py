"""Building a stage from its settings, here for local commands and for array tasks, so that their stages are equal."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.config import IndicesConfig, InferConfig, PreprocessConfig, load_config
from cmnet_cli.execution.plan import StoredStage
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.slurm.shards import frozen_reference
from cmnet_cli.slurm.submission import Submission
from cmnet_cli.stages import infer, preprocess
from cmnet_cli.stages.indices import IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_core.function.reference_ranges import SHIPPED, read_reference
from cmnet_core.inference.tracking import load_model
from cmnet_core.methods.registry import method_digest
from cmnet_core.uncertainty.calibration import read_calibration


def build_infer_stage(root: Path, config: InferConfig, device: str) -> InferStage:
    """Build the stage infer, with the digest of its weights.

    Raises:
        CheckpointError: The weights cannot be used.
        ManifestError: There is no such method, or its package is not installed.
    """
    # Loaded for the digest, and so that weights that cannot be used are reported before anything is written.
    model = load_model(config.model, torch.device("cpu"))
    if Path(config.model).is_file():
        # Workers may run in another folder.
        config = replace(config, model=str(Path(config.model).absolute()))
    return InferStage(root, config, device, method_digest(config.method, model.digest))


def reference_path(config: IndicesConfig) -> Path:
    """Return the table of reference ranges that the settings name: the user's, or the one that cmnet ships."""
    return Path(config.reference).absolute() if config.reference else SHIPPED


def build_indices_stage(root: Path, config: IndicesConfig) -> IndicesStage:
    """Build the stage indices, with the reference ranges and the calibration that the settings name.

    Raises:
        ManifestError: The reference ranges or the calibration cannot be used.
    """
    ranges = read_reference(reference_path(config))
    # Workers may run in another folder.
    calibration = Path(config.calibration).absolute() if config.calibration else None
    if calibration is not None:
        read_calibration(calibration)
    draws = SamplingSettings(config.samples, config.seed, calibration)
    return IndicesStage(root, ranges, draws, config.experimental)


def build_submitted_stage(folder: RunFolder, submission: Submission) -> StoredStage[Any] | None:
    """Build the stage of a submission that stores files from its frozen settings; None for a submission of indices."""
    if submission.stage == infer.NAME:
        config = load_config(InferConfig, None, **submission.settings)
        return build_infer_stage(folder.root, config, submission.device)
    if submission.stage == preprocess.NAME:
        return PreprocessStage(folder.root, load_config(PreprocessConfig, None, **submission.settings))
    return None


def build_submitted_indices(folder: RunFolder, submission: Submission) -> IndicesStage | None:
    """Build the stage indices of a submission from its frozen settings; None for a submission of preprocess.

    Raises:
        ManifestError: The frozen reference ranges are missing or were changed.
    """
    if submission.reference is None:
        return None
    reference = frozen_reference(folder.submission(submission.name), submission.reference)
    config = load_config(IndicesConfig, None, **{**submission.indices, "reference": str(reference)})
    return build_indices_stage(folder.root, config)


def stage_facts(stage: PreprocessStage | InferStage) -> dict[str, Any]:
    """Return what ``run.json`` records of a stage that stores files."""
    facts: dict[str, Any] = {"settings": asdict(stage.config)}
    return facts | {"model_digest": stage.model_digest} if isinstance(stage, InferStage) else facts


def indices_facts(config: IndicesConfig, stage: IndicesStage) -> dict[str, Any]:
    """Return what ``run.json`` records of the stage indices; the report reads the reference ranges from that path."""
    reference = str(reference_path(config)) if config.reference else ""
    calibration = str(stage.draws.calibration or "")
    settings = asdict(replace(config, reference=reference, calibration=calibration))
    return {"settings": settings, "reference": stage.reference_tables}
