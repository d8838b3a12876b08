"""The learned methods: shapes, direction and units of the motion, what the loss of each reads, and their weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.errors import CheckpointError
from cmnet_core.models.baselines.blocks import compose_slices, integrate_slices, warp_slices
from cmnet_core.models.baselines.build import BASELINES, build_baseline
from cmnet_core.models.baselines.checkpoint import BaselineCard, load_baseline, save_baseline
from cmnet_core.models.baselines.dragnet import InPlanePosterior
from cmnet_core.models.baselines.interface import FrameSequence
from cmnet_core.models.baselines.terms import diffusion, huber_smoothness, local_correlation
from cmnet_core.models.losses import dice_loss
from cmnet_core.registration.displacement import exponential, warp
from cmnet_core.types import Spacing

SEGMENT = ("jms", "tcsf", "segmorph")
WITH_MASKS = ("voxelmorph", "voxelmorph-diffeomorphic", *SEGMENT)


def disc(radius: float, *, size: int = 32) -> Tensor:
    """Return soft labels of a disc in a ring, as ``[z k y x]`` with two slices."""
    y, x = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2,) * 2, indexing="ij")
    cavity = torch.sigmoid((radius - y.hypot(x)) * 2.0)
    wall = torch.sigmoid((radius + 4.0 - y.hypot(x)) * 2.0) - cavity
    none = torch.zeros_like(cavity)
    return torch.stack([1.0 - cavity - wall, cavity, wall, none]).expand(2, 4, size, size).contiguous()


def sequence(*radii: float, labelled: tuple[int, ...]) -> FrameSequence:
    """Return frames of a disc whose cavity has these radii, with bright blood and a grey wall."""
    labels = [disc(radius) for radius in radii]
    voxels = torch.stack([0.9 * frame[:, 1] + 0.4 * frame[:, 2] for frame in labels])
    return FrameSequence(voxels, {frame: labels[frame] for frame in labelled}, Spacing(8.0, 1.5, 1.5))


def trained(name: str, frames: FrameSequence, *, steps: int) -> nn.Module:
    torch.manual_seed(2)
    model = build_baseline(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(steps):
        loss = model.loss(frames, torch.Generator().manual_seed(step))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_motion_of_every_frame_into_the_first_and_segmentation_of_all(name: str) -> None:
    torch.manual_seed(1)
    voxels = torch.rand(3, 2, 32, 48)
    found = build_baseline(name).eval()(voxels)
    assert found.displacements.shape == (2, 3, 2, 32, 48)
    assert found.displacements.dtype == torch.float32
    assert (found.probabilities is not None) == (name in SEGMENT)
    if found.probabilities is not None:
        assert found.probabilities.shape == (3, 2, 4, 32, 48)
        assert torch.allclose(found.probabilities.sum(2), torch.ones(3, 2, 32, 48), atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_loss_reads_masks_where_the_article_does(name: str) -> None:
    torch.manual_seed(1)
    model = build_baseline(name).eval()
    partly = sequence(8.0, 7.0, 6.0, labelled=(0, 2))
    flipped = FrameSequence(partly.voxels, {0: disc(5.0), 2: disc(9.0)}, partly.spacing)
    losses = [model.loss(frames, torch.Generator().manual_seed(1)) for frames in (partly, flipped)]
    assert all(bool(term.isfinite()) for terms in losses for term in terms.values())
    first, second = (float(terms["loss"].detach()) for terms in losses)
    assert (first != second) == (name in WITH_MASKS)
    losses[0]["loss"].backward()
    unused = [key for key, weight in model.named_parameters() if weight.grad is None]
    assert not unused


@pytest.mark.parametrize("name", BASELINES)
def test_overfits_a_pair_and_points_from_the_fixed_frame_into_the_first(name: str) -> None:
    frames = sequence(9.0, 6.5, labelled=(0, 1))
    model = trained(name, frames, steps=STEPS[name])
    with torch.no_grad():
        [displacement] = model(frames.voxels).displacements
    still = (frames.voxels[0] - frames.voxels[1]).square().mean()
    warped = warp(frames.voxels[0][None, None], displacement[None])[0, 0]
    assert float((warped - frames.voxels[1]).square().mean()) < 0.4 * float(still)
    # The cavity contracts: the wall of the fixed frame was farther from the centre in the moving one.
    y, x = torch.meshgrid(*(torch.arange(32) - 15.5,) * 2, indexing="ij")
    edge = (y.hypot(x) - 6.5).abs() < 1.5
    outward = ((displacement[1] * y + displacement[2] * x) / y.hypot(x))[:, edge].mean()
    assert 1.2 < float(outward) < 3.8


STEPS = {
    "voxelmorph": 40,
    "voxelmorph-diffeomorphic": 40,
    "dragnet": 60,
    "tlrn": 40,
    "jms": 50,
    "tcsf": 40,
    "segmorph": 50,
}


def test_planes_are_warped_and_integrated_as_volumes_are() -> None:
    generator = torch.Generator().manual_seed(1)
    slices, motion = (torch.rand(3, count, 9, 12, generator=generator) for count in (2, 2))
    motion = 4.0 * motion - 2.0
    volumes = functional.pad(motion, (0, 0, 0, 0, 1, 0))[:, :, None]
    assert torch.allclose(warp_slices(slices, motion), warp(slices[:, :, None], volumes)[:, :, 0], atol=1e-5)
    assert torch.allclose(integrate_slices(motion, steps=4), exponential(volumes, steps=4)[:, 1:, 0], atol=1e-4)
    assert torch.allclose(compose_slices(motion, torch.zeros_like(motion)), motion)


def test_terms_in_closed_form() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    stretch = 0.1 * torch.stack([y, torch.zeros_like(y)])[None]
    assert float(diffusion(stretch)) == pytest.approx(0.1**2 / 4)
    assert float(huber_smoothness(stretch)) == pytest.approx((0.01 + 0.1**2) ** 0.5)
    image = torch.sin(y / 2.0) * torch.cos(x / 3.0)
    brighter = (0.5 * image + 0.2)[None, None]
    assert float(local_correlation(brighter, image[None, None])) < 0.01
    assert float(local_correlation(torch.rand(1, 1, 24, 24), image[None, None])) > 0.7
    assert float(dice_loss(disc(5.0), disc(5.0))) < 0.01


def test_divergence_of_the_in_plane_posterior_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, factor = torch.randn(2, 2, 3, 3, generator=generator), torch.randn(2, 2, 3, 3, generator=generator)
    log_variance = torch.randn(2, 1, 3, 3, generator=generator)
    columns = factor.movedim(1, -1)
    covariance = torch.eye(2) * log_variance.exp()[:, 0, ..., None, None] + columns[..., None] * columns[..., None, :]
    posterior = torch.distributions.MultivariateNormal(mean.movedim(1, -1), covariance)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    assert float(InPlanePosterior(mean, log_variance, factor).divergence()) == pytest.approx(float(expected), rel=1e-4)


def card(method: str) -> BaselineCard:
    return BaselineCard(method, 1.5, (128, 128), "none", "For tests.", "0")


def test_weights_return_in_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "jms.safetensors"
    model = build_baseline("jms").eval()
    save_baseline(path, model, card("jms"))
    assert path.stat().st_size < 1e6
    loaded, found = load_baseline("jms", path)
    assert found == card("jms")
    voxels = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        a, b = model(voxels).probabilities, loaded(voxels).probabilities
    assert a is not None
    assert b is not None
    assert torch.allclose(a, b, atol=0.02)


def test_weights_that_are_missing_or_of_another_method_name_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "tlrn.safetensors"
    with pytest.raises(CheckpointError, match=r"weights of the method 'tlrn' are missing.*cmnet train --method tlrn"):
        load_baseline("tlrn", path)
    save_baseline(path, build_baseline("jms"), card("jms"))
    with pytest.raises(CheckpointError, match="weights of the method 'jms', not those of 'tlrn'"):
        load_baseline("tlrn", path)
    save_baseline(path, build_baseline("jms"), card("tlrn"))
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_baseline("tlrn", path)
