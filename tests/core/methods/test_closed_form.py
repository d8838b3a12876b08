"""Every registration finds a translation and a contraction in closed form: direction, millimetres, both ways."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from cmnet_core.methods.interface import FramePair
from cmnet_core.methods.registry import METHODS, open_method
from cmnet_core.types import CineSequence
from tests.core.methods import textures
from tests.core.methods.models import tiny

REGISTRATIONS = [name for name in METHODS if name not in ("cardiomorphnet", "none")]

MOTIONS = {
    "translation": (textures.translated, textures.translated_back),
    "stretch": (textures.stretched, textures.contracted),
}


def _require(package: str) -> None:
    try:
        version(package)
    except PackageNotFoundError:
        pytest.skip(f"needs {package}: pip install 'cmnet[baselines]'")


@pytest.mark.parametrize("name", REGISTRATIONS)
@pytest.mark.parametrize("motion", MOTIONS)
def test_known_motion_is_found_both_ways(name: str, motion: str) -> None:
    entry = METHODS[name]
    if entry.package:
        _require(entry.package)
    there, back = MOTIONS[motion]
    at = textures.positions_mm()
    # moving(p + u(p)) = fixed(p): the texture at frame 0, and the same texture after the motion at frame 1.
    voxels = torch.stack([textures.texture(at), textures.texture(back(at))])
    cine = CineSequence(voxels, textures.SPACING, torch.eye(4, dtype=torch.float64), None, ed=0, es=1)
    pairs = [FramePair(fixed=0, moving=1), FramePair(fixed=1, moving=0)]
    estimated = open_method(name, tiny()).estimate(cine, pairs)
    for pair, truth in zip(pairs, (there, back), strict=True):
        displacement = estimated.fields[pair].displacement_mm
        assert 0.6 < textures.factor_along(displacement, truth) < 1.2
        assert textures.residual(voxels[pair.fixed], voxels[pair.moving], displacement) < 0.5
