"""Checkpoints: safetensors files with a model card in their header. No file is ever unpickled."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cmnet_core.errors import CheckpointError, ErrorCode, did_you_mean
from cmnet_core.io import atomic
from cmnet_core.models.build import (
    AnyMotionSizes,
    MotionNetwork,
    SegNetSizes,
    build_motion_network,
    build_segnet,
    motion_sizes_from_json,
)
from cmnet_core.models.segnet import SegNet

FORMAT_VERSION = 2
"""Version of the file format. Version 1, of cmnet 0.1.0, has the weights of an ensemble of three U-Nets."""

CARD_KEY = "cmnet"
_LARGEST_SIZE = 2048
WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The description of a model that is stored with its weights.

    Attributes:
        name: Short name of the model.
        segnet: Sizes of SegNet.
        motion: Sizes of the motion network, or None where only SegNet has been trained.
        spacing_mm: In-plane voxel spacing of the networks' input, in mm.
        window: In-plane size (y, x) of the networks' input, in voxels.
        training_data: Description of the training data.
        terms: Terms of use.
        version: Version of cmnet that wrote the file.
        training: Settings of each training stage.
        metrics: Metrics on the validation cases.
        format_version: Version of the file format.
    """

    name: str
    segnet: SegNetSizes
    motion: AnyMotionSizes | None
    spacing_mm: float
    window: tuple[int, int]
    training_data: str
    terms: str
    version: str
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Networks, their model card, and the SHA-256 digest of the file from which they were read."""

    segnet: SegNet
    motion: MotionNetwork | None
    card: ModelCard
    digest: str


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header atomically."""
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={CARD_KEY: json.dumps(header, sort_keys=True)},
    )
    atomic.write_bytes(path, content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the JSON header of a file that :func:`save_tensors` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or not one of cmnet's.
    """
    if not path.is_file():
        raise _unusable(path, "does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(CARD_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise _unusable(path, "is not a complete safetensors file") from error
    try:
        values = None if header is None else json.loads(header)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise _unusable(path, "was not written by cmnet")
    return tensors, values


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names begin with a prefix, and remove it from their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"The weights file {path} {why}.",
        hint=f"{did_you_mean(path.name, shipped_models())}Name a shipped model ('cmnet models list') or a file that "
        "'cmnet train' wrote.",
        code=ErrorCode.CHECKPOINT,
    )


def _of_another_version(path: Path, header: dict[str, Any], why: str) -> CheckpointError:
    written_by = header.get("version", "of unknown version")
    return CheckpointError(
        f"The weights file {path} was written by cmnet {written_by}: {why}.",
        hint="Name a shipped model ('cmnet models list'), train the weights again with 'cmnet train', or use the file "
        f"with cmnet {written_by}.",
        code=ErrorCode.CHECKPOINT,
    )


def save_checkpoint(path: Path, *, segnet: SegNet, motion: MotionNetwork | None, card: ModelCard) -> None:
    """Write the weights of the networks with their model card."""
    tensors = {f"segnet.{name}": tensor for name, tensor in segnet.state_dict().items()}
    if motion is not None:
        tensors |= {f"motion.{name}": tensor for name, tensor in motion.state_dict().items()}
    save_tensors(path, tensors, asdict(card))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read networks to the CPU, ready for inference.

    Raises:
        CheckpointError: The file is missing or damaged, or of another version of cmnet.
    """
    tensors, header = load_tensors(path)
    card = _read_card(path, header)
    _require_stored_sizes(path, header, card, tensors)
    segnet = build_segnet(card.segnet)
    motion = build_motion_network(card.motion) if card.motion else None
    segnet.load_state_dict(select_prefix(tensors, "segnet."))
    if motion is not None:
        motion.load_state_dict(select_prefix(tensors, "motion."))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(segnet.eval(), motion.eval() if motion is not None else None, card, digest)


def shipped_models() -> dict[str, Path]:
    """Return the weights files of the package by the names of their models."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}


def find_weights(source: str | Path) -> Path:
    """Return the weights file of a shipped model by its name, or the path that is given."""
    return shipped_models().get(str(source), Path(source))


def read_card(path: Path) -> ModelCard:
    """Read only the model card of a weights file.

    Raises:
        CheckpointError: The file is missing, damaged or not one of cmnet's.
    """
    return _read_card(path, load_tensors(path)[1])


def _read_card(path: Path, header: dict[str, Any]) -> ModelCard:
    if header.get("format_version") != FORMAT_VERSION:
        why = f"its networks have another architecture (format version {header.get('format_version')}"
        raise _of_another_version(path, header, f"{why}; this version of cmnet reads {FORMAT_VERSION})")
    unknown = set(header) - {entry.name for entry in fields(ModelCard)}
    if unknown:
        raise _unusable(path, f"has unknown entries on its model card: {sorted(unknown)}")
    metrics = header.get("metrics", {})
    if not isinstance(metrics, dict) or not all(isinstance(value, int | float) for value in metrics.values()):
        raise _unusable(path, "has metrics on its model card that are not numbers")
    _require_plausible(path, [header.get("segnet"), header.get("motion"), header.get("window")])
    try:
        header["segnet"] = SegNetSizes(**_tuples(header["segnet"]))
        header["motion"] = motion_sizes_from_json(header["motion"]) if header["motion"] else None
        return ModelCard(**_tuples(header))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _of_another_version(path, header, "its networks have sizes that this version does not know") from error


def _require_stored_sizes(path: Path, header: dict[str, Any], card: ModelCard, tensors: Mapping[str, Tensor]) -> None:
    """Compare the sizes on a card with the weights of the file, before memory is allocated for networks of these sizes.

    Raises:
        CheckpointError: No networks have such sizes, or they do not fit the weights.
    """
    expected: dict[str, tuple[int, ...]] = {}
    try:
        with torch.device("meta"), _WithoutRandomWeights():
            networks: dict[str, torch.nn.Module] = {"segnet": build_segnet(card.segnet)}
            if card.motion is not None:
                networks["motion"] = build_motion_network(card.motion)
        for prefix, network in networks.items():
            expected |= {f"{prefix}.{name}": tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _of_another_version(path, header, "its networks have sizes that this version does not know") from error
    if {
        name: tuple(tensor.shape) for name, tensor in tensors.items() if name.partition(".")[0] in networks
    } != expected:
        raise _of_another_version(path, header, "its weights do not fit the networks of this version")


class _WithoutRandomWeights(TorchFunctionMode):
    """Build networks without drawing their weights.

    On the device ``meta`` there is nothing to draw, but PyTorch imports SymPy for it: two seconds and 74 MB.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor of ``normal_`` as it is, and call any other function."""
        given = kwargs or {}
        if getattr(func, "__name__", "") == "normal_":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def _require_plausible(path: Path, value: object) -> None:
    """Refuse sizes that would take hours to build: every number on a card is a count, a width or a length in mm."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _require_plausible(path, item)
    elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST_SIZE:
        raise _unusable(path, "has sizes on its model card that no networks can have")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the lists of JSON to tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
