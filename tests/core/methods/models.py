"""A tiny model of cmnet for the tests of methods."""

import functools
import tempfile
from pathlib import Path

import torch

from cmnet_core.inference.tracking import Model, load_model
from tests.tiny_model import write_tiny_model


@functools.cache
def tiny() -> Model:
    """Return a model whose SegNet segments the circles of tests/phantoms.py by their brightness."""
    with tempfile.TemporaryDirectory() as folder:
        return load_model(write_tiny_model(Path(folder) / "tiny.safetensors"), torch.device("cpu"))
