"""Metrics against closed forms and against independent implementations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou

from cmnet_core.errors import GeometryError, LabelError
from cmnet_core.labels import Label
from cmnet_core.stats.metrics import auroc, dice_pct, dilated, folded_voxels, jaccard_pct, overlap, surface_distances_mm
from cmnet_core.types import Spacing

LV, MYO, RV = Label.LV, Label.MYO, Label.RV


def random_blobs(seed: int, shape: tuple[int, int, int] = (6, 24, 20)) -> torch.Tensor:
    """Two label maps with ragged structures of every class."""
    noise = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, 3, stride=1, padding=1)[:, 0]
    rank = smooth.flatten(1).argsort(dim=1).argsort(dim=1).reshape(smooth.shape) * 4 // smooth[0].numel()
    return rank.to(torch.uint8)


def slab(shape: tuple[int, int, int], rows: slice) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, rows] = True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_overlap_agrees_with_monai(seed: int) -> None:
    a, b = random_blobs(seed)
    for label in (LV, MYO, RV):
        masks = [(labels == label)[None, None] for labels in (a, b)]
        assert dice_pct(a, b, label) == pytest.approx(100 * float(compute_dice(*masks)))
        assert jaccard_pct(a, b, label) == pytest.approx(100 * float(compute_iou(*masks)))


def test_pooled_overlap_is_that_of_the_voxels_of_both() -> None:
    first, second = random_blobs(1), random_blobs(2)
    both = overlap(first[0], first[1], RV) + overlap(second[0], second[1], RV)
    stacked = dice_pct(torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]]), RV)
    assert both.dice_pct == pytest.approx(stacked)


def test_overlap_without_prediction_is_zero_and_without_reference_undefined() -> None:
    full = torch.ones(2, 3, 4, dtype=torch.uint8)
    empty = torch.zeros_like(full)
    assert (dice_pct(empty, full, LV), jaccard_pct(empty, full, LV)) == (0, 0)
    assert (dice_pct(full, empty, LV), jaccard_pct(full, empty, LV)) == (None, None)
    assert (dice_pct(empty, empty, LV), dice_pct(full, full, LV)) == (None, 100)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # within MONAI
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), mm=st.tuples(*[st.floats(0.5, 12.0)] * 3), label=st.sampled_from([LV, MYO, RV]))
def test_surface_distances_agree_with_monai_at_any_spacing(
    seed: int, mm: tuple[float, float, float], label: Label
) -> None:
    a, b = (labels == label for labels in random_blobs(seed))
    found = surface_distances_mm(a, b, Spacing(*mm))
    kept = {"include_background": True, "spacing": list(mm)}
    hd95 = compute_hausdorff_distance(a[None, None], b[None, None], percentile=95, **kept)
    msd = compute_average_surface_distance(a[None, None], b[None, None], symmetric=True, **kept)
    assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
    assert found.msd_mm == pytest.approx(float(msd), rel=1e-5)


def test_a_shifted_slab_is_its_shift_away() -> None:
    a, b = slab((1, 40, 200), slice(5, 6)), slab((1, 40, 200), slice(8, 9))
    found = surface_distances_mm(a, b, Spacing(10.0, 1.5, 1.2))
    assert (found.hd95_mm, found.msd_mm) == (pytest.approx(4.5), pytest.approx(4.5))


def test_an_empty_mask_is_a_failure_and_never_zero() -> None:
    mask, empty = slab((2, 4, 4), slice(1, 3)), torch.zeros(2, 4, 4, dtype=torch.bool)
    spacing = Spacing(8.0, 1.5, 1.5)
    for prediction, reference, failure in (
        (empty, mask, "empty-prediction"),
        (mask, empty, "empty-reference"),
        (empty, empty, "empty-reference"),
    ):
        found = surface_distances_mm(prediction, reference, spacing)
        assert (found.hd95_mm, found.msd_mm, found.failure) == (None, None, failure)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(LabelError, match="shape"):
        dice_pct(torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, 3, 5, dtype=torch.uint8), LV)


def test_folding_counts_what_is_not_positive() -> None:
    jacobian = torch.ones(2, 5, 10)
    jacobian[0, 0, :4] = torch.tensor([0.0, -0.5, math.nan, 1e-6])
    within = torch.zeros(2, 5, 10, dtype=torch.bool)
    within[0, 0] = True
    assert (folded_voxels(jacobian).count, folded_voxels(jacobian).fraction_pct) == (3, 3.0)
    assert (folded_voxels(jacobian, within).count, folded_voxels(jacobian, within).fraction_pct) == (3, 30.0)
    with pytest.raises(GeometryError, match="mask"):
        folded_voxels(jacobian, torch.zeros_like(within))


def test_dilation_is_in_millimetres_along_every_axis() -> None:
    point = torch.zeros(5, 21, 21, dtype=torch.bool)
    point[2, 10, 10] = True
    grown = dilated(point, Spacing(8.0, 2.0, 2.5), by_mm=10.0)
    assert [int(grown.any(dim=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [3, 11, 9]
    assert not bool(dilated(torch.zeros_like(point), Spacing(8.0, 2.0, 2.5), by_mm=10.0).any())


def test_auroc_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    low, high = (torch.randint(6, (n,), generator=generator).float() for n in (30, 20))
    pairs = (high[:, None] > low).float() + 0.5 * (high[:, None] == low).float()
    assert auroc(low, high) == pytest.approx(float(pairs.mean()))
    assert auroc(torch.zeros(3), torch.ones(2)) == 1.0
    assert auroc(torch.zeros(0), torch.ones(2)) is None
