"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights file for infer whose networks are trained on the subjects of tests/phantoms.py."""
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
