"""Training: it learns, it closes the cycle, and it goes on where it was stopped."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.errors import LabelError, ManifestError
from cmnet_core.imaging.augmentation import AugmentationRanges, draw_view, view_image
from cmnet_core.models import losses
from cmnet_core.models.build import MotionSizes, SegNetSizes, build_motion, build_segnet
from cmnet_core.models.cardiomorphnet import MAX_MOTION_VOXELS, CardioMorphNet, iterate_cycle
from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import locate_lv, rotation_velocity
from cmnet_core.registration.displacement import exponential, warp
from cmnet_core.training.cycle_loss import ExtraTerm, TrainingCycle, cycle_loss, rotation_loss
from cmnet_core.training.loop import (
    Decay,
    EpochRecord,
    Schedule,
    TrainingMonitor,
    TrainingSample,
    TrainingTask,
    run_training,
)
from cmnet_core.training.motion_settings import LossWeights, MotionTraining, Trainable
from cmnet_core.training.motion_stage import METRICS as MOTION_FIGURES
from cmnet_core.training.motion_stage import draw_cycle_frames, network_inputs, train_motion
from cmnet_core.training.segnet_stage import METRICS as SEGNET_FIGURES
from cmnet_core.training.segnet_stage import SegNetTraining, train_segnet, validate_segnet
from cmnet_core.training.state import read_progress
from cmnet_core.training.training_case import TrainingCase, training_case
from cmnet_core.types import CineSequence, LabelSequence, Spacing

STILL = AugmentationRanges(*(0.0,) * len(fields(AugmentationRanges)))
SMALL_SEGNET = SegNetSizes(widths=(8, 16, 16), through_plane_from=1)
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


def monitor(folder: Path, records: list[EpochRecord], *, resume: bool = False) -> TrainingMonitor:
    return TrainingMonitor(folder / "state.safetensors", resume, lambda done, of: None, records.append)


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
        random_crop_probability=0.0,
        window=(64, 64),
        sizes=SMALL_SEGNET,
        augmentation=STILL,
    )


def test_segnet_overfits_one_batch(tmp_path: Path) -> None:
    case, records = beating_case(cavities=(14.0, 9.0)), list[EpochRecord]()
    train_segnet([case] * 30, [case], settings=segnet_settings(3), monitor=monitor(tmp_path, records), start=None)
    figures = records[-1].validation
    assert min(value for name, value in figures.items() if name.endswith("_pct")) > 97
    assert all(figures[f"hd95_{name}_es_mm"] < 2 for name in ("lv", "myo", "rv"))
    assert (figures["not_found_ed"], figures["not_found_es"]) == (0, 0)
    assert set(figures) == set(SEGNET_FIGURES)


def test_every_member_of_segnet_learns(tmp_path: Path) -> None:
    case, settings = beating_case(cavities=(14.0, 9.0)), segnet_settings(3)
    settings = replace(settings, sizes=replace(SMALL_SEGNET, members=2))
    both = train_segnet([case] * 30, [], settings=settings, monitor=monitor(tmp_path, []), start=None)
    for member in both.members:
        alone = build_segnet(SMALL_SEGNET)
        alone.members[0] = member
        assert validate_segnet(alone, [case], window=settings.window)["dice_pct"] > 97


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
    figures = records[-1].validation
    assert figures["dice_lv_still_pct"] < 65
    assert figures["dice_lv_ed2es_pct"] > 93
    assert figures["dice_myo_ed2es_pct"] > 80
    assert set(MOTION_FIGURES) <= set(figures)


def test_doubt_can_learn_alone(tmp_path: Path) -> None:
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
    # It began almost without doubt; where shapes leave the motion open, the prior asks for some.
    shapes = torch.nn.functional.one_hot(case.labels.long(), 4).movedim(-1, 2).float()
    with torch.no_grad():
        cycle_step = next(iterate_cycle(trained, network_inputs(case.voxels, shapes, SMALL_MOTION), Stacks((3,)), None))
    assert float(cycle_step.output.motion.variance.mean()) > 5.0 * math.exp(-5.0)


def test_a_training_stopped_within_an_epoch_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0, 12.0))
    segnet = build_segnet(SMALL_SEGNET).eval()

    class Stopped(Exception):  # noqa: N818 - not an error
        pass

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Stopped

    def train(folder: Path, *, resume: bool, stop_early: bool) -> tuple[dict[str, Tensor], list[EpochRecord]]:
        records = list[EpochRecord]()
        watching = replace(monitor(folder, records, resume=resume), save_interval_s=0.0)
        watching = replace(watching, on_batch=stop) if stop_early else watching
        settings = motion_settings(2)
        model = train_motion([case] * 3, [case], segnet=segnet, settings=settings, monitor=watching, start=None)
        return model.state_dict(), records

    whole, told = train(tmp_path / "whole", resume=False, stop_early=False)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", resume=False, stop_early=True)
    progress = read_progress(tmp_path / "parts" / "state.safetensors")
    assert (progress.epoch, progress.batch) == (0, 2)
    resumed, told_again = train(tmp_path / "parts", resume=True, stop_early=False)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [record.loss for record in told] == [record.loss for record in told_again]


def counted(schedule: Schedule, figures: list[float], folder: Path) -> tuple[nn.Linear, list[EpochRecord]]:
    """Train one weight, which grows step by step, against validation figures that are given."""
    model, records = nn.Linear(1, 1, bias=False), list[EpochRecord]()
    nn.init.zeros_(model.weight)

    def loss(_: list[TrainingSample]) -> dict[str, Tensor]:
        return {"loss": -model.weight.sum()}

    def validate(_: nn.Module) -> dict[str, float]:
        return {"dice_pct": figures[len(records)]}

    run_training(model, TrainingTask(1, 1, loss, validate), schedule=schedule, monitor=monitor(folder, records))
    return model, records


def test_training_ends_when_patience_does_and_keeps_the_best_weights(tmp_path: Path) -> None:
    plain = Schedule(9, 0.1, 0.0, seed=1, ema_decay=0.0, decay=Decay.PLATEAU)
    monitored = replace(plain, monitored="dice_pct", patience=3)
    model, records = counted(monitored, [50.0, 70.0, 69.0, 70.0, 60.0, 90.0], tmp_path / "monitored")
    assert len(records) == 5
    best, _ = counted(replace(plain, epochs=2), [0.0] * 2, tmp_path / "two")
    last, _ = counted(replace(plain, epochs=5), [0.0] * 5, tmp_path / "five")
    assert model.weight.item() == best.weight.item() != last.weight.item()


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    model, turns = nn.Linear(1, 1, bias=False), iter([1.0, math.inf, 1.0])
    nn.init.zeros_(model.weight)
    schedule = Schedule(3, 0.1, 0.0, seed=1, ema_decay=0.0, decay=Decay.PLATEAU)

    def loss(_: list[TrainingSample]) -> dict[str, Tensor]:
        return {"loss": -model.weight.sum() * next(turns)}

    run_training(model, TrainingTask(1, 1, loss, lambda _: {}), schedule=schedule, monitor=monitor(tmp_path, []))
    assert 0.0 < model.weight.item() <= 0.2


def test_a_plateau_lowers_the_learning_rate_as_pytorch_does(tmp_path: Path) -> None:
    figures = [50.0, *[40.0] * 12, 60.0, *[55.0] * 12]
    schedule = Schedule(len(figures), 0.1, 0.0, seed=1, decay=Decay.PLATEAU, monitored="dice_pct")
    _, records = counted(schedule, figures, tmp_path)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    judge = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "max", threshold=0.0)
    for record, figure in zip(records, figures, strict=True):
        assert record.learning_rate == pytest.approx(optimiser.param_groups[0]["lr"])
        judge.step(figure)


def test_steps_that_are_worked_out_again_have_the_same_gradients() -> None:
    case = beating_case(cavities=(14.0, 11.0, 9.0))
    model = build_motion(SMALL_MOTION)
    shapes = [torch.nn.functional.one_hot(case.mask(t).long(), 4).movedim(-1, 1).float() for t in range(3)]
    cycle = TrainingCycle(network_inputs(case.voxels, torch.stack(shapes), SMALL_MOTION), shapes, None, case.spacing)
    found = []
    for gradient_checkpointing in (False, True):
        model.zero_grad()
        settings = replace(motion_settings(1), gradient_checkpointing=gradient_checkpointing)
        parts = cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(4))
        parts["loss"].backward()
        found.append((parts["loss"].item(), [weight.grad.clone() for weight in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(kept, again) for kept, again in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("turned", [0.0, 1.0])
def test_quarter_turns_show_every_voxel_as_it_is(turned: float) -> None:
    ranges = replace(STILL, quarter_turns=turned)
    image = torch.rand(1, 2, 16, 16)
    views = [draw_view((7.5, 7.5), 2, ranges, torch.Generator().manual_seed(seed)) for seed in range(12)]
    turns = [torch.rot90(image, times, (2, 3)) for times in range(4)]
    seen = [view_image(image, view, (16, 16)) for view in views]
    which = {[torch.allclose(one, turn, atol=1e-4) for turn in turns].index(True) for one in seen}
    assert which == ({0, 1, 2, 3} if turned else {0})


def still_model(sizes: MotionSizes = SMALL_MOTION) -> CardioMorphNet:
    """A motion network that moves nothing and is sure of it."""
    model = build_motion(sizes)
    for head in (model.deform_net.mean, model.deform_net.factor):
        torch.nn.init.zeros_(head.weight)
    torch.nn.init.constant_(model.deform_net.log_variance.bias, -1e4)
    return model.requires_grad_(requires_grad=False)


def soft_cycle(frames: list[Tensor]) -> TrainingCycle:
    """A ventricle with soft edges, so that the little noise of the posterior's samples hardly counts."""
    hard = [one_hot(ring(cavity=cavity, wall=5.0, size=64)) for cavity in (14.0, 11.0, 9.0)]
    shapes = [torch.nn.functional.avg_pool2d(shape, 7, stride=1, padding=3) + 1e-3 for shape in hard]
    return TrainingCycle(frames, shapes, None, Spacing(8.0, 1.5, 1.5))


def terms_of(
    model: CardioMorphNet, cycle: TrainingCycle, *, extra: ExtraTerm | None = None, weights: LossWeights | None = None
) -> dict[str, Tensor]:
    settings = replace(motion_settings(1, weights=weights), pyramid_levels=1, label_smoothing=0.0)
    return cycle_loss(model, cycle, settings=settings, generator=torch.Generator().manual_seed(0), extra=extra)


def test_end_diastole_is_supervised_when_the_cycle_closes() -> None:
    """With a model that stands still the shape term is the mismatch of neighbouring frames, ED among them."""
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    parts = terms_of(still_model(), cycle)
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = sum(float(losses.kl_segmentation(cycle.segmentations[a], cycle.segmentations[b])) for a, b in pairs)
    assert float(parts["shape"]) == pytest.approx(expected, rel=0.02)


def test_no_term_compares_the_images_of_two_frames_but_one_that_is_brought_along() -> None:
    model = still_model()
    alike, unlike = (
        soft_cycle([torch.full((1, 4, 64, 64), brightness[t]) for t in range(3)])
        for brightness in ((0.5, 0.5, 0.5), (0.1, 0.9, 0.4))
    )
    before, after = terms_of(model, alike), terms_of(model, unlike)
    for name in ("shape", "composed", "endpoint", "closing", "smoothness"):
        assert torch.allclose(before[name], after[name], rtol=1e-3, atol=1e-6), name
    seen: list[int] = []

    def brought(cycle: TrainingCycle, t: int, displacement: Tensor, composed: Tensor) -> Tensor:
        seen.append(t)
        assert displacement.shape == composed.shape == (1, 3, 1, 64, 64)
        return (cycle.frames[t % 3] - cycle.frames[t - 1]).square().mean()

    more = terms_of(model, unlike, extra=brought)
    assert seen == [1, 2, 3]
    assert float(more["extra"]) == pytest.approx(0.64 + 0.25 + 0.09)
    assert float(more["loss"] - after["loss"]) == pytest.approx(0.98, rel=1e-4)


def test_the_inverse_of_an_anchored_motion_is_asked_to_bring_each_frame_back() -> None:
    cycle = soft_cycle([torch.zeros(1, 4, 64, 64)] * 3)
    model, asked = still_model(replace(SMALL_MOTION, ed_referenced=True)), LossWeights(inverse=1.0, folding=1.0)
    parts = terms_of(model, cycle, weights=asked)
    at_ed = [cycle.segmentations[0]] * 3
    pairs = list(zip([cycle.segmentations[1], cycle.segmentations[2], cycle.segmentations[0]], at_ed, strict=True))
    apart = sum(float(losses.kl_segmentation(*pair)) for pair in pairs)
    missed = sum(float(losses.dice_loss(*pair)) for pair in pairs)
    assert float(parts["inverse"]) == pytest.approx(apart + LossWeights().overlap * missed, rel=0.02)
    assert float(parts["folding"]) == 0.0
    assert "inverse" not in terms_of(model, cycle, weights=LossWeights(folding=0.0))
    assert "inverse" not in terms_of(still_model(), cycle, weights=asked)


def test_rotation_can_learn_alone(tmp_path: Path) -> None:
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


def test_a_missed_rotation_costs_its_arc_of_the_epicardium() -> None:
    """A network that says 0 where the heart has turned by a fifth of a radian, at 19 voxels of 1.5 mm."""
    model = build_motion(replace(SMALL_MOTION, rotation=True))
    assert model.rotation_net is not None
    for weight in (model.rotation_net.shifts.weight, model.rotation_net.sharpness):
        torch.nn.init.zeros_(weight)
    shape = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    frame = torch.cat([torch.zeros(1, 1, 64, 64), shape[:, 1:]], dim=1)
    place = locate_lv(frame, Stacks((1,)))
    (turned,) = Stacks((1,)).volumes(rotation_velocity(torch.tensor([0.2]), place, (64, 64), scale=1))
    motion = [torch.zeros(3, 1, 64, 64), exponential(turned, steps=7)[0]]
    moved = TrainingCycle([frame, frame], [shape, shape], motion, Spacing(8.0, 1.5, 1.5))
    assert rotation_loss(model, moved)["loss"].item() == pytest.approx(0.2 * 19 * 1.5, rel=0.03)


def test_what_a_cycle_lacks_to_close_is_penalised_in_millimetres() -> None:
    """Every step leads 0.3 voxels of the half-resolution grid down the rows: 3 steps x 0.3 x 2 x 1.5 mm."""
    model = still_model()
    bias = math.atanh(0.3 / MAX_MOTION_VOXELS) * MAX_MOTION_VOXELS
    model.deform_net.mean.bias.copy_(torch.tensor([0.0, bias, 0.0]))
    parts = terms_of(model, soft_cycle([torch.zeros(1, 4, 64, 64)] * 3))
    assert float(parts["closing"]) == pytest.approx(2.7, rel=0.03)


def one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 0)[None].float()


def test_a_warp_that_fits_costs_nothing() -> None:
    shape = one_hot(ring(cavity=14.0, wall=5.0, size=64))
    (volume,) = Stacks((1,)).volumes(shape)
    moved = Stacks((1,)).slices([warp(volume, torch.zeros(1, 3, 1, 64, 64))])
    assert float(losses.kl_segmentation(moved, shape)) < 1e-5


@pytest.mark.parametrize(("ed", "es"), [(0, 9), (20, 3)])
def test_drawn_frames_go_round_the_cycle(ed: int, es: int) -> None:
    frames = draw_cycle_frames(25, ed=ed, es=es, count=6, generator=torch.Generator().manual_seed(1))
    ahead = [(frame - ed) % 25 for frame in frames]
    assert len(frames) == 6
    assert frames[0] == ed
    assert frames[3] == es
    assert ahead == sorted(ahead)


def test_two_frames_are_each_drawn_once() -> None:
    assert draw_cycle_frames(2, ed=0, es=1, count=6, generator=torch.Generator()) == [0, 1]


def test_a_case_without_masks_at_both_phases_is_refused() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    cine = CineSequence(torch.rand(3, 2, 32, 32), Spacing(8.0, 1.5, 1.5), affine, None, 0, 2)
    labels = LabelSequence(torch.ones(1, 2, 32, 32, dtype=torch.uint8), (0,), cine.spacing, affine)
    with pytest.raises(LabelError, match="ES is 2"):
        training_case(cine, labels, spacing_mm=1.5)
