"""Cardiac motion from short-axis cine MRI: the computations, without files of a cohort and without a command line.

Arrays are indexed ``(t, z, y, x)``, component *i* of a vector field moves along axis *i*, and quantities are in mm, mL,
g, % and ms. The names below are the public interface; ``docs/python.md`` analyses one subject with them. They are
imported on first use, so that ``import cmnet_core`` loads neither PyTorch nor anything else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmnet_core.errors import CmnetError
    from cmnet_core.function.volumes import clinical_indices, find_phases, volumes_ml
    from cmnet_core.inference.tracking import load_model, track
    from cmnet_core.io.cine import read_cine
    from cmnet_core.io.nifti import write_labels, write_motion
    from cmnet_core.labels import Label
    from cmnet_core.mechanics.analysis import WallAnalysis, analyse_wall
    from cmnet_core.registration.displacement import (
        compose,
        deformation_gradient,
        green_lagrange,
        jacobian_determinant,
        propagate,
    )
    from cmnet_core.stats.metrics import dice_pct, surface_distances_mm
    from cmnet_core.types import CineSequence, LabelSequence, MotionField, Spacing

__all__ = [
    "CineSequence",
    "CmnetError",
    "Label",
    "LabelSequence",
    "MotionField",
    "Spacing",
    "WallAnalysis",
    "__version__",
    "analyse_wall",
    "clinical_indices",
    "compose",
    "deformation_gradient",
    "dice_pct",
    "find_phases",
    "green_lagrange",
    "jacobian_determinant",
    "load_model",
    "propagate",
    "read_cine",
    "surface_distances_mm",
    "track",
    "volumes_ml",
    "write_labels",
    "write_motion",
]

__version__ = "0.2.0.dev0"

_MODULES = {
    "cmnet_core.errors": ("CmnetError",),
    "cmnet_core.function.volumes": ("clinical_indices", "find_phases", "volumes_ml"),
    "cmnet_core.inference.tracking": ("load_model", "track"),
    "cmnet_core.io.cine": ("read_cine",),
    "cmnet_core.io.nifti": ("write_labels", "write_motion"),
    "cmnet_core.labels": ("Label",),
    "cmnet_core.mechanics.analysis": ("WallAnalysis", "analyse_wall"),
    "cmnet_core.registration.displacement": (
        "compose",
        "deformation_gradient",
        "green_lagrange",
        "jacobian_determinant",
        "propagate",
    ),
    "cmnet_core.stats.metrics": ("dice_pct", "surface_distances_mm"),
    "cmnet_core.types": ("CineSequence", "LabelSequence", "MotionField", "Spacing"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
