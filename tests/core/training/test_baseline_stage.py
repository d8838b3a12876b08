"""The training of the methods that cmnet is compared with: the sequences, their validation, and a resume."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmnet_core.imaging.appearance import NO_VARIATION
from cmnet_core.models.baselines.build import build_baseline
from cmnet_core.training.baseline_stage import BaselineTraining, draw_sequence, train_baseline, validate_baseline
from cmnet_core.training.loop import EpochRecord, Schedule
from tests.training_cases import NO_AUGMENTATION, beating_case, monitor

CPU = torch.device("cpu")


def settings(epochs: int) -> BaselineTraining:
    return BaselineTraining(
        schedule=Schedule(epochs, 3e-3, 0.0, seed=3, ema_decay=0.9),
        views_per_epoch=3,
        window=(64, 64),
        validation_window=(64, 64),
        augmentation=NO_AUGMENTATION,
        appearance=NO_VARIATION,
    )


def test_sequence_begins_at_ed_or_es_and_has_the_masks_of_its_frames() -> None:
    case = beating_case(cavities=(14.0, 12.0, 9.0, 12.5))
    sizes = set()
    for seed in range(8):
        found = draw_sequence(case, settings(1), torch.Generator().manual_seed(seed), device=CPU)
        assert found.voxels.shape == (4, 3, 64, 64)
        assert list(found.masks) == [0, 1, 2, 3]
        areas = [float(mask[:, 1].sum()) for mask in found.masks.values()]
        sizes.add("ed" if areas[0] == max(areas) else "es" if areas[0] == min(areas) else "other")
        # The blood of the mask is bright in the image of the same frame.
        assert all(float(found.voxels[frame][mask[:, 1] > 0.5].min()) > 0.8 for frame, mask in found.masks.items())
    assert sizes == {"ed", "es"}


def test_validation_of_no_motion_is_the_overlap_of_the_masks() -> None:
    case = beating_case(cavities=(14.0, 9.0))
    model = build_baseline("tlrn").eval()
    for weight in model.parameters():
        weight.data.zero_()
    metrics = validate_baseline(model, [case], settings=settings(1), device=CPU)
    assert metrics["dice_ed2es_pct"] == pytest.approx(metrics["dice_no_motion_pct"])
    assert metrics["dice_es2ed_pct"] == pytest.approx(metrics["dice_no_motion_pct"])
    assert metrics["folded_voxels"] == 0.0


def test_resumed_training_gives_the_same_weights_and_better_overlap(tmp_path: Path) -> None:
    cases = [beating_case(cavities=(14.0, 9.0)), beating_case(cavities=(13.0, 10.0, 8.0))]
    records: list[EpochRecord] = []
    whole = train_baseline(
        "voxelmorph", cases, cases[:1], settings=settings(3), monitor=monitor(tmp_path / "a", records)
    )
    assert records[-1].validation["dice_pct"] > records[0].validation["dice_no_motion_pct"] + 2.0

    class InterruptionError(Exception):
        pass

    def stop(record: EpochRecord) -> None:
        if record.epoch == 1:
            raise InterruptionError

    first = monitor(tmp_path / "b", [])
    with pytest.raises(InterruptionError):
        train_baseline("voxelmorph", cases, cases[:1], settings=settings(3), monitor=replace(first, on_epoch=stop))
    resumed = train_baseline(
        "voxelmorph", cases, cases[:1], settings=settings(3), monitor=monitor(tmp_path / "b", [], resume=True)
    )
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
