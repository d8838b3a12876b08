"""The commands models list, models info and models verify."""

import dataclasses
import json
from typing import Any

from cmnet_cli.console import Messages
from cmnet_cli.runs.provenance import sha256_of
from cmnet_core.models.checkpoint import find_weights, load_checkpoint, read_card, shipped_models


def list_models(messages: Messages, *, as_json: bool = False) -> None:
    """Print every model that is part of cmnet, as a table or as JSON."""
    if as_json:
        messages.data(json.dumps([{"name": name, **describe_model(name)} for name in shipped_models()], indent=2))
        return
    rows = [
        (name, f"{path.stat().st_size / 1e6:.1f} MB", read_card(path).training_data)
        for name, path in shipped_models().items()
    ]
    messages.table("Shipped models", ("name", "size", "trained on"), rows)


def describe_model(source: str) -> dict[str, Any]:
    """Return the model card of a weights file, with the path and digest of the file.

    Raises:
        CheckpointError: There is no such model, or its file is damaged.
    """
    path = find_weights(source)
    card = dataclasses.asdict(read_card(path))
    return {"file": str(path), "sha256": sha256_of(path), **card}


def show_model(source: str, messages: Messages, *, as_json: bool) -> None:
    """Print the model card of a weights file."""
    description = describe_model(source)
    if as_json:
        messages.result(json.dumps(description, indent=2))
        return
    for name in ("file", "sha256", "name", "version", "training_data", "terms", "spacing_mm", "window"):
        messages.result(f"{name:<22} {description[name]}")
    for name, value in sorted(description["metrics"].items()):
        messages.result(f"{name:<22} {value:.1f}")
    messages.result("Add --json for the sizes of the networks and the settings of the training.")


def verify_models(messages: Messages) -> None:
    """Load every shipped model and print its digest.

    Raises:
        CheckpointError: One of them cannot be loaded.
    """
    for name, path in shipped_models().items():
        checkpoint = load_checkpoint(path)
        messages.result(f"{name}: complete, sha256 {checkpoint.digest}")
