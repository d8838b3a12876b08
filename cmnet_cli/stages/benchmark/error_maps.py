"""Maps of the error of each method at end-systole, in one slice of one subject."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.stages.benchmark.known_motion import has_truth, read_truth
from cmnet_cli.stages.benchmark.motion import BenchmarkedMotion
from cmnet_cli.stages.evaluate import ReferenceMasks
from cmnet_core.imaging import preprocess
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import propagate
from cmnet_core.types import CineSequence, MotionField

MARGIN_MM = 12.0
"""Distance of the border of a map from the heart at ED, in mm."""


@dataclass(frozen=True, slots=True, eq=False)
class ErrorMap:
    """The error of one method in one slice, at ES.

    Attributes:
        method: Name of the method.
        unit: ``mm``: distance from the true motion; empty: absolute difference of the warped ED image and the ES image,
            whose intensities are from 0 to 1.
        values: The errors.
    """

    method: str
    unit: str
    values: Float[Tensor, "y x"]


def error_maps(
    case: Case, cine: CineSequence, motions: Mapping[str, BenchmarkedMotion], reference: ReferenceMasks
) -> tuple[ErrorMap, ...]:
    """Return a map for each method, in the slice with most myocardium at ED.

    Args:
        case: The case.
        cine: Its cine.
        motions: The stored motion by each method.
        reference: Its reference masks.
    """
    maps = []
    images = preprocess.normalise(cine.voxels)[[reference.ed, reference.es]]
    for method, motion in motions.items():
        [mask] = preprocess.extract_labels(reference.at_ed[None], motion.window)
        number = int((mask == Label.MYO).flatten(1).sum(1).argmax())
        if has_truth(case):
            truth, _ = read_truth(case, motion.window, ed=reference.ed, es=reference.es)
            errors, unit = (motion.to_es.displacement_mm - truth.displacement_mm).norm(dim=0), "mm"
        else:
            errors, unit = _image_difference(images, motion), ""
        rows, columns = _around(mask, motion.to_es)
        maps.append(ErrorMap(method, unit, errors[number, rows, columns]))
    return tuple(maps)


def _image_difference(images: Float[Tensor, "2 z y x"], motion: BenchmarkedMotion) -> Float[Tensor, "z y x"]:
    ed, es = preprocess.extract(images, motion.window)
    difference: Tensor = (propagate(ed[None], motion.to_es)[0] - es).abs()
    return difference


def _around(mask: Tensor, field: MotionField) -> tuple[slice, slice]:
    """Return the rows and columns of the heart and a margin."""
    ranges = []
    for axis, mm in ((1, field.spacing.y), (2, field.spacing.x)):
        margin, heart = round(MARGIN_MM / mm), preprocess.bounding_slice(mask, axis)
        ranges.append(slice(max(0, heart.start - margin), heart.stop + margin))
    return ranges[0], ranges[1]
