"""Correct: edited label maps of some frames are taken as given, and all that depends on them is computed again.

The difference between edited and automatic label maps is propagated to the other frames by the automatic motion
(:mod:`cmnet_core.inference.correction`); the motion network then estimates the motion from the corrected label maps.
"""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import InferConfig, digest_settings
from cmnet_cli.derivatives.correction import describe_edits
from cmnet_cli.derivatives.tracking import (
    StoredTracking,
    TrackingFacts,
    advise_repair,
    open_tracking,
    read_velocities,
    write_entropy,
    write_velocities,
)
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.runs.paths import CaseFolder, CorrectionFolder, RunFolder
from cmnet_cli.runs.provenance import (
    Expected,
    Sidecar,
    State,
    record_inputs,
    record_outputs,
    remove_leftovers,
    stage_state,
    write_sidecar,
)
from cmnet_cli.stages.infer import facts_of, track_case
from cmnet_cli.stages.read_images import load_checked_cine
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode, ImageError, LabelError
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.inference.composition import field_between
from cmnet_core.inference.correction import propagate_correction
from cmnet_core.inference.tracking import Model, Tracking, load_model, track
from cmnet_core.io.nifti import inspect, read_label_map, read_own, write_labels, write_motion
from cmnet_core.io.nifti_file import Header
from cmnet_core.labels import Label
from cmnet_core.types import CineSequence, LabelSequence, MotionField

NAME = "correct"
FORMAT = 1
"""Raised whenever the propagation of corrections changes: those of another version are computed again."""

Map = UInt8[Tensor, "z y x"]


@dataclass(frozen=True, slots=True)
class Edits:
    """The label maps that a user gives for one case.

    Attributes:
        changed: Label maps that differ from the stored ones, by frame.
        unchanged: Frames whose label map equals a stored one.
    """

    changed: Mapping[int, Map]
    unchanged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Corrected:
    """What became of the masks of a case.

    Attributes:
        case_id: The id of the case.
        edited: All frames with an edited mask, those of earlier corrections included.
        unchanged: Frames whose given mask equals a stored one.
        computed: Whether anything had to be computed.
    """

    case_id: str
    edited: tuple[int, ...]
    unchanged: tuple[int, ...]
    computed: bool


@dataclass(frozen=True, slots=True)
class CorrectStage:
    """Apply edited masks to the cases of a run.

    Attributes:
        root: The run folder.
        config: Settings of infer, whose weights are used.
        device: Name of the device of the networks.
        model_digest: Digest of the weights.
        masks: Files of edited masks by frame, by case id. A case without any has its stored edited masks applied.
    """

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    masks: Mapping[str, Mapping[int, Path]]
    name: str = NAME

    def open(self) -> Callable[[Case], Corrected]:
        """Return the function that corrects a case; the networks are loaded when the first one needs them."""
        run = RunFolder(self.root)
        loaded: list[Model] = []

        def model() -> Model:
            if not loaded:
                loaded.append(self._load())
            return loaded[0]

        def corrected(case: Case) -> Corrected:
            with advise_repair(run):
                return correct_case(case, run.case(case.case_id), self.masks.get(case.case_id, {}), self, model)

        return corrected

    def _load(self) -> Model:
        model = load_model(self.config.model, torch.device(resolve_device(self.device)))
        if model.digest != self.model_digest:
            raise CheckpointError(
                f"The weights {self.config.model} on {platform.node()} are not those with which this command started.",
                hint="Use the same file on every machine.",
                code=ErrorCode.CHECKPOINT,
            )
        return model

    def expected(self, case: Case) -> Expected:
        """Return the inputs and digests that the sidecar of a correction must have."""
        folder = RunFolder(self.root).case(case.case_id)
        inputs = (folder.segnet_labels, folder.motion, *folder.correction.edited_labels.values())
        return Expected(inputs, digest_settings(FORMAT), self.model_digest)


def correct_case(
    case: Case, folder: CaseFolder, masks: Mapping[int, Path], stage: CorrectStage, model: Callable[[], Model]
) -> Corrected:
    """Store the edited masks of a case, and compute its results again.

    Args:
        case: The case.
        folder: The folder of the case.
        masks: Files of edited masks, by frame.
        stage: The stage.
        model: Returns the networks.

    Raises:
        CaseError: A mask or the image cannot be used, or infer has not stored the motion of every frame.
    """
    automatic, correction = open_tracking(folder), folder.correction
    edits = read_edits(masks, folder, automatic.facts)
    for frame, labels in edits.changed.items():
        _store_edited(correction.edited(frame), masks[frame], labels, automatic, frame)
    edited = correction.edited_labels
    state, _ = stage_state(correction.tracking_sidecar, stage.expected(case))
    if not edited or state == State.DONE:
        return Corrected(case.case_id, tuple(edited), edits.unchanged, computed=False)
    if not automatic.has_steps:
        raise ImageError(
            f"The motion of {case.case_id}, by which a correction is propagated, was not stored.",
            hint="Run cmnet infer again with --save-motion full.",
            code=ErrorCode.FILE_MISSING,
        )
    expected = stage.expected(case)
    inputs = record_inputs(expected.inputs)
    facts = automatic.facts
    cine = replace(load_checked_cine(case), ed=facts.ed, es=facts.es)
    header = inspect(folder.segnet_labels)
    given = {frame: read_label_map(path, image=header) for frame, path in edited.items()}
    corrected = propagate_correction(automatic.segmented, given, _fields(folder, automatic), automatic.spacing)
    tracking = track_case(case, cine, partial(track, model(), corrected=corrected))
    # Without its sidecar, the automatic results count until all files are written.
    correction.tracking_sidecar.unlink(missing_ok=True)
    remove_leftovers(correction.folder)
    outputs = [*edited.values(), *_store(correction, tracking, cine)]
    sidecar = Sidecar(
        stage=NAME,
        case_id=case.case_id,
        version=__version__,
        settings_digest=expected.settings_digest,
        model_digest=stage.model_digest,
        inputs=inputs,
        outputs=record_outputs(outputs),
        facts=asdict(facts_of(tracking, stage.config.method)) | {"correction": asdict(describe_edits(edited))},
    )
    write_sidecar(correction.tracking_sidecar, sidecar)
    return Corrected(case.case_id, tuple(edited), edits.unchanged, computed=True)


def read_edits(masks: Mapping[int, Path], folder: CaseFolder, facts: TrackingFacts) -> Edits:
    """Read the masks that a user gives for a case, and compare them with the stored label maps.

    Args:
        masks: Files by frame.
        folder: The folder of the case.
        facts: What infer recorded of it.

    Raises:
        CaseError: A mask cannot be used; the message names the file.
    """
    if not masks:
        return Edits({}, ())
    header = inspect(folder.segnet_labels)
    known = [torch.from_numpy(read_own(path)[0]) for path in {folder.segnet_labels, folder.current.segnet_labels}]
    changed: dict[int, Map] = {}
    unchanged: list[int] = []
    for frame, path in sorted(masks.items()):
        if frame >= facts.frames:
            raise LabelError(
                f"{path}: there is no frame {frame}; the cine has frames 0 to {facts.frames - 1}.",
                hint="Name the file after the frame that the mask was drawn on, as cmnet export-masks does.",
                code=ErrorCode.CORRECTION,
            )
        labels = _read_mask(path, header)
        if any(bool((maps[frame] == labels).all()) for maps in known):
            unchanged.append(frame)
            continue
        _require_structures(path, labels, (Label.LV, Label.MYO) if frame == facts.ed else (Label.LV,))
        changed[frame] = labels
    return Edits(changed, tuple(unchanged))


def _read_mask(path: Path, header: Header) -> Map:
    try:
        return read_label_map(path, image=header)
    except LabelError as error:
        if error.code != ErrorCode.LABEL_VALUES or "nearest" in error.hint:
            raise
        hint = "Draw with the labels of cmnet export-masks: 0 background, 1 LV, 2 myocardium, 3 RV."
        raise LabelError(error.message, hint=hint, code=error.code) from error


def _require_structures(path: Path, labels: Map, needed: tuple[Label, ...]) -> None:
    if not bool(labels.any()):
        raise LabelError(
            f"{path}: the mask is empty.",
            hint="Delete the file to leave this frame as it is, or save the mask with its labels.",
            code=ErrorCode.LABEL_VALUES,
        )
    missing = [label.name for label in needed if not bool((labels == label).any())]
    if missing:
        raise LabelError(
            f"{path}: the mask has no {' and no '.join(missing)}.",
            hint="Draw the left ventricle in every edited frame, at ED with its myocardium.",
            code=ErrorCode.LABEL_CLASS,
        )


def _store_edited(target: Path, source: Path, labels: Map, automatic: StoredTracking, frame: int) -> None:
    """Store an edited mask, with the time at which it was edited."""
    write_labels(target, LabelSequence(labels[None], (frame,), automatic.spacing, automatic.affine), frame_ms=None)
    edited_ns = source.stat().st_mtime_ns
    os.utime(target, ns=(edited_ns, edited_ns))


def _fields(folder: CaseFolder, automatic: StoredTracking) -> Callable[[int, int], MotionField]:
    """Return the automatic motion between two frames on the subject's own grid, as a function of moving and fixed."""
    facts, velocities = automatic.facts, read_velocities(folder.motion)

    def field(moving: int, fixed: int) -> MotionField:
        spacing, sizes = facts.window.spacing, facts.motion
        between = field_between(velocities, spacing, ed=facts.ed, sizes=sizes, moving=moving, fixed=fixed)
        return restore_motion(between, facts.window)

    return field


def _store(folder: CorrectionFolder, tracking: Tracking, cine: CineSequence) -> list[Path]:
    """Write the corrected results but the posterior: intervals are calibrated for automatic results alone."""
    write_labels(folder.segnet_labels, tracking.segmentation, frame_ms=cine.frame_ms)
    write_labels(folder.propagated_labels, tracking.propagated, frame_ms=cine.frame_ms)
    assert tracking.entropy is not None, "the networks have a posterior"
    write_entropy(folder.entropy, tracking.entropy, affine=cine.affine, frame_ms=cine.frame_ms)
    write_motion(folder.ed2es_motion, tracking.ed_to_es, affine=cine.affine)
    write_velocities(folder.motion, tracking.velocities)
    return [folder.segnet_labels, folder.propagated_labels, folder.entropy, folder.ed2es_motion, folder.motion]
