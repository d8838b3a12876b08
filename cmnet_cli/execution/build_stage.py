"""Building a stage from its settings, here for local commands and for array tasks, so that their stages are equal."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.config import IndicesConfig, InferConfig
from cmnet_cli.stages.indices import IndicesStage
from cmnet_cli.stages.infer import InferStage
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_core.function.reference_ranges import SHIPPED, read_reference
from cmnet_core.inference.tracking import load_model


def build_infer_stage(root: Path, config: InferConfig, device: str) -> InferStage:
    """Build the stage infer, with the digest of its weights.

    Raises:
        CheckpointError: The weights cannot be used.
    """
    # Loaded for the digest, and so that weights that cannot be used are reported before anything is written.
    model = load_model(config.model, torch.device("cpu"))
    if Path(config.model).is_file():
        # Workers may run in another folder.
        config = replace(config, model=str(Path(config.model).absolute()))
    return InferStage(root, config, device, model.digest)


def reference_path(config: IndicesConfig) -> Path:
    """Return the table of reference ranges that the settings name: the user's, or the one that cmnet ships."""
    return Path(config.reference).absolute() if config.reference else SHIPPED


def build_indices_stage(root: Path, config: IndicesConfig) -> IndicesStage:
    """Build the stage indices, with the reference ranges that the settings name.

    Raises:
        ManifestError: The reference ranges cannot be used.
    """
    ranges = read_reference(reference_path(config))
    return IndicesStage(root, ranges, SamplingSettings(config.samples, config.seed))


def stage_facts(stage: PreprocessStage | InferStage) -> dict[str, Any]:
    """Return what ``run.json`` records of a stage that stores files."""
    facts: dict[str, Any] = {"settings": asdict(stage.config)}
    return facts | {"model_digest": stage.model_digest} if isinstance(stage, InferStage) else facts


def indices_facts(config: IndicesConfig, stage: IndicesStage) -> dict[str, Any]:
    """Return what ``run.json`` records of the stage indices; the report reads the reference ranges from that path."""
    reference = str(reference_path(config)) if config.reference else ""
    return {"settings": asdict(replace(config, reference=reference)), "reference": stage.reference_tables}
