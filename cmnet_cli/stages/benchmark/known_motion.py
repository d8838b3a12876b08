"""The true motion of phantoms and simulated cines, on the grid of a benchmark's window."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.ground_truth_motion import read_ground_truth_motion
from cmnet_cli.runs.paths import SimulatedCaseFolder, ground_truth_motion_path
from cmnet_cli.stages.read_images import inspect_image
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.imaging import preprocess
from cmnet_core.imaging.preprocess import Window
from cmnet_core.io.nifti import read_motion
from cmnet_core.registration.displacement import invert
from cmnet_core.types import MotionField


def has_truth(case: Case) -> bool:
    """Whether a case is a phantom or a simulated cine with its true motion beside it."""
    return _has_both_fields(case) or ground_truth_motion_path(case.image[0]).exists()


def read_truth(case: Case, window: Window, *, ed: int, es: int) -> tuple[MotionField, MotionField]:
    """Read the true motion of a case on the grid of a window: the field fixed at ES, and the one fixed at ED.

    Phantoms have both as files. Simulated cines have the motion of every frame into ED; the other direction is its
    inverse.

    Raises:
        ImageError: The true motion is not known.
    """
    if _has_both_fields(case):
        files = SimulatedCaseFolder(case.image[0].parent, case.case_id)
        to_es, to_ed = read_motion(files.ed2es_motion), read_motion(files.es2ed_motion)
    elif ground_truth_motion_path(case.image[0]).exists():
        to_es = _of_simulated_cine(case, ed=ed, es=es)
        to_ed = invert(to_es)
    else:
        name = SimulatedCaseFolder(case.image[0].parent, case.case_id).ed2es_motion.name
        raise ImageError(
            f"The true motion of {case.image[0].name} is not known: there is no {name} beside it.",
            hint="Only cines of cmnet phantom have a known motion; leave the method 'truth' out for others.",
            code=ErrorCode.FILE_MISSING,
        )
    to_es, to_ed = (_in_window(field, window) for field in (to_es, to_ed))
    return replace(to_es, fixed=es, moving=ed), replace(to_ed, fixed=ed, moving=es)


def _has_both_fields(case: Case) -> bool:
    files = SimulatedCaseFolder(case.image[0].parent, case.case_id)
    return files.ed2es_motion.exists() and files.es2ed_motion.exists()


def _of_simulated_cine(case: Case, *, ed: int, es: int) -> MotionField:
    """Return the motion from ES into ED, on the grid of the image."""
    header = inspect_image(case)
    rows, columns = header.grid[1:]
    frames = read_ground_truth_motion(ground_truth_motion_path(case.image[0]), size=(rows, columns))
    return MotionField(frames[es], header.spacing, fixed=es, moving=ed)


def _in_window(field: MotionField, window: Window) -> MotionField:
    displacement: Float[Tensor, "3 z y x"] = preprocess.extract(field.displacement_mm, window)
    return replace(field, displacement_mm=displacement, spacing=window.spacing)
