"""Text to cite: a paragraph for the methods section of a paper, built from what was applied to a subject."""

from cmnet_cli.derivatives.tracking import DEFAULT_METHOD, SEGNET, TrackingFacts, read_facts
from cmnet_cli.report.data.load_results import Row
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Sidecar, read_sidecar
from cmnet_cli.runs.run_folder import read_record
from cmnet_cli.tables.columns.column import LOWER
from cmnet_core import __version__
from cmnet_core.errors import ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.shape_motion_net import PIXEL_MM, ShapeMotionSizes

_METHOD = "CardioMorphNet; Movahed et al., Medical Image Analysis 113 (2026) 104149"
_SEGMENTS = "Cerqueira et al., Circulation 105 (2002) 539"

_RESOLUTION = {0: "the full in-plane resolution", 1: "half the in-plane resolution"}


def text_to_cite(folder: RunFolder, row: Row) -> str:
    """Return a paragraph for the methods section that states only what was applied to this subject.

    The sentences on the networks are built from the sidecar of ``infer``, which records the checkpoint's settings, and
    those on indices and intervals from the subject's row and ``run.json``.

    Args:
        folder: The run.
        row: The subject's row of the indices.
    """
    case = folder.case(row["case_id"])
    sidecar = read_sidecar(case.sidecar("infer"))
    record = read_record(folder)
    commands = record.get("commands", {})
    version = sidecar.version if sidecar else record.get("cmnet_version", __version__)
    samples = commands.get("indices", {}).get("settings", {}).get("samples", 0)
    sentences = [
        f"Short-axis cine MRI of {row['frames']} frames was analysed with cmnet {version}"
        f"{_weights(sidecar, commands.get('infer', {}))}.",
        *_networks(case),
        *_correction(row),
        "Volumes are sums of voxel volumes, with papillary muscles included in the blood pool; myocardial mass is the "
        "myocardial volume at end-diastole times 1.05 g/mL.",
        *_strain(sidecar, row),
        *_intervals(row, samples),
    ]
    return " ".join(sentences)


def _weights(sidecar: Sidecar | None, infer: dict[str, object]) -> str:
    """Name the weights: their name is recorded for the run, their digest for the subject."""
    if sidecar is None or not sidecar.model_digest:
        return ""
    settings, digest = infer.get("settings"), f"SHA-256 {sidecar.model_digest[:12]}…"
    model = settings.get("model") if isinstance(settings, dict) else None
    if model and infer.get("model_digest") == sidecar.model_digest:
        return f" and the network weights '{model}' ({digest})"
    return f" and network weights with the digest {digest}"


def _correction(row: Row) -> list[str]:
    frames = row.get("corrected_frames")
    if not frames:
        return []
    return [
        f"Masks of {len(frames.split())} frame(s) were edited by hand; the difference was propagated to the other "
        "frames, and the motion was estimated again."
    ]


def _networks(case: CaseFolder) -> list[str]:
    try:
        return method_sentences(read_facts(case))
    except ImageError:
        return [f"Segmentation and motion were estimated by neural networks ({_METHOD}); their settings are not known."]


def method_sentences(facts: TrackingFacts) -> list[str]:
    """Describe segmentation and motion estimation by the settings that were in use.

    Args:
        facts: What infer recorded of the subject.
    """
    sizes = facts.motion
    if facts.method != DEFAULT_METHOD:
        return _compared_method(facts)
    segmentation = (
        "The left-ventricular cavity, the myocardium and the right-ventricular cavity were segmented in every frame by "
        "a convolutional network."
    )
    if isinstance(sizes, ShapeMotionSizes):
        return [segmentation, *_shape_motion_network(sizes)]
    assert isinstance(sizes, MotionSizes), "cmnet's own method has a network of one of two architectures"
    return [segmentation, *_recurrent_motion_network(sizes)]


def _compared_method(facts: TrackingFacts) -> list[str]:
    """Describe a method other than cmnet's own by its name; its own publication describes it."""
    segmented = (
        f"by the method '{facts.masks}'" if facts.masks != SEGNET else "by a convolutional network, as for all methods"
    )
    return [
        "The left-ventricular cavity, the myocardium and the right-ventricular cavity were segmented in every frame "
        f"{segmented}.",
        f"The motion of every frame into end-diastole was estimated by the method '{facts.method}' as a displacement "
        "field.",
    ]


def _shape_motion_network(sizes: ShapeMotionSizes) -> list[str]:
    return [
        f"A shape-based motion network (developed from {_METHOD}) estimated the posterior of a three-dimensional "
        "stationary velocity field between end-diastole and every other frame from the segmentation probabilities of "
        f"both frames in {sizes.iterations} cascade iterations, after an initial estimate of the through-plane motion "
        "of each slice; a separate network estimated the rotation of each slice about the long axis from the images.",
        f"The velocity fields, at a voxel size of {PIXEL_MM:g} mm in-plane, were projected to {sizes.harmonics} "
        "harmonics of the cardiac cycle and integrated by scaling and squaring with "
        f"{sizes.integration_steps} squarings.",
    ]


def _recurrent_motion_network(sizes: MotionSizes) -> list[str]:
    resolution = _RESOLUTION.get(sizes.output_level, f"1/{2**sizes.output_level} of the in-plane resolution")
    representation = (
        f"a stationary velocity field at {resolution}, integrated by scaling and squaring with "
        f"{sizes.integration_steps} squarings"
        if sizes.integration_steps
        else f"a displacement field at {resolution}"
    )
    return [
        f"A recurrent variational network ({_METHOD}) estimated the motion between consecutive frames from the images "
        "of both frames.",
        f"The motion was represented by {representation}.",
        "The motion between consecutive frames was composed to displacement from end-diastole.",
    ]


def _strain(sidecar: Sidecar | None, row: Row) -> list[str]:
    if row.get("gcs_line_midwall_peak_pct") is not None:
        return [
            "Engineering strain relative to end-diastole was computed from the displacement field: circumferential "
            "strain as the change of length of endocardial, mid-wall and epicardial contours, radial strain and the "
            f"strain of AHA segments ({_SEGMENTS}) as means over the wall."
        ]
    if sidecar is not None and not any(file.path.endswith("_motion.npz") for file in sidecar.outputs):
        return ["Strain was not computed, because the motion of all frames was not stored."]
    return []


def _intervals(row: Row, samples: int) -> list[str]:
    if not samples or not any(name.endswith(LOWER) and value is not None for name, value in row.items()):
        return []
    if QCFlag.INTERVALS_NOT_CALIBRATED in (row["qc_flags"] or ()):
        return [
            f"The 95 % intervals are based on the spread of {samples} samples of the posterior of segmentation and "
            "motion, without calibration."
        ]
    return [
        "The 95 % intervals were calibrated by split conformal prediction on subjects with known values, scaled by the "
        f"spread of {samples} samples of the posterior of the segmentation where that predicts the error."
    ]
