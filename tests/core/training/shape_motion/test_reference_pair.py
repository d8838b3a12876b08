"""Reference masks in the network's window: canonical orientation, views, imitated errors of a segmentation."""

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import LabelError
from cmnet_core.labels import Label
from cmnet_core.training.shape_motion.reference_pair import (
    FINE_MM,
    draw_pair_view,
    imitate_segmentation_errors,
    reference_pair,
    straight_view,
)
from cmnet_core.types import Spacing

SPACING = Spacing(8.0, 1.2, 1.2)


def tapered_mask(*, cavity: float) -> Tensor:
    """A left ventricle that tapers towards slice 0, with the RV at low x."""
    index = torch.arange(100) - 49.5
    y, x = torch.meshgrid(index, index, indexing="ij")
    labels = torch.zeros(8, 100, 100, dtype=torch.uint8)
    for z in range(1, 7):
        radius, inner = torch.hypot(y, x), cavity * (0.5 + z / 12)
        labels[z][(y.abs() < 12) & (x < 0) & (x > -40)] = int(Label.RV)
        labels[z][radius < inner + 7] = int(Label.MYO)
        labels[z][radius < inner] = int(Label.LV)
    return labels


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("reversed_slices", [False, True])
def test_every_orientation_becomes_the_canonical_one(turns: int, *, reversed_slices: bool) -> None:
    masks = torch.stack([tapered_mask(cavity=18.0), tapered_mask(cavity=12.0)])
    expected = reference_pair(masks[0], masks[1], SPACING, window=48)
    turned = torch.rot90(masks, turns, (2, 3))
    turned = (turned.flip(1) if reversed_slices else turned).contiguous()
    found = reference_pair(turned[0], turned[1], SPACING, window=48)
    assert float((found.labels == expected.labels).float().mean()) > 0.995
    lv, rv = (found.labels[0] == Label.LV).nonzero().float(), (found.labels[0] == Label.RV).nonzero().float()
    assert rv[:, 2].mean() < lv[:, 2].mean() - 10
    areas = (found.labels[0] == Label.LV).sum((1, 2))
    assert areas[6] > areas[1] > 0


def test_window_keeps_volumes_and_shapes_are_fractions_of_voxels() -> None:
    mask = tapered_mask(cavity=18.0)
    view = straight_view(reference_pair(mask, mask, SPACING, window=48))
    assert view.labelled == ((1, 6), (1, 6))
    assert view.shapes.shape == (2, 3, 8, 48, 48)
    for label in (Label.LV, Label.MYO, Label.RV):
        own = float((mask == label).sum()) * SPACING.y * SPACING.x
        fine = float(view.probabilities[0, label].sum()) * FINE_MM**2
        coarse = float(view.shapes[0, label - 1].sum()) * (2 * FINE_MM) ** 2
        assert fine == pytest.approx(own, rel=0.06)
        assert coarse == pytest.approx(fine, rel=1e-5)


def test_views_and_imitated_errors_remain_probabilities_and_repeat_with_the_seed() -> None:
    mask = tapered_mask(cavity=18.0)
    pair = reference_pair(mask, tapered_mask(cavity=12.0), SPACING, window=48)
    for seed in range(6):
        first, again = (draw_pair_view(pair, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(first.probabilities, again.probabilities)
        assert torch.allclose(first.probabilities.sum(1), torch.ones(()), atol=1e-5)
        shapes = imitate_segmentation_errors(first.shapes, torch.Generator().manual_seed(seed), probability=1.0)
        assert shapes.shape == first.shapes.shape
        assert (float(shapes.min()) >= 0.0, float(shapes.sum(1).max()) <= 1.0 + 1e-5) == (True, True)
    unchanged = imitate_segmentation_errors(shapes, torch.Generator().manual_seed(1), probability=0.0)
    assert unchanged is shapes


def test_mask_without_rv_is_refused() -> None:
    mask = tapered_mask(cavity=18.0)
    mask[mask == Label.RV] = 0
    with pytest.raises(LabelError, match="RV"):
        reference_pair(mask, mask, SPACING, window=48)
