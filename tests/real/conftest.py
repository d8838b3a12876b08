"""Where the real hearts are: the only place that knows. Tests that need them are skipped where they are not."""

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with ``acdc`` and ``sunnybrook``: CMNET_REAL_DATA, or ``shared/data`` beside the repository."""
    folder = Path(os.environ.get("CMNET_REAL_DATA") or _REPOSITORY.parent / "shared" / "data")
    if not (folder / "acdc").is_dir() or not (folder / "sunnybrook").is_dir():
        pytest.skip(f"no real hearts: expected acdc and sunnybrook in {folder}; CMNET_REAL_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def acdc(real_data: Path) -> Path:
    """ACDC's training set."""
    return real_data / "acdc"


@pytest.fixture(scope="session")
def sunnybrook(real_data: Path) -> Path:
    """Zips of DICOMs, and of the contours drawn on them."""
    return real_data / "sunnybrook"
