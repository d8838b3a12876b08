"""The methods by name: what is not known or not installed is refused, and a further method is a file and a line."""

import dataclasses

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.methods import registry
from cmnet_core.methods.cardiomorphnet import CardioMorphNetMethod
from cmnet_core.methods.interface import FramePair
from cmnet_core.methods.registry import METHODS, find_method, method_digest, open_method
from cmnet_core.types import Spacing
from tests.core.methods.models import tiny
from tests.phantoms import beating_circles

SPACING = Spacing(10.0, 2.0, 2.0)


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ManifestError, match=r"no method 'sin'.*cardiomorphnet, cardiomorphnet-paper, none") as caught:
        find_method("sin")
    assert caught.value.code == ErrorCode.CONFIG


def test_method_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = dataclasses.replace(METHODS["none"], package="no-such-package")
    monkeypatch.setattr(registry, "METHODS", {"none": entry})
    with pytest.raises(ManifestError, match=r"needs the package no-such-package.*pip install") as caught:
        find_method("none")
    assert caught.value.code == ErrorCode.TOOL


def test_a_tenth_method_is_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def register(fixed: Tensor, moving: Tensor, spacing: Spacing) -> Tensor:
        return torch.full((3, *fixed.shape), spacing.z + float((moving - fixed).abs().sum()))

    monkeypatch.setattr(registry, "METHODS", {**METHODS, "tenth": registry._pairwise("the tenth", register)})
    cine, _ = beating_circles(frames=3, slices=2, size=16, spacing=SPACING)
    pair = FramePair(fixed=2, moving=0)
    estimated = open_method("tenth", tiny()).estimate(cine, [pair])
    field = estimated.fields[pair]
    assert (field.fixed, field.moving, field.spacing) == (2, 0, SPACING)
    assert bool((field.displacement_mm == 10.0 + float((cine.voxels[0] - cine.voxels[2]).abs().sum())).all())
    assert (estimated.probabilities, estimated.entropy) == (None, None)


def test_digest_is_that_of_the_weights_for_cmnets_own_method_alone() -> None:
    assert method_digest("cardiomorphnet", "abc") == "abc"
    assert len({method_digest("none", "abc"), method_digest("none", "def"), "abc"}) == 3


def test_own_method_segments_and_estimates_both_directions() -> None:
    model = tiny()
    cine, _ = beating_circles(frames=3, slices=2, size=128, spacing=Spacing(10.0, 1.5, 1.5))
    normalised = dataclasses.replace(cine, voxels=cine.voxels / 1000, ed=0, es=1)
    pairs = [FramePair(fixed=1, moving=0), FramePair(fixed=0, moving=1)]
    estimated = open_method("cardiomorphnet", model).estimate(normalised, pairs)
    assert [(field.fixed, field.moving) for field in estimated.fields.values()] == pairs
    assert estimated.probabilities is not None
    assert estimated.probabilities.shape == (3, 4, 2, 128, 128)
    assert estimated.computed == 3
    there, back = (estimated.fields[pair].displacement_mm for pair in pairs)
    assert bool(there.any())
    assert not torch.equal(there, back)


def test_published_model_is_opened_with_its_own_networks() -> None:
    method = open_method("cardiomorphnet-paper", tiny())
    assert isinstance(method, CardioMorphNetMethod)
    assert method.model.card.name == "paper"
    sizes = method.model.sizes
    assert (sizes.ed_referenced, sizes.integration_steps, sizes.output_level) == (False, 0, 0)
    assert method_digest("cardiomorphnet-paper", "abc") != "abc"
