"""Every registration finds a motion in closed form: direction, sign, order of the axes and millimetres, both ways.

The motion is a translation and a stretch, in-plane, of a disc whose texture has a gradient along either axis nearly
everywhere. The mean endpoint error of a method is at most a quarter of that without motion. Any mistake of an adapter
would leave more than that, however well the library registers: the other sign, exchanged rows and columns, voxels for
millimetres, and the reverse.
"""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from cmnet_core.methods import syn
from cmnet_core.methods.interface import FramePair
from cmnet_core.methods.registry import METHODS, open_method
from cmnet_core.types import CineSequence
from tests.core.methods import textures
from tests.core.methods.models import tiny

REGISTRATIONS = [
    name for name, entry in METHODS.items() if name not in ("cardiomorphnet", "none") and entry.weights is None
]

LARGEST_ERROR = 0.25
"""Largest mean endpoint error, as a fraction of the mean length of the true displacement."""


def _require(package: str) -> None:
    try:
        version(package)
    except PackageNotFoundError:
        pytest.skip(f"needs {package}: pip install 'cmnet[baselines]'")


@pytest.mark.parametrize("name", REGISTRATIONS)
def test_known_motion_is_found_both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = METHODS[name]
    if entry.package:
        _require(entry.package)
    # The few voxels converge early, and every iteration of the cross-correlation takes seconds.
    monkeypatch.setattr(syn, "ITERATIONS", (20, 10, 2))
    at = textures.positions_mm()
    # moving(p + u(p)) = fixed(p): the texture at frame 0, and the same texture after the motion at frame 1.
    voxels = torch.stack([textures.texture(at), textures.texture(textures.moved_back(at))])
    cine = CineSequence(voxels, textures.SPACING, torch.eye(4, dtype=torch.float64), None, ed=0, es=1)
    pairs = [FramePair(fixed=0, moving=1), FramePair(fixed=1, moving=0)]
    estimated = open_method(name, tiny()).estimate(cine, pairs)
    for pair, motion in zip(pairs, (textures.moved, textures.moved_back), strict=True):
        found, truth = estimated.fields[pair].displacement_mm, motion(at) - at
        without_motion = textures.mean_distance_mm(truth, torch.zeros_like(truth))
        assert textures.mean_distance_mm(found, truth) <= LARGEST_ERROR * without_motion


@pytest.mark.parametrize("mistake", textures.MISTAKES)
def test_a_mistake_of_an_adapter_exceeds_the_largest_error(mistake: str) -> None:
    at = textures.positions_mm()
    for motion in (textures.moved, textures.moved_back):
        truth = motion(at) - at
        error = textures.mean_distance_mm(textures.MISTAKES[mistake](truth), truth)
        assert error > 1.5 * LARGEST_ERROR * textures.mean_distance_mm(truth, torch.zeros_like(truth))
