"""Refinement increases the overlap of segmentations without folds, and closing a cycle reduces its drift."""

import torch
from torch import Tensor
from torch.nn import functional

from cmnet_core.inference.refinement import Refinement, close_cycle, refine
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes
from cmnet_core.models.layers import upsample_displacement
from cmnet_core.registration.displacement import compose_displacements, exponential, volume_change, warp
from cmnet_core.stats.metrics import dice_pct
from cmnet_core.types import Spacing
from tests.phantoms import beating_circles

SIZES = MotionSizes(integration_steps=5)
SPACING = Spacing(8.0, 1.5, 1.5)


def beating_shapes(*, frames: int) -> list[Tensor]:
    _, labels = beating_circles(frames=frames, slices=3, size=64, spacing=SPACING, lv_mm=18.0)
    return list(functional.one_hot(labels.labels.long(), 4).movedim(-1, 1).float())


def round_the_cycle(velocities: Tensor) -> list[Tensor]:
    composed: list[Tensor] = []
    for velocity in velocities:
        step = upsample_displacement(exponential(velocity[None], steps=5), factor=2)
        composed.append(compose_displacements(step, composed[-1]) if composed else step)
    return composed


def test_refinement_increases_dice_without_folds() -> None:
    shapes = beating_shapes(frames=4)
    refined = refine(torch.zeros(4, 3, 3, 32, 32), shapes, SPACING, sizes=SIZES, settings=Refinement(20))
    composed = round_the_cycle(refined)
    es = shapes[2].argmax(0).to(torch.uint8)
    for label in (Label.LV, Label.MYO):
        before = dice_pct(shapes[0].argmax(0).to(torch.uint8), es, label)
        after = dice_pct(warp(shapes[0][None], composed[1])[0].argmax(0).to(torch.uint8), es, label)
        assert before is not None
        assert after is not None
        assert after > max(88.0, before + 15.0)
    assert min(float(volume_change(field).min()) for field in composed) > 0.0


def test_refinement_without_iterations_returns_the_velocities() -> None:
    velocities = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert refine(velocities, beating_shapes(frames=2), SPACING, sizes=SIZES, settings=Refinement(0)) is velocities


def test_close_cycle_reduces_the_cycle_consistency_error() -> None:
    generator = torch.Generator().manual_seed(2)
    knots = torch.randn(6, 3, 2, 4, 4, generator=generator)
    velocities = functional.interpolate(knots, (4, 32, 32), mode="trilinear", align_corners=True)
    velocities *= torch.tensor([0.05, 0.6, 0.6]).view(1, 3, 1, 1, 1)

    def drift(steps: Tensor) -> float:
        return float(round_the_cycle(steps)[-1][..., 8:-8, 8:-8].norm(dim=1).mean())

    closed = close_cycle(velocities, sizes=SIZES, iterations=3)
    assert drift(closed) < 0.05 * drift(velocities)
    assert torch.equal(close_cycle(velocities, sizes=SIZES, iterations=0), velocities)
