"""The first training stage: SegNet overfits one batch."""

from dataclasses import replace
from pathlib import Path

from cmnet_core.models.build import build_segnet
from cmnet_core.training.loop import (
    EpochRecord,
)
from cmnet_core.training.segnet_stage import METRICS as SEGNET_METRICS
from cmnet_core.training.segnet_stage import train_segnet, validate_segnet
from tests.training_cases import SMALL_SEGNET, beating_case, monitor, segnet_settings


def test_segnet_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_segnet([case] * 30, [case], settings=segnet_settings(3), monitor=monitor(tmp_path, records), start=None)
    metrics = records[-1].validation
    assert min(value for name, value in metrics.items() if name.endswith("_pct")) > 97
    assert all(metrics[f"hd95_{name}_es_mm"] < 2 for name in ("lv", "myo", "rv"))
    assert (metrics["not_found_ed"], metrics["not_found_es"]) == (0, 0)
    assert set(metrics) == set(SEGNET_METRICS)


def test_every_member_of_segnet_is_trained(tmp_path: Path) -> None:
    case, settings = beating_case(cavities=(14.0, 9.0)), segnet_settings(3)
    settings = replace(settings, sizes=replace(SMALL_SEGNET, members=2))
    both = train_segnet([case] * 30, [], settings=settings, monitor=monitor(tmp_path, []), start=None)
    for member in both.members:
        alone = build_segnet(SMALL_SEGNET)
        alone.members[0] = member
        assert validate_segnet(alone, [case], window=settings.window)["dice_pct"] > 97
