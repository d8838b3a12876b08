"""Benchmark: the motion between ED and ES of a case by one method, in both directions, with its cost.

The motion is stored on the grid of the networks' window, so that it can be evaluated again without being estimated
again. Every method is given the same window of the same normalised images.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import digest_settings
from cmnet_cli.derivatives.tracking import read_velocities, window_from_json, write_velocities
from cmnet_cli.engines.devices import resolve_device
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import (
    Expected,
    Sidecar,
    read_sidecar,
    record_inputs,
    record_outputs,
    remove_leftovers,
    write_sidecar,
)
from cmnet_cli.stages.benchmark.cost import measured
from cmnet_cli.stages.benchmark.known_motion import read_truth
from cmnet_cli.stages.benchmark.volume_curves import curve_frames, propagated_volumes
from cmnet_cli.stages.read_images import labelled_phases, load_checked_cine, load_reference_masks, naming
from cmnet_core import __version__
from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.imaging import preprocess
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.segmentation import find_window
from cmnet_core.inference.tracking import Model, load_model
from cmnet_core.io.orientation import standard_orientation
from cmnet_core.methods.interface import FramePair, Method
from cmnet_core.methods.registry import method_digest, open_method
from cmnet_core.registration.displacement import from_voxels, to_voxels
from cmnet_core.types import CineSequence, MotionField

TRUTH = "truth"
"""The method that returns the true motion of a simulated cine: no method can be better than it."""


@dataclass(frozen=True, slots=True)
class BenchmarkedMotion:
    """The stored motion of a case by one method.

    Attributes:
        window: Position of the window in the subject's stack.
        to_es: The field fixed at ES and moving at ED, by which the ED mask is propagated to ES.
        to_ed: The field fixed at ED and moving at ES.
        cpu_s: CPU seconds of one frame pair.
        peak_mb: Largest additional memory in MB; None if it is unknown.
        lv_ml: LV volume of the propagated ED mask by frame, in mL; empty for all cases but one.
    """

    window: Window
    to_es: MotionField
    to_ed: MotionField
    cpu_s: float
    peak_mb: float | None
    lv_ml: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchmarkStage:
    """Estimate the motion between ED and ES of every case by one method.

    Attributes:
        root: The run folder.
        method: Name of the method.
        model: Networks of cmnet.
        device: Device of the networks.
        digest: Digest of the method and of the networks.
        example: The case of which the ED mask is propagated over the cycle.
    """

    root: Path
    method: str
    model: str
    device: str
    digest: str
    example: str = ""

    @property
    def name(self) -> str:
        """The stage's name in logs and sidecars."""
        return stage_name(self.method)

    def open(self) -> Callable[[Case], str]:
        """Load the networks and the method, and return the function of a case."""
        model = load_model(self.model, torch.device(resolve_device(self.device)))
        if benchmark_digest(self.method, model.digest) != self.digest:
            raise CheckpointError(
                f"The weights {self.model} or the packages on {platform.node()} are not those of this command.",
                hint="Use the same weights and packages on every machine.",
                code=ErrorCode.CHECKPOINT,
            )
        method, run = None if self.method == TRUTH else open_method(self.method, model), RunFolder(self.root)
        return lambda case: benchmark_case(case, run.case(case.case_id), self, model, method)

    def expected(self, case: Case) -> Expected:
        """Return the inputs and digests that the sidecar of a case must have."""
        return Expected(case.image, _settings_digest(case), self.digest)


def stage_name(method: str) -> str:
    """Return the name of the stage of a method."""
    return f"benchmark-{method}"


def benchmark_digest(method: str, model_digest: str) -> str:
    """Return the digest of a method and of the networks that locate the heart.

    Raises:
        ManifestError: There is no such method, or its package is not installed.
    """
    return digest_settings(TRUTH, model_digest) if method == TRUTH else method_digest(method, model_digest)


def benchmark_case(case: Case, folder: CaseFolder, stage: BenchmarkStage, model: Model, method: Method | None) -> str:
    """Estimate the motion of one case in both directions, and store it.

    Args:
        case: The case, with reference masks of ED and ES.
        folder: Its folder.
        stage: The stage.
        model: Networks of cmnet, which locate the heart.
        method: The method, or None for the true motion.

    Raises:
        CaseError: The image or a mask cannot be used, no heart is found, or its true motion is not known.
    """
    inputs = record_inputs(case.image)
    cine = load_checked_cine(case)
    labels = load_reference_masks(case, cine, purpose="A benchmark")
    ed, es = labelled_phases(case, labels)
    orientation = standard_orientation(cine.affine, cine.flags)
    with naming(case.image[0]):
        windowed, oriented_window = locate_heart(orientation.orient_cine(replace(cine, ed=ed, es=es)), model)
    window = preprocess.oriented_back(oriented_window, orientation)
    pairs = [FramePair(fixed=es, moving=ed), FramePair(fixed=ed, moving=es)]
    others = curve_frames(cine.frames, ed=ed, es=es) if method and case.case_id == stage.example else []
    pairs += [FramePair(fixed=frame, moving=ed) for frame in others]
    with measured() as cost:
        estimate = method.estimate(windowed, pairs) if method else None
    if estimate is None:
        motion = torch.cat([to_voxels(one) for one in read_truth(case, window, ed=ed, es=es)])
    else:
        motion = orientation.restore_vectors(torch.cat([to_voxels(estimate.fields[pair]) for pair in pairs]), 1)
    into_ed = {pair.fixed: motion[number] for number, pair in enumerate(pairs) if pair.moving == ed}
    folder.sidecar(stage.name).unlink(missing_ok=True)
    remove_leftovers(folder.folder)
    path = folder.benchmark_motion(stage.method)
    write_velocities(path, motion[:2])
    facts = {
        "ed": ed,
        "es": es,
        "window": asdict(window),
        "cpu_s": cost.cpu_s / ((estimate.computed if estimate else None) or len(pairs)),
        "peak_mb": cost.peak_mb,
        "lv_ml": propagated_volumes(labels.at(ed), into_ed, window, ed=ed) if others else {},
    }
    sidecar = Sidecar(
        stage=stage.name,
        case_id=case.case_id,
        version=__version__,
        settings_digest=_settings_digest(case),
        model_digest=stage.digest,
        inputs=inputs,
        outputs=record_outputs([path]),
        facts=facts,
    )
    write_sidecar(folder.sidecar(stage.name), sidecar)
    return case.case_id


def locate_heart(cine: CineSequence, model: Model) -> tuple[CineSequence, Window]:
    """Cut the window around the heart out of a cine, with normalised intensities, as ``cmnet infer`` does.

    Args:
        cine: A cine in the standard orientation.
        model: Networks of cmnet.

    Raises:
        ImageError: The images have no contrast, or show no heart.
    """
    normalised = replace(cine, voxels=preprocess.normalise(cine.voxels))
    window = find_window(model.segnet, normalised, spacing_mm=model.card.spacing_mm, size=model.card.window)
    voxels = preprocess.extract(normalised.voxels, window)
    affine = preprocess.window_affine(cine.affine, window)
    return CineSequence(voxels, window.spacing, affine, cine.frame_ms, cine.ed, cine.es, cine.flags), window


def read_benchmarked(folder: CaseFolder, method: str) -> BenchmarkedMotion | None:
    """Read the stored motion of a case by one method; None where there is none.

    Raises:
        ImageError: The stored motion is damaged.
    """
    sidecar = read_sidecar(folder.sidecar(stage_name(method)))
    if sidecar is None:
        return None
    facts = sidecar.facts
    window, ed, es = window_from_json(facts["window"]), facts["ed"], facts["es"]
    to_es, to_ed = read_velocities(folder.benchmark_motion(method))
    return BenchmarkedMotion(
        window=window,
        to_es=from_voxels(to_es, window.spacing, fixed=es, moving=ed),
        to_ed=from_voxels(to_ed, window.spacing, fixed=ed, moving=es),
        cpu_s=facts["cpu_s"],
        peak_mb=facts["peak_mb"],
        lv_ml={int(frame): volume for frame, volume in facts.get("lv_ml", {}).items()},
    )


def _settings_digest(case: Case) -> str:
    masks = (case.labels, case.labels_ed, case.labels_es, case.label_scheme)
    return digest_settings("benchmark", case.ed, case.es, case.frame_ms, case.heart_rate_bpm, *masks)
