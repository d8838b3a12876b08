"""Phantoms: synthetic short-axis cines of a heart whose motion is known in closed form."""

from cmnet_core.phantom.draw import draw_spec
from cmnet_core.phantom.generate import Phantom, make_phantom
from cmnet_core.phantom.ground_truth import SegmentStrain, Strain, Truth, truth_of
from cmnet_core.phantom.spec import (
    BeatSpec,
    ChestSpec,
    ContrastSpec,
    Defect,
    HeartSpec,
    PhantomSpec,
    ScanSpec,
    spec_from_values,
)

__all__ = [
    "BeatSpec",
    "ChestSpec",
    "ContrastSpec",
    "Defect",
    "HeartSpec",
    "Phantom",
    "PhantomSpec",
    "ScanSpec",
    "SegmentStrain",
    "Strain",
    "Truth",
    "draw_spec",
    "make_phantom",
    "spec_from_values",
    "truth_of",
]
