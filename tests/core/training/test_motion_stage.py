"""The second training stage: CardioMorphNet overfits one batch, and draws frames in the order of the cycle."""

from pathlib import Path

import pytest
import torch

from cmnet_core.models.build import build_segnet
from cmnet_core.training.loop import EpochRecord
from cmnet_core.training.motion_settings import LossWeights
from cmnet_core.training.motion_stage import METRICS as MOTION_METRICS
from cmnet_core.training.motion_stage import draw_cycle_frames, train_motion
from tests.training_cases import SMALL_SEGNET, beating_case, monitor, motion_settings


def test_motion_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_motion(
        [case] * 40,
        [case],
        segnet=build_segnet(SMALL_SEGNET),
        settings=motion_settings(3, weights=LossWeights(smoothness=0.03)),
        monitor=monitor(tmp_path, records),
        start=None,
    )
    metrics = records[-1].validation
    assert metrics["dice_lv_no_motion_pct"] < 65
    assert metrics["dice_lv_ed2es_pct"] > 93
    assert metrics["dice_myo_ed2es_pct"] > 80
    assert set(MOTION_METRICS) <= set(metrics)


@pytest.mark.parametrize(("ed", "es"), [(0, 9), (20, 3)])
def test_drawn_frames_are_in_the_order_of_the_cycle(ed: int, es: int) -> None:
    frames = draw_cycle_frames(25, ed=ed, es=es, count=6, generator=torch.Generator().manual_seed(1))
    ahead = [(frame - ed) % 25 for frame in frames]
    assert len(frames) == 6
    assert frames[0] == ed
    assert frames[3] == es
    assert ahead == sorted(ahead)


def test_no_frame_is_drawn_twice() -> None:
    assert draw_cycle_frames(2, ed=0, es=1, count=6, generator=torch.Generator()) == [0, 1]
