"""The tracking of a case on disk: written by infer, and read without a network.

``cmnet infer`` stores for each case, in its folder of the run:

- ``desc-segnet_dseg.nii.gz``: the label maps of SegNet for all frames, on the subject's own grid;
- ``desc-propagated_dseg.nii.gz``: the ED label map, propagated to all frames by the motion, on the same grid;
- ``desc-motion_entropy.nii.gz`` (if the method has a posterior): the entropy of the motion's posterior for all frames,
  in nats, on the same grid;
- ``desc-ed2es_motion.nii.gz`` (not with ``--save-motion none``): the displacement field fixed at ES and moving at ED;
- ``motion.npz`` and ``posterior.npz`` (with ``--save-motion full``): the stationary velocity field of every frame, on
  the grid of the network, and the posterior from which intervals are sampled
  (:mod:`cmnet_cli.derivatives.posterior`);
- ``desc-infer.json``: the sidecar, with :class:`TrackingFacts` and the digests of all inputs and outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_cli.derivatives.arrays import open_arrays
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_core.errors import CaseError, ErrorCode, ImageError
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.composition import Integration, StoredDisplacements, field_between
from cmnet_core.io.atomic import replacing
from cmnet_core.io.nifti import inspect, read_own, write_image
from cmnet_core.models.build import motion_sizes_from_json
from cmnet_core.types import MotionField, Spacing

# Quantisation step of the stored velocities, in voxels of the network: far below the error of the motion.
_QUANTUM = 1 / 128

DEFAULT_METHOD, SEGNET = "cardiomorphnet", "segnet"
"""Names of cmnet's own method and of its segmentation network in sidecars and tables."""

RUN_AGAIN = "Run cmnet infer again with --save-motion full; cmnet verify lists damaged files."


@dataclass(frozen=True, slots=True)
class TrackingFacts:
    """The facts about a tracked cine that later stages need; they are stored in the sidecar of infer.

    Attributes:
        frames: Number of frames of the cycle.
        frame_ms: Time between two frames in ms, or None where it is unknown.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
        cycle_consistency_error_mm: Mean displacement in the heart after one whole cycle, in mm; None for a method that
            registers every frame with ED.
        folded_voxels: For every frame, the number of voxels with det F <= 0 in its displacement field from ED.
        window: Position of the network's window in the subject's stack.
        motion: Sizes of the motion network, which determine how velocity fields are integrated, or
            ``StoredDisplacements`` for a method without velocities.
        flags: Quality flags.
        method: Name of the method that estimated the motion.
        masks: What segmented the frames: ``segnet``, or the name of the method if it has done so itself.
        has_entropy: Whether the method has a posterior of the motion, the entropy of which is stored.
    """

    frames: int
    frame_ms: float | None
    ed: int
    es: int
    cycle_consistency_error_mm: float | None
    folded_voxels: tuple[int, ...]
    window: Window
    motion: Integration
    flags: tuple[str, ...]
    method: str = DEFAULT_METHOD
    masks: str = SEGNET
    has_entropy: bool = True


def facts_from_json(values: dict[str, Any]) -> TrackingFacts:
    """Return the facts of a sidecar; ``dataclasses.asdict`` is the inverse."""
    records = {
        "window": window_from_json(values["window"]),
        "motion": _integration_from_json(values["motion"]),
        "folded_voxels": tuple(values["folded_voxels"]),
        "flags": tuple(values["flags"]),
    }
    return TrackingFacts(**(values | records))


def _integration_from_json(values: dict[str, Any]) -> Integration:
    if values.get("kind") == StoredDisplacements().kind:
        return StoredDisplacements()
    return motion_sizes_from_json(values)


def window_from_json(values: dict[str, Any]) -> Window:
    """Return the window of a sidecar; ``dataclasses.asdict`` is the inverse."""
    depth, rows, columns = values["source_shape"]
    return Window(
        source_shape=(depth, rows, columns),
        source_spacing=Spacing(**values["source_spacing"]),
        spacing=Spacing(**values["spacing"]),
        origin_mm=(values["origin_mm"][0], values["origin_mm"][1]),
        size=(values["size"][0], values["size"][1]),
    )


def write_velocities(path: Path, velocities: Float[Tensor, "t 3 z y x"]) -> None:
    """Store velocity fields in steps of 1/128 voxel, as in-plane differences, which compress well."""
    whole = torch.round(velocities.detach().cpu() / _QUANTUM).to(torch.int32).numpy()
    differences = np.diff(np.diff(whole, axis=-1, prepend=0), axis=-2, prepend=0)
    smallest = np.int8 if np.abs(differences).max(initial=0) < 128 else np.int32
    with replacing(path) as partial:
        np.savez_compressed(
            partial, in_plane_differences=differences.astype(smallest), quantum_voxels=np.float64(_QUANTUM)
        )


def read_velocities(path: Path) -> Float[Tensor, "t 3 z y x"]:
    """Read the velocity fields that :func:`write_velocities` stored, in voxels of the network.

    Raises:
        ImageError: The file is missing or damaged.
    """
    with open_arrays(path, content="stored motion", hint=RUN_AGAIN) as stored:
        differences = stored["in_plane_differences"].astype(np.int32)
        whole = differences.cumsum(axis=-2, dtype=np.int32).cumsum(axis=-1, dtype=np.int32)
        return torch.from_numpy(whole.astype(np.float32)) * float(stored["quantum_voxels"])


def write_entropy(
    path: Path, entropy: Float[Tensor, "t z y x"], *, affine: Float64[Tensor, "4 4"], frame_ms: float | None
) -> None:
    """Store entropies in steps of 1/4 nat: equal values compress well, and means change little."""
    write_image(path, (entropy * 4).round_().div_(4), affine=affine, frame_ms=frame_ms)


@dataclass(frozen=True, slots=True, eq=False)
class StoredTracking:
    """The stored tracking of one case, on the subject's own grid and in the order of the input frames.

    Attributes:
        facts: The facts of the sidecar.
        segmented: Label maps of SegNet.
        propagated: The ED label map, propagated by the motion.
        entropy: Entropy of the motion's posterior in nats; None for a method without a posterior.
        spacing: Voxel spacing.
        affine: As in :class:`CineSequence`.
        has_steps: Whether the motion of every frame was stored.
    """

    facts: TrackingFacts
    segmented: UInt8[Tensor, "t z y x"]
    propagated: UInt8[Tensor, "t z y x"]
    entropy: Float[Tensor, "t z y x"] | None
    spacing: Spacing
    affine: Float64[Tensor, "4 4"]
    has_steps: bool


def open_tracking(folder: CaseFolder) -> StoredTracking:
    """Read the stored tracking of a case.

    Raises:
        CaseError: Infer has not been run for the case, or a file is damaged.
    """
    facts = read_facts(folder)
    header = inspect(folder.segnet_labels)
    segmented, propagated = (
        torch.from_numpy(read_own(path)[0]) for path in (folder.segnet_labels, folder.propagated_labels)
    )
    entropy = torch.from_numpy(read_own(folder.entropy)[0]) if facts.has_entropy else None
    return StoredTracking(
        facts=facts,
        segmented=segmented,
        propagated=propagated,
        entropy=entropy,
        spacing=header.spacing,
        affine=header.affine,
        has_steps=folder.motion.exists(),
    )


@contextmanager
def advise_repair(run: RunFolder) -> Iterator[None]:
    """Name the remedy for a damaged file of a run: unlike an image, it cannot be copied again from its source."""
    try:
        yield
    except CaseError as error:
        if error.code != ErrorCode.FILE_DAMAGED or str(run.root / "subjects") not in error.message:
            raise
        hint = f"cmnet wrote this file: cmnet verify --repair --run {run.root} makes it again."
        raise type(error)(error.message, hint=hint, code=error.code) from error


def read_facts(folder: CaseFolder) -> TrackingFacts:
    """Read the facts of a case from its sidecar of infer.

    Raises:
        ImageError: There is no sidecar, or another version of cmnet wrote it.
    """
    sidecar = read_sidecar(folder.tracking_sidecar)
    if sidecar is None:
        raise ImageError(
            f"Nothing is stored for {folder.case_id}: it has no sidecar of infer.",
            hint="Run cmnet infer for this subject first; cmnet infer --dry-run lists the pending subjects.",
            code=ErrorCode.FILE_MISSING,
        )
    try:
        return facts_from_json({name: value for name, value in sidecar.facts.items() if name != "correction"})
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ImageError(
            f"Another version of cmnet stored {folder.case_id}: its sidecar of infer has another format.",
            hint="Run cmnet infer --force for this subject.",
            code=ErrorCode.FILE_DAMAGED,
        ) from error


def read_field(folder: CaseFolder, facts: TrackingFacts, *, moving: int, fixed: int) -> MotionField:
    """Read the displacement field between two frames, on the grid of the network's window.

    The velocity fields are integrated and composed by :func:`cmnet_core.inference.composition.field_between`.

    Raises:
        ImageError: The motion was not stored, or is damaged.
    """
    velocities = read_velocities(folder.motion)
    return field_between(velocities, facts.window.spacing, ed=facts.ed, sizes=facts.motion, moving=moving, fixed=fixed)
