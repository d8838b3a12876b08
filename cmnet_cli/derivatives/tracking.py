"""What infer stores of a case, and how it is read back without a network."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_cli.runs.paths import CaseFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.composition import field_between
from cmnet_core.io.atomic import replacing
from cmnet_core.io.nifti import read_cine, write_image
from cmnet_core.models.build import MotionSizes
from cmnet_core.types import MotionField, Spacing

# A step of the stored motion, in voxels of the window: finer than any motion that the images can show.
_QUANTUM = 1 / 128


@dataclass(frozen=True, slots=True)
class TrackingFacts:
    """What later stages need to know of a tracked cine, as it stands in the sidecar.

    Attributes:
        frames: Frames in the cycle.
        frame_ms: Time between two frames, or None where nobody knows.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        cycle_consistency_error_mm: Mean displacement in the heart after one whole cycle.
        folded_voxels: Of every frame, voxels with det F <= 0 in the motion from ED.
        window: Where the network's window lies in the subject's stack.
        motion: Sizes of the motion network: how its velocities become motion.
        segnet_members: Number of networks of SegNet whose probabilities were averaged.
        refinement_iterations: Iterations of the refinement of each frame's velocity field; 0 without refinement.
        cycle_closed: Whether drift around the cycle was distributed over its frames.
        flags: Quality flags.
    """

    frames: int
    frame_ms: float | None
    ed: int
    es: int
    cycle_consistency_error_mm: float
    folded_voxels: tuple[int, ...]
    window: Window
    motion: MotionSizes
    segnet_members: int
    refinement_iterations: int
    cycle_closed: bool
    flags: tuple[str, ...]


def facts_to_json(facts: TrackingFacts) -> dict[str, Any]:
    """Facts as plain JSON."""
    return asdict(facts)


def facts_from_json(values: dict[str, Any]) -> TrackingFacts:
    """Facts from a sidecar."""
    sizes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values["motion"].items()
    }
    records = {
        "window": window_from_json(values["window"]),
        "motion": MotionSizes(**sizes),
        "folded_voxels": tuple(values["folded_voxels"]),
        "flags": tuple(values["flags"]),
    }
    return TrackingFacts(**(values | records))


def window_from_json(values: dict[str, Any]) -> Window:
    """A window from a sidecar."""
    depth, rows, columns = values["source_shape"]
    return Window(
        source_shape=(depth, rows, columns),
        source_spacing=Spacing(**values["source_spacing"]),
        spacing=Spacing(**values["spacing"]),
        origin_mm=(values["origin_mm"][0], values["origin_mm"][1]),
        size=(values["size"][0], values["size"][1]),
    )


def write_velocities(path: Path, velocities: Float[Tensor, "t 3 z y x"]) -> None:
    """Store the velocity of every step in 1/128 of a voxel, as differences in-plane, which compress well."""
    whole = torch.round(velocities.detach().cpu() / _QUANTUM).to(torch.int32).numpy()
    differences = np.diff(np.diff(whole, axis=-1, prepend=0), axis=-2, prepend=0)
    smallest = np.int8 if np.abs(differences).max(initial=0) < 128 else np.int32
    with replacing(path) as partial:
        np.savez_compressed(
            partial, in_plane_differences=differences.astype(smallest), quantum_voxels=np.float64(_QUANTUM)
        )


def read_velocities(path: Path) -> Float[Tensor, "t 3 z y x"]:
    """Read what :func:`write_velocities` stored, in voxels.

    Raises:
        ImageError: The file is missing or damaged.
    """
    with read_arrays(path) as stored:
        differences = stored["in_plane_differences"].astype(np.int32)
        whole = differences.cumsum(axis=-2, dtype=np.int32).cumsum(axis=-1, dtype=np.int32)
        return torch.from_numpy(whole.astype(np.float32)) * float(stored["quantum_voxels"])


@contextmanager
def read_arrays(path: Path) -> Iterator[Any]:
    """Arrays that infer stored, by name; what goes wrong while they are read is damage.

    Raises:
        ImageError: The file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            yield stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(
            f"The stored motion {path} cannot be read: {error}.",
            hint="Run cmnet infer again with --save-motion full; cmnet verify lists what is damaged.",
            code=ErrorCode.FILE_DAMAGED if path.exists() else ErrorCode.FILE_MISSING,
        ) from error


def write_entropy(
    path: Path, entropy: Float[Tensor, "t z y x"], *, affine: Float64[Tensor, "4 4"], frame_ms: float | None
) -> None:
    """Store an entropy in steps of 1/4 nat: voxels of equal value compress well, and means hardly change."""
    write_image(path, torch.round(entropy * 4) / 4, affine=affine, frame_ms=frame_ms)


@dataclass(frozen=True, slots=True, eq=False)
class StoredTracking:
    """What infer stored of one case, on the subject's own grid and in the order of the input.

    Attributes:
        facts: From the sidecar.
        segmented: SegNet's label maps.
        propagated: The ED label map carried by the motion.
        entropy: Of the motion's posterior, in nats.
        spacing: Voxel spacing.
        affine: As in :class:`CineSequence`.
        has_steps: Whether the motion of every step was kept.
    """

    facts: TrackingFacts
    segmented: UInt8[Tensor, "t z y x"]
    propagated: UInt8[Tensor, "t z y x"]
    entropy: Float[Tensor, "t z y x"]
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]
    has_steps: bool


def open_tracking(folder: CaseFolder) -> StoredTracking:
    """Read what infer stored of a case.

    Raises:
        CaseError: Infer has not been run for it, or a file is damaged.
    """
    facts = read_facts(folder)
    segmented = read_cine(folder.segnet_labels, frame_ms=None)
    propagated = read_cine(folder.propagated_labels, frame_ms=None)
    entropy = read_cine(folder.entropy, frame_ms=None)
    return StoredTracking(
        facts=facts,
        segmented=segmented.voxels.to(torch.uint8),
        propagated=propagated.voxels.to(torch.uint8),
        entropy=entropy.voxels,
        spacing=segmented.spacing,
        affine=segmented.affine,
        has_steps=folder.motion.exists(),
    )


def read_facts(folder: CaseFolder) -> TrackingFacts:
    """What the sidecar of infer says of a case.

    Raises:
        ImageError: There is none, or another version wrote it.
    """
    sidecar = read_sidecar(folder.sidecar("infer"))
    if sidecar is None:
        raise ImageError(
            f"Nothing is stored for {folder.case_id}: it has no sidecar of infer.",
            hint="Run cmnet infer for this subject first; cmnet infer --dry-run lists who is left.",
            code=ErrorCode.FILE_MISSING,
        )
    try:
        return facts_from_json(sidecar.facts)
    except (KeyError, TypeError) as error:
        raise ImageError(
            f"Another version of cmnet stored {folder.case_id}: its sidecar of infer has another layout.",
            hint="Run cmnet infer --force for this subject.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


def read_field(folder: CaseFolder, facts: TrackingFacts, *, moving: int, fixed: int) -> MotionField:
    """The motion between two frames on the grid of the window; see ``inference.composition.field_between``.

    Raises:
        ImageError: The motion was not stored, or is damaged.
    """
    velocities = read_velocities(folder.motion)
    where, sizes = facts.window.spacing, facts.motion
    return field_between(velocities, where, ed=facts.ed, sizes=sizes, moving=moving, fixed=fixed)
