"""What the tests of the command line share."""

from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file that infer takes, and that knows the hearts of tests/phantoms.py."""
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
