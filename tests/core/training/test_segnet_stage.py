"""The first training stage: SegNet overfits one batch, and draws from the collections in their fractions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmnet_core.errors import ManifestError
from cmnet_core.imaging.augmentation import AugmentationRanges, straight_view, view_image
from cmnet_core.models.build import build_segnet
from cmnet_core.models.layers import Stacks
from cmnet_core.training.loop import EpochRecord, TrainingSample
from cmnet_core.training.segnet_stage import METRICS as SEGNET_METRICS
from cmnet_core.training.segnet_stage import (
    Collection,
    FrameSampler,
    draw_segmentation_view,
    freeze_norms,
    train_segnet,
)
from tests.training_cases import SMALL_SEGNET, beating_case, beating_segmentation_case, monitor, segnet_settings


def test_segnet_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_segmentation_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    validation = [beating_case(cavities=(14.0, 9.0))]
    train_segnet([case] * 30, validation, settings=segnet_settings(5), monitor=monitor(tmp_path, records), start=None)
    metrics = records[-1].validation
    assert min(value for name, value in metrics.items() if name.endswith("_pct")) > 97
    assert all(metrics[f"hd95_{name}_es_mm"] < 2 for name in ("lv", "myo", "rv"))
    assert (metrics["not_found_ed"], metrics["not_found_es"]) == (0, 0)
    assert set(metrics) == set(SEGNET_METRICS)


def test_an_epoch_has_every_main_frame_once_and_the_collections_in_their_fractions() -> None:
    cases = [beating_segmentation_case(cavities=(14.0, 9.0)) for _ in range(3)]
    cases += [beating_segmentation_case(cavities=(12.0,), collection=name) for name in ("a", "b", "b")]
    collections = (Collection("a", 0.6), Collection("b", 0.2))
    sampler = FrameSampler(cases, replace(segnet_settings(1), collections=collections, supplement_fraction=0.5))
    assert sampler.size == 12
    samples = [TrainingSample(index, torch.Generator().manual_seed(index)) for index in range(6)]
    assert {(id(case), frame) for case, frame in map(sampler.draw, samples)} == {
        (id(case), frame) for case in cases[:3] for frame in (0, 1)
    }
    drawn = Counter(
        sampler.draw(TrainingSample(6, torch.Generator().manual_seed(seed)))[0].collection for seed in range(400)
    )
    assert drawn["a"] == pytest.approx(300, abs=30)
    assert set(drawn) == {"a", "b"}


def test_a_collection_without_cases_is_refused() -> None:
    settings = replace(segnet_settings(1), collections=(Collection("children", 1.0),))
    with pytest.raises(ManifestError, match="children"):
        FrameSampler([beating_segmentation_case(cavities=(14.0, 9.0))], settings)


def test_image_and_target_of_a_view_are_transformed_alike() -> None:
    case = beating_segmentation_case(cavities=(14.0, 9.0))
    # A box that is smaller than the image, and not centred in it.
    cropped = replace(case, targets=case.targets[..., 10:60, 6:62], centre=(10 + 24.5, 6 + 27.5))
    settings = replace(segnet_settings(1), augmentation=AugmentationRanges(shift_voxels=4.0))
    brightness = torch.tensor([0.3, 0.9, 0.1, 0.8]).view(1, 4, 1, 1)
    for seed in range(6):
        view = draw_segmentation_view(cropped, seed % 2, settings, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(view.target.sum(1), torch.ones(len(view.target), 64, 64))
        expected = (view.target * brightness).sum(1, keepdim=True)
        inside = view.target[:, :1] < 0.5
        assert float((view.image - expected)[inside].abs().max()) < 0.02


def test_an_unaugmented_view_shows_the_image_as_it_is() -> None:
    case = beating_segmentation_case(cavities=(14.0,))
    ranges = AugmentationRanges(shift_voxels=0.0, missing_slice_probability=0.0)
    settings = replace(segnet_settings(1), augmentation=ranges, random_crop_probability=0.0)
    settings = replace(settings, unaugmented_probability=1.0)
    views = [draw_segmentation_view(case, 0, settings, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    straight = view_image(case.voxels[:1].float(), straight_view(case.centre, case.voxels.shape[1]), settings.window)
    for view in views:
        torch.testing.assert_close(view.image[:, 0], straight[0])


def test_frozen_norms_keep_their_statistics() -> None:
    model = build_segnet(SMALL_SEGNET).train()
    freeze_norms(model)
    assert model.training
    case = beating_segmentation_case(cavities=(14.0, 9.0))
    view = draw_segmentation_view(case, 0, segnet_settings(1), torch.Generator().manual_seed(0))
    before = model.encoder.stem.norm.running_mean.clone()
    model.logits(view.image, Stacks((3,)))
    assert torch.equal(model.encoder.stem.norm.running_mean, before)
