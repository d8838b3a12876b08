"""A step of the recipe that averages trained SegNets, and matches the volume of the wall to the reference masks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.training.settings import TrainConfig
from cmnet_cli.console import Messages
from cmnet_cli.training.data import load_reference_pairs
from cmnet_core import __version__
from cmnet_core.models.checkpoint import load_checkpoint, save_checkpoint
from cmnet_core.training.weight_average import average_networks, shift_wall_logit, wall_logit_offset


@torch.no_grad()
def average_segnets(
    sources: Sequence[Path], manifest: Path, out: Path, *, config: TrainConfig, messages: Messages
) -> None:
    """Average the SegNets of weights files, and write the average with the wall's volume of the training cases.

    Args:
        sources: The weights files, of one architecture.
        manifest: The cases; those with ``validation`` in the column ``split`` are not used.
        out: The weights file to write.
        config: Name, description of the data and terms for the model card, and the window in which cases are segmented.
        messages: Where to print.

    Raises:
        CheckpointError: A weights file cannot be read.
        ManifestError: Too few cases can be used.
    """
    checkpoints = [load_checkpoint(source) for source in sources]
    segnet = average_networks([checkpoint.segnet for checkpoint in checkpoints]).eval()
    pairs = load_reference_pairs(
        read_manifest(manifest).cases,
        config.validate_every,
        window=config.shape_motion.window,
        segnet=segnet,
        messages=messages,
    ).training
    offset = wall_logit_offset(pairs)
    shift_wall_logit(segnet, offset)
    messages.note(f"average of {len(sources)} networks; the logit of the wall is changed by {offset:+.3f}")
    last = checkpoints[-1].card
    card = replace(
        last,
        name=config.name,
        training_data=config.training_data,
        terms=config.terms,
        version=__version__,
        training={**last.training, "average": {"networks": len(sources), "wall_logit_offset": offset}},
        metrics={},
    )
    save_checkpoint(out, segnet=segnet, motion=None, card=card)
