"""Text to cite: a paragraph for the methods section of a paper, built from what was applied to a subject."""

from cmnet_cli.derivatives.tracking import TrackingFacts, read_facts
from cmnet_cli.report.data.load_results import Row
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import Sidecar, read_sidecar
from cmnet_cli.runs.run_folder import read_record
from cmnet_cli.tables.columns.column import LOWER
from cmnet_core import __version__
from cmnet_core.errors import ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.models.build import MotionSizes

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
    sentences = [_segmentation(facts.segnet_members), _motion_network(sizes)]
    if sizes.rotation:
        sentences.append("A separate network first estimated the rotation of each slice about the long axis.")
    sentences.append(_representation(sizes))
    if sizes.fit:
        sentences.append(
            "The network's velocity field was then replaced by a variational fit to image texture and segmentation "
            "probabilities, which started from it and was regularised by its bending energy."
        )
    if facts.refinement_iterations:
        sentences.append(
            f"The velocity field of each frame was refined by {facts.refinement_iterations} iterations of the Adam "
            "optimiser on the agreement of the warped and the estimated segmentation."
        )
    if not sizes.ed_referenced:
        sentences.append("The motion between consecutive frames was composed to displacement from end-diastole.")
    if facts.cycle_closed:
        sentences.append("Drift around the cardiac cycle was distributed evenly over its frames.")
    return sentences


def _segmentation(members: int) -> str:
    networks = (
        f"an ensemble of {members} convolutional networks, whose class probabilities were averaged"
        if members > 1
        else "a convolutional network"
    )
    return (
        "The left-ventricular cavity, the myocardium and the right-ventricular cavity were segmented in every frame by "
        f"{networks}."
    )


def _motion_network(sizes: MotionSizes) -> str:
    frames = "end-diastole and every other frame" if sizes.ed_referenced else "consecutive frames"
    inputs = "the images and the segmentation probabilities" if sizes.use_segmentation else "the images"
    radius = sizes.correlation_radius
    cost_volume = f", with a cost volume of learnt features of radius {radius} voxels" if radius else ""
    iterations = sizes.cascade_iterations
    passes = f" in {iterations} cascade iterations" if iterations > 1 else " in a single pass"
    return (
        f"A recurrent variational network ({_METHOD}) estimated the motion between {frames} from {inputs} of both "
        f"frames{passes}{cost_volume}."
    )


def _representation(sizes: MotionSizes) -> str:
    resolution = _RESOLUTION.get(sizes.output_level, f"1/{2**sizes.output_level} of the in-plane resolution")
    if not sizes.integration_steps:
        return f"The motion was represented by a displacement field at {resolution}."
    return (
        f"The motion was represented by a stationary velocity field at {resolution}, integrated by scaling and "
        f"squaring with {sizes.integration_steps} squarings."
    )


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
    calibration = (
        "without calibration"
        if QCFlag.INTERVALS_NOT_CALIBRATED in (row["qc_flags"] or ())
        else "scaled by calibration factors"
    )
    return [
        f"The 95 % intervals are based on the spread of {samples} samples of the posterior of segmentation and motion, "
        f"{calibration}."
    ]
