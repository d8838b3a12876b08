"""Checkpoints: weights are read back with their model card, and unusable files are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmnet_core.errors import CheckpointError
from cmnet_core.inference.tracking import (
    load_model,
)
from cmnet_core.models.build import SegNetSizes, build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.checkpoint import (
    ModelCard,
    load_checkpoint,
    load_tensors,
    read_card,
    save_checkpoint,
    save_tensors,
)

SIZES = MotionSizes(features=(4, 8, 8, 8), hidden=(8, 8), decoder=(8, 8, 8, 4), deform=(4, 8, 8, 8, 8))


def saved(path: Path, *, with_motion: bool) -> Path:
    card = ModelCard("test", SegNetSizes((4, 8, 8, 8)), SIZES if with_motion else None, 1.5, (64, 64), "-", "-", "0")
    motion = build_motion(SIZES) if with_motion else None
    save_checkpoint(path, segnet=build_segnet(card.segnet), motion=motion, card=card)
    return path


def test_weights_are_read_back_with_their_model_card(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", with_motion=True)
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.card == read_card(path)
    assert loaded.card.motion == SIZES
    assert len(loaded.digest) == 64


def test_unusable_weights_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "model.safetensors", with_motion=True)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a complete"):
        load_checkpoint(cut)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model("no-such-model", torch.device("cpu"))
    with pytest.raises(CheckpointError, match="SegNet only"):
        load_model(saved(tmp_path / "half.safetensors", with_motion=False), torch.device("cpu"))
    tensors, card = load_tensors(whole)
    save_tensors(tmp_path / "more.safetensors", tensors | {"motion.more": torch.zeros(1)}, card)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_checkpoint(tmp_path / "more.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"widths": [10**9, 8]},
        {"widths": [1024, 1024]},
        {"widths": []},
        {"widths": "abc"},
        {"widths": None},
        {"members": 10**12},
        {"members": -1},
        {"widths": [float("nan"), 8]},
    ],
)
def test_tampered_sizes_are_refused_before_memory_is_allocated(tmp_path: Path, change: dict[str, object]) -> None:
    tensors, card = load_tensors(saved(tmp_path / "model.safetensors", with_motion=False))
    card["segnet"] |= change
    save_tensors(tmp_path / "other.safetensors", tensors, card)
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "other.safetensors")


def test_weights_of_another_version_are_refused_with_that_version_and_the_remedy(tmp_path: Path) -> None:
    tensors, card = load_tensors(saved(tmp_path / "model.safetensors", with_motion=True))
    assert card["format_version"] == 2
    headers = {
        "format version 1; this version of cmnet reads 2": {"format_version": 1},
        "sizes that this version does not know": {"segnet": {"members": 3, "widths": [16, 32, 64, 96, 128]}},
        "do not fit the networks": {"motion": card["motion"] | {"latent": 2}},
        "do not (fit|know)|does not know": {"segnet": card["segnet"] | {"widths": [4, 8, 8]}},
    }
    for message, changes in headers.items():
        path = tmp_path / "other.safetensors"
        save_tensors(path, tensors, card | {"version": "0.1.0"} | changes)
        with pytest.raises(CheckpointError, match=message) as refused:
            load_checkpoint(path)
        assert "was written by cmnet 0.1.0" in refused.value.message
        assert "train the weights again" in refused.value.hint


def test_loading_the_shipped_weights_does_not_import_sympy() -> None:
    code = (
        "import sys; from cmnet_core.models.checkpoint import find_weights, load_checkpoint; "
        "load_checkpoint(find_weights('default')); print('sympy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"
