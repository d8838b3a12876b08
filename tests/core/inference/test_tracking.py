"""Tracking of one subject: frames keep their order, and all results are on the subject's own grid."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.errors import CaseError, ErrorCode, ImageError
from cmnet_core.imaging.preprocess import extract, normalise
from cmnet_core.inference.segmentation import keep_largest_component, retry_with_smaller_batch
from cmnet_core.inference.tracking import PRIOR_ENTROPY, Model, track
from cmnet_core.io.orientation import StackOrientation
from cmnet_core.labels import Label
from cmnet_core.models.build import AnyMotionSizes, SegNetSizes, build_motion_network, build_segnet
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.checkpoint import (
    ModelCard,
)
from cmnet_core.models.segnet import SegNet
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes
from cmnet_core.stats.metrics import dice_pct
from cmnet_core.types import CineSequence, Spacing

SHAPE = ShapeMotionSizes(fine=4, middle=4, coarse=4, blocks=1, stack=4)
RECURRENT = MotionSizes(features=(4, 8, 8, 8), hidden=(8, 8), decoder=(8, 8, 8, 4), deform=(4, 8, 8, 8, 8))


SEGNET = SegNetSizes((4, 4, 4, 4))


BRIGHTNESS = torch.tensor([0.0, 1.0, 0.35, 0.7])


CAVITIES = (14.0, 16.0, 20.0, 24.0, 20.0, 12.0)
"""Radius of the cavity in each frame in mm: ED is frame 3, ES is frame 5."""


class ByBrightness(SegNet):
    """A perfect SegNet for images in which every class has its own brightness."""

    def __init__(self) -> None:
        network = build_segnet(SEGNET)
        super().__init__(network.encoder, network.decoder)

    def forward(self, slices: Tensor, stacks: object) -> Tensor:
        return (-80.0 * (slices - BRIGHTNESS.view(1, 4, 1, 1)).square()).softmax(1)


def model(motion: AnyMotionSizes = SHAPE) -> Model:
    """Return a model whose motion is zero."""
    torch.manual_seed(0)
    network = build_motion_network(motion).eval()
    heads = (
        (network.through_plane.head, network.residual.head)
        if isinstance(network, ShapeMotionNet)
        else (network.deform_net.mean, network.deform_net.factor)
    )
    for weight in (weight for head in heads for weight in head.parameters()):
        nn.init.zeros_(weight)
    if isinstance(network, ShapeMotionNet):
        for weight in (network.rotation.shifts.weight, network.rotation.sharpness):
            nn.init.zeros_(weight)
    card = ModelCard("test", SEGNET, motion, 1.5, (128, 128), "nothing", "tests only", "0")
    return Model(ByBrightness(), network, card, "digest", torch.device("cpu"))


def beating_labels(*, depth: int, spacing: Spacing, size: int) -> Tensor:
    """Return label maps of a round ventricle outside the centre of the field of view."""
    y, x = torch.meshgrid(*((torch.arange(size) - size / 2) * mm for mm in (spacing.y, spacing.x)), indexing="ij")
    radius = torch.hypot(y - 14, x + 21)
    rv = (torch.hypot(y - 14, x - 12) < 14)[None]
    cavity = torch.tensor(CAVITIES).view(-1, 1, 1)
    labels = torch.where(rv & (radius > cavity + 8), 3, 0)
    labels = torch.where(radius[None] < cavity + 8, 2, labels)
    labels = torch.where(radius[None] < cavity, 1, labels)
    return labels.to(torch.uint8)[:, None].repeat(1, depth, 1, 1)


def beating_cine(*, depth: int, spacing: Spacing, size: int) -> tuple[CineSequence, Tensor]:
    labels = beating_labels(depth=depth, spacing=spacing, size=size)
    voxels = 500.0 * BRIGHTNESS[labels.long()] + 20.0
    return CineSequence(voxels, spacing, torch.eye(4, dtype=torch.float64), 40.0, None, None), labels


@pytest.mark.parametrize(("depth", "motion"), [(1, SHAPE), (3, SHAPE), (12, SHAPE), (3, RECURRENT)])
def test_labels_are_in_order_and_on_the_subjects_grid(depth: int, motion: AnyMotionSizes) -> None:
    cine, labels = beating_cine(depth=depth, spacing=Spacing(8.0, 1.2, 1.7), size=160)
    tracking = track(model(motion), cine)
    assert (tracking.ed, tracking.es) == (3, 5)
    assert tracking.segmentation.labels.shape == labels.shape
    for frame in range(cine.frames):
        for label in (Label.LV, Label.MYO, Label.RV):
            score = dice_pct(tracking.segmentation.at(frame), labels[frame], label)
            assert score is not None
            assert score > 85
    assert tracking.entropy.shape == labels.shape
    assert float(tracking.entropy[0, 0, 0, 0]) == pytest.approx(PRIOR_ENTROPY)


@pytest.mark.parametrize("motion", [SHAPE, RECURRENT])
def test_zero_motion_propagates_the_ed_mask_unchanged(motion: AnyMotionSizes) -> None:
    cine, _ = beating_cine(depth=2, spacing=Spacing(8.0, 1.4, 1.4), size=160)
    tracking = track(model(motion), cine)
    assert float(tracking.ed_to_es.displacement_mm.abs().max()) == pytest.approx(0, abs=1e-4)
    assert (tracking.ed_to_es.fixed, tracking.ed_to_es.moving) == (5, 3)
    assert tracking.cycle_consistency_error_mm == pytest.approx(0, abs=1e-4)
    assert tracking.folded_voxels == (0,) * cine.frames
    for frame in range(cine.frames):
        assert torch.equal(tracking.propagated.at(frame), tracking.segmentation.at(3))


def test_components_outside_of_the_heart_become_background() -> None:
    labels = torch.zeros(2, 20, 20, dtype=torch.long)
    labels[:, 2:10, 2:10] = 1
    expected = labels.clone()
    labels[0, 15:17, 15:17] = 3
    shape = nn.functional.one_hot(labels, 4).movedim(-1, 0).float()
    assert torch.equal(keep_largest_component(shape).argmax(0), expected)


def test_small_components_of_a_ventricle_take_the_next_class() -> None:
    expected = torch.full((1, 20, 20), 2)
    expected[0, 2:8, 2:8], expected[0, 12:18, 12:18] = 1, 3
    labels = expected.clone()
    labels[0, 10, 4] = 3
    shape = nn.functional.one_hot(labels, 4).movedim(-1, 0).float() + 0.1 * nn.functional.one_hot(expected, 4).movedim(
        -1, 0
    )
    assert torch.equal(keep_largest_component(shape).argmax(0), expected)


def test_given_ed_and_es_are_kept() -> None:
    cine, _ = beating_cine(depth=1, spacing=Spacing(8.0, 1.4, 1.4), size=160)
    given = CineSequence(cine.voxels, cine.spacing, cine.affine, 40.0, 2, 0)
    tracking = track(model(), given)
    assert (tracking.ed, tracking.es) == (2, 0)
    assert (tracking.ed_to_es.moving, tracking.ed_to_es.fixed) == (2, 0)


def test_images_without_a_heart_are_refused() -> None:
    noise = torch.rand(4, 2, 140, 140, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.3
    noise[0, 0, :4, :4] = 1.0
    cine = CineSequence(noise, Spacing(8.0, 1.4, 1.4), torch.eye(4, dtype=torch.float64), None, None, None)

    class NoHeart(ByBrightness):
        def forward(self, slices: Tensor, stacks: object) -> Tensor:
            return torch.tensor([5.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1).expand(len(slices), 4, *slices.shape[2:])

    model_without_heart = Model(NoHeart(), model().motion, model().card, "digest", torch.device("cpu"))
    with pytest.raises(ImageError, match="heart"):
        track(model_without_heart, cine)


def test_batch_size_is_halved_until_it_fits_into_memory() -> None:
    tried = []

    def run(at_once: int) -> Tensor:
        tried.append(at_once)
        if at_once > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return torch.tensor(at_once)

    assert int(retry_with_smaller_batch(run, 8)) == 2
    assert tried == [8, 4, 2]


def test_a_batch_of_one_that_does_not_fit_is_an_error() -> None:
    def run(_: int) -> Tensor:
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(CaseError) as raised:
        retry_with_smaller_batch(run, 8)
    assert raised.value.code == ErrorCode.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "order",
    [
        StackOrientation(slices_reversed=True),
        StackOrientation(columns_reversed=True),
        StackOrientation(slices_reversed=True, transposed=True, rows_reversed=True),
    ],
)
def test_results_do_not_depend_on_the_order_of_storage(order: StackOrientation) -> None:
    networks = model()
    torch.nn.init.normal_(networks.motion.residual.head.weight, std=0.02)
    usual, _ = beating_cine(depth=3, spacing=Spacing(8.0, 1.2, 1.4), size=160)
    usual = replace(usual, affine=torch.diag(torch.tensor([8.0, -1.2, -1.4, 1.0], dtype=torch.float64))[[2, 1, 0, 3]])
    stored = order.orient_cine(usual)
    expected, found = track(networks, usual), track(networks, stored)
    assert float(expected.velocities.abs().max()) > 0.01
    for maps, others in (
        (found.segmentation, expected.segmentation),
        (found.propagated, expected.propagated),
    ):
        assert order.restore(maps.labels).equal(others.labels)
        assert maps.spacing == stored.spacing
        assert maps.affine.equal(stored.affine)
    field = found.ed_to_es
    assert field.spacing == stored.spacing
    assert order.restore_vectors(field.displacement_mm, 0).equal(expected.ed_to_es.displacement_mm)
    assert order.restore_vectors(found.velocities, 1).equal(expected.velocities)
    assert order.restore(found.entropy).equal(expected.entropy)
    posterior = found.posterior.oriented(order).restored(order)
    assert posterior.factor.equal(found.posterior.factor)
    assert found.posterior.restored(order).factor.equal(expected.posterior.factor)
    assert (found.ed, found.es, found.folded_voxels) == (expected.ed, expected.es, expected.folded_voxels)
    # The stored window is where its affine says.
    torch.testing.assert_close(order.orient_affine(expected.cine.affine, expected.window.shape), found.cine.affine)
    torch.testing.assert_close(extract(normalise(stored.voxels), found.window), found.cine.voxels)
