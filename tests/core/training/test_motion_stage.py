"""The second training stage: CardioMorphNet overfits one batch, and parts of it are trained alone."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmnet_core.errors import ManifestError
from cmnet_core.models.build import build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import CardioMorphNet, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.training.loop import (
    EpochRecord,
    Schedule,
)
from cmnet_core.training.motion_settings import LossWeights, Trainable
from cmnet_core.training.motion_stage import METRICS as MOTION_METRICS
from cmnet_core.training.motion_stage import draw_cycle_frames, network_inputs, train_motion
from cmnet_core.training.training_case import TrainingCase
from tests.training_cases import SMALL_MOTION, SMALL_SEGNET, beating_case, monitor, motion_settings


def test_motion_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_motion(
        [case] * 40,
        [case],
        segnet=build_segnet(SMALL_SEGNET),
        settings=motion_settings(3),
        monitor=monitor(tmp_path, records),
        start=None,
    )
    metrics = records[-1].validation
    assert metrics["dice_lv_no_motion_pct"] < 65
    assert metrics["dice_lv_ed2es_pct"] > 93
    assert metrics["dice_myo_ed2es_pct"] > 80
    assert set(MOTION_METRICS) <= set(metrics)


def test_posterior_variance_can_be_trained_alone(tmp_path: Path) -> None:
    case = beating_case(cavities=(14.0, 9.0))
    plain = motion_settings(4, weights=LossWeights(kl_motion=3e-3))
    settings = replace(
        plain, trainable=Trainable.POSTERIOR_VARIANCE, schedule=Schedule(4, 0.1, 0.0, seed=3, ema_decay=0.0)
    )
    torch.manual_seed(4)
    model = build_motion(SMALL_MOTION)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    segnet = build_segnet(SMALL_SEGNET)
    trained = train_motion(
        [case] * 30, [], segnet=segnet, settings=settings, monitor=monitor(tmp_path, []), start=model
    )
    changed = {name for name, weight in trained.state_dict().items() if not torch.equal(weight, before[name])}
    heads = ("log_variance", "factor")
    assert changed == {f"deform_net.{head}.{part}" for head in heads for part in ("weight", "bias")}
    assert all(weight.requires_grad for weight in trained.parameters())
    # The initial variance is small; where segmentations do not determine the motion, the prior increases it.
    shapes = torch.nn.functional.one_hot(case.labels.long(), 4).movedim(-1, 2).float()
    with torch.no_grad():
        cycle_step = next(iterate_cycle(trained, network_inputs(case.voxels, shapes, SMALL_MOTION), Stacks((3,)), None))
    assert float(cycle_step.output.motion.variance.mean()) > 5.0 * math.exp(-5.0)


def test_rotation_net_can_be_trained_alone(tmp_path: Path) -> None:
    sizes = replace(SMALL_MOTION, rotation=True, ed_referenced=True)
    settings = replace(motion_settings(1), sizes=sizes, trainable=Trainable.ROTATION)
    unknown = beating_case(cavities=(14.0, 11.0, 9.0))
    known = replace(unknown, motion=torch.zeros(3, 3, 3, 32, 32, dtype=torch.float16))

    def train(*cases: TrainingCase) -> CardioMorphNet:
        segnet = build_segnet(SMALL_SEGNET)
        return train_motion(cases, [], segnet=segnet, settings=settings, monitor=monitor(tmp_path, []), start=model)

    model = build_motion(sizes)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = train(known, unknown)
    changed = {name for name, weight in trained.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("rotation_net.") for name in changed)
    with pytest.raises(ManifestError, match="no case's motion is known"):
        train(unknown)


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
