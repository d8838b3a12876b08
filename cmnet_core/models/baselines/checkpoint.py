"""Weights of the learned methods: safetensors files in half precision with a card in their header."""

import hashlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.models.baselines.build import BASELINES, build_baseline
from cmnet_core.models.baselines.interface import Baseline
from cmnet_core.models.checkpoint import WEIGHTS, load_tensors, save_tensors

BASELINE_WEIGHTS = WEIGHTS / "baselines"
FORMAT_VERSION = 1
"""Version of the file format."""


@dataclass(frozen=True, slots=True)
class BaselineCard:
    """The description of a learned method that is stored with its weights.

    Attributes:
        method: Name of the method.
        spacing_mm: In-plane voxel spacing of the images that it was trained on, in mm.
        window: In-plane size (y, x) of these images, in voxels.
        training_data: Description of the training data.
        terms: Terms of use.
        version: Version of cmnet that wrote the file.
        training: Settings of the training.
        metrics: Metrics on the validation cases.
        format_version: Version of the file format.
    """

    method: str
    spacing_mm: float
    window: tuple[int, int]
    training_data: str
    terms: str
    version: str
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def baseline_weights(name: str) -> Path:
    """Return where the package has the weights of a method; the file may not exist."""
    return BASELINE_WEIGHTS / f"{name}.safetensors"


def save_baseline(path: Path, network: Baseline, card: BaselineCard) -> None:
    """Write the weights of a method in half precision, with its card."""
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }
    save_tensors(path, tensors, asdict(card))


def load_baseline(name: str, path: Path) -> tuple[Baseline, BaselineCard]:
    """Read a method to the CPU, ready for inference.

    Args:
        name: A key of :data:`~cmnet_core.models.baselines.build.BASELINES`.
        path: The weights file.

    Raises:
        CheckpointError: The file is missing or damaged, or of another method or version.
    """
    if not path.is_file():
        raise missing_weights(name, path)
    tensors, header = load_tensors(path)
    known = {entry.name for entry in fields(BaselineCard)}
    if header.get("method") not in BASELINES or header.get("format_version") != FORMAT_VERSION or set(header) != known:
        raise _unusable(path, "does not have the weights of a method that cmnet is compared with")
    if header["method"] != name:
        raise _unusable(path, f"has the weights of the method '{header['method']}', not those of '{name}'")
    network = build_baseline(name)
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    if {key: tensor.shape for key, tensor in tensors.items()} != expected:
        raise _unusable(path, "has weights that do not fit the network of this version")
    whole = {key: tensor.float() if tensor.dtype == torch.float16 else tensor for key, tensor in tensors.items()}
    network.load_state_dict(whole)
    return network.eval(), BaselineCard(**{**header, "window": tuple(header["window"])})


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a weights file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def missing_weights(name: str, path: Path) -> CheckpointError:
    """Return the error of a method whose weights are not there."""
    return CheckpointError(
        f"The weights of the method '{name}' are missing: {path} does not exist.",
        hint=f"Train them with 'cmnet train --method {name} --manifest FILE --out RUN' and copy "
        f"RUN/weights/{name}.safetensors there, or leave the method out.",
        code=ErrorCode.CHECKPOINT,
    )


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The weights file {path} {why}.",
        hint="Restore the file, or train it again with 'cmnet train --method NAME'.",
        code=ErrorCode.CHECKPOINT,
    )
