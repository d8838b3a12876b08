"""Training: it learns, it closes the cycle, and it goes on where it was stopped."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmnet_core import losses
from cmnet_core.augmentation import AugmentationRanges
from cmnet_core.errors import LabelError
from cmnet_core.models.build import MotionSizes, SegNetSizes, build_motion, build_segnet
from cmnet_core.models.layers import Stacks
from cmnet_core.motion import warp
from cmnet_core.training.cases import TrainingCase, training_case
from cmnet_core.training.loop import EpochRecord, Schedule, Watch
from cmnet_core.training.motion import Cycle, LossWeights, MotionTraining, arc_frames, cycle_loss, train_motion
from cmnet_core.training.segnet import SegNetTraining, train_segnet
from cmnet_core.types import CineSequence, LabelSequence, Spacing

STILL = AugmentationRanges(*(0.0,) * len(fields(AugmentationRanges)))
SMALL_SEGNET = SegNetSizes(widths=(8, 16, 16), deep_from=1)
SMALL_MOTION = MotionSizes(
    features=(4, 8, 8, 8), hidden=(8, 8), decoder=(8, 8, 8, 4), deform=(8, 16, 16, 16, 16), integration_steps=4
)


def ring(*, cavity: float, wall: float, size: int) -> Tensor:
    """Labels of a slice with a round ventricle, and a block beside it as the right one."""
    y, x = torch.meshgrid(*(torch.arange(size) - (size - 1) / 2,) * 2, indexing="ij")
    radius = torch.hypot(y, x)
    labels = torch.where(radius < cavity + wall, 2, 0)
    labels = torch.where(radius < cavity, 1, labels)
    return torch.where((labels == 0) & (y.abs() < 8) & (x > 0) & (x < cavity + wall + 8), 3, labels).to(torch.uint8)


def beating_case(*, cavities: tuple[float, ...], size: int = 64) -> TrainingCase:
    """A ventricle whose cavity has one radius a frame; bright blood, dark wall."""
    labels = torch.stack([ring(cavity=cavity, wall=5.0, size=size) for cavity in cavities])
    look = torch.tensor([0.3, 0.9, 0.1, 0.8])[labels.long()]
    depth = (1, 3, 1, 1)
    es = cavities.index(min(cavities))
    return TrainingCase(
        look[:, None].repeat(depth),
        labels[:, None].repeat(depth),
        tuple(range(len(cavities))),
        Spacing(8.0, 1.5, 1.5),
        ed=0,
        es=es,
        centre=((size - 1) / 2, (size - 1) / 2),
    )


def watch(folder: Path, records: list[EpochRecord], *, resume: bool = False) -> Watch:
    return Watch(folder / "state.safetensors", resume, lambda done, of: None, records.append)


def motion_settings(epochs: int, *, weights: LossWeights | None = None) -> MotionTraining:
    return MotionTraining(
        schedule=Schedule(epochs, 3e-3, 0.0, seed=3),
        pyramid_levels=3,
        window=(64, 64),
        weights=weights or LossWeights(),
        sizes=SMALL_MOTION,
        augmentation=STILL,
    )


def segnet_settings(epochs: int) -> SegNetTraining:
    return SegNetTraining(
        schedule=Schedule(epochs, 1e-2, 0.0, seed=3),
        anywhere=0.0,
        window=(64, 64),
        sizes=SMALL_SEGNET,
        augmentation=STILL,
    )


def test_segnet_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_segnet([case] * 30, [case], settings=segnet_settings(3), watch=watch(tmp_path, records), start=None)
    assert min(records[-1].validation.values()) > 97


def test_motion_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_motion(
        [case] * 40,
        [case],
        segnet=build_segnet(SMALL_SEGNET),
        settings=motion_settings(3),
        watch=watch(tmp_path, records),
        start=None,
    )
    figures = records[-1].validation
    assert figures["dice_lv_still_pct"] < 65
    assert figures["dice_lv_ed2es_pct"] > 93
    assert figures["dice_myo_ed2es_pct"] > 80


def test_a_stopped_training_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0, 12.0))
    segnet = build_segnet(SMALL_SEGNET).eval()

    class Stopped(Exception):  # noqa: N818 - not an error
        pass

    def stop(_: EpochRecord) -> None:
        raise Stopped

    def train(folder: Path, *, resume: bool, stop_early: bool) -> dict[str, Tensor]:
        watching = watch(folder, [], resume=resume)
        watching = replace(watching, on_epoch=stop) if stop_early else watching
        settings = motion_settings(2)
        model = train_motion([case], [case], segnet=segnet, settings=settings, watch=watching, start=None)
        return model.state_dict()

    whole = train(tmp_path / "whole", resume=False, stop_early=False)
    with pytest.raises(Stopped):
        train(tmp_path / "halves", resume=False, stop_early=True)
    halves = train(tmp_path / "halves", resume=True, stop_early=False)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_end_diastole_is_supervised_when_the_cycle_closes() -> None:
    """With a model that stands still the shape term is the mismatch of neighbouring frames, ED among them."""
    hard = [one_hot(ring(cavity=cavity, wall=5.0, size=64)) for cavity in (14.0, 11.0, 9.0)]
    # Soft edges, so that the little noise of the posterior's samples hardly counts.
    shapes = [torch.nn.functional.avg_pool2d(shape, 7, stride=1, padding=3) + 1e-3 for shape in hard]
    frames = [torch.zeros(1, 4, 64, 64) for _ in shapes]
    settings = replace(motion_settings(1), pyramid_levels=1, softening=0.0)
    model = build_motion(SMALL_MOTION)
    for head in (model.deform_net.mean, model.deform_net.factor):
        torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(model.deform_net.log_variance.bias, -1e4)
    model.requires_grad_(False)
    cycle = Cycle(frames, shapes, None, Spacing(8.0, 1.5, 1.5))
    parts = cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(0))
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = sum(float(losses.shape_divergence(shapes[a], shapes[b])) for a, b in pairs)
    assert float(parts["shape"]) == pytest.approx(expected, rel=0.02)


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0)[None].float()


def test_a_warp_that_fits_costs_nothing() -> None:
    shape = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    (volume,) = Stacks((1,)).volumes(shape)
    moved = Stacks((1,)).slices([warp(volume, torch.zeros(1, 3, 1, 64, 64))])
    assert float(losses.shape_divergence(moved, shape)) < 1e-5


@pytest.mark.parametrize(("ed", "es"), [(0, 9), (20, 3)])
def test_drawn_frames_go_round_the_cycle(ed: int, es: int) -> None:
    frames = arc_frames(25, ed=ed, es=es, count=6, generator=torch.Generator().manual_seed(1))
    ahead = [(frame - ed) % 25 for frame in frames]
    assert len(frames) == 6
    assert frames[0] == ed
    assert frames[3] == es
    assert ahead == sorted(ahead)


def test_two_frames_are_each_drawn_once() -> None:
    assert arc_frames(2, ed=0, es=1, count=6, generator=torch.Generator()) == [0, 1]


def test_a_case_without_masks_at_both_phases_is_refused() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    cine = CineSequence(torch.rand(3, 2, 32, 32), Spacing(8.0, 1.5, 1.5), affine, None, 0, 2)
    labels = LabelSequence(torch.ones(1, 2, 32, 32, dtype=torch.uint8), (0,), cine.spacing, affine)
    with pytest.raises(LabelError, match="ES is 2"):
        training_case(cine, labels, spacing_mm=1.5)
