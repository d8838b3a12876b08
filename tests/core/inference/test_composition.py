"""Motion between frames from stored velocities: composed steps, or ED-referenced motion."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import GeometryError
from cmnet_core.inference.composition import field_between, fields_to_ed, without_folds
from cmnet_core.models.build import AnyMotionSizes
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.models.shape_motion_net import ShapeMotionSizes
from cmnet_core.registration.displacement import jacobian_determinant
from cmnet_core.types import MotionField, Spacing

TO_ED = ShapeMotionSizes(integration_steps=4)
TO_PREVIOUS = MotionSizes(output_level=1, integration_steps=4)
SPACING = Spacing(8.0, 1.5, 1.5)
ED, FRAMES = 1, 4
TO_ED_MM = {2: 3.0, 3: 9.0, 0: 6.0, 1: 0.6}
"""Displacement along x of each frame into ED; the cycle-consistency error is 0.6 mm."""


def velocities(sizes: AnyMotionSizes) -> Tensor:
    """Return velocities of frames 2, 3, 0 and 1 along x, in voxels of half the in-plane resolution."""
    order = list(TO_ED_MM.values())
    along = order if sizes.ed_referenced else [now - before for now, before in zip(order, [0.0, *order], strict=False)]
    result = torch.zeros(FRAMES, 3, 2, 8, 8)
    result[:, 2] = torch.tensor(along).view(-1, 1, 1, 1) / (2 * SPACING.x)
    return result


def along_x(field: MotionField) -> float:
    z, y, x = field.displacement_mm
    assert not z.any()
    assert not y.any()
    return float(x.mean())


@pytest.mark.parametrize("sizes", [TO_ED, TO_PREVIOUS])
def test_known_motion_is_returned_between_any_two_frames(sizes: AnyMotionSizes) -> None:
    given = velocities(sizes)
    fields = fields_to_ed(given, SPACING, ed=ED, sizes=sizes)
    assert [(field.fixed, field.moving) for field in fields] == [(2, ED), (3, ED), (0, ED), (1, ED)]
    assert [along_x(field) for field in fields] == pytest.approx(list(TO_ED_MM.values()), abs=1e-5)
    for moving, fixed, expected in ((ED, 3, 9.0), (3, ED, 0.6 - 9.0), (2, 0, 3.0), (ED, ED, 0.6)):
        field = field_between(given, SPACING, ed=ED, sizes=sizes, moving=moving, fixed=fixed)
        assert (field.moving, field.fixed) == (moving, fixed)
        assert along_x(field) == pytest.approx(expected, abs=1e-5)
        assert field.displacement_mm.shape == (3, 2, 16, 16)
    with pytest.raises(GeometryError, match="not among"):
        field_between(given, SPACING, ed=ED, sizes=sizes, moving=7, fixed=ED)


def test_motion_of_a_frame_into_itself_by_ed_is_zero() -> None:
    """The motion by ED is the motion into ED and then its inverse, up to interpolation."""
    generator = torch.Generator().manual_seed(3)
    knots = torch.randn(FRAMES, 3, 2, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(knots, (4, 24, 24), mode="trilinear", align_corners=True)
    given = smooth * torch.tensor([0.1, 1.0, 1.0]).view(1, 3, 1, 1, 1)
    sizes = replace(TO_ED, integration_steps=7)
    there = field_between(given, SPACING, ed=ED, sizes=sizes, moving=2, fixed=2).displacement_mm
    assert float(there[..., 8:-8, 8:-8].norm(dim=0).max()) < 0.2


def test_velocity_is_smoothed_only_where_it_folds() -> None:
    steep = torch.zeros(2, 3, 6, 24, 24)
    steep[0, :, :, 4:12, 4:12] = 2.0 * torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    steep[1, 2] = 0.5
    unfolded = without_folds(steep, sizes=TO_ED)
    before, after = (fields_to_ed(part, SPACING, ed=ED, sizes=TO_ED)[0] for part in (steep, unfolded))
    assert int((jacobian_determinant(before) <= 0).sum()) > 0
    assert int((jacobian_determinant(after) <= 0).sum()) == 0
    assert torch.equal(unfolded[1], steep[1])
    assert not unfolded[0, :, :, 20:].any()
    assert float(unfolded[0].std()) > 0.05


def test_inverse_motion_does_not_fold() -> None:
    steep = torch.zeros(FRAMES, 3, 6, 24, 24)
    steep[0, :, :, 4:12, 4:12] = 2.0 * torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    unfolded = without_folds(steep, sizes=TO_ED)
    bare = fields_to_ed(-unfolded, SPACING, ed=ED, sizes=TO_ED)[0]
    assert int((jacobian_determinant(bare) <= 0).sum()) > 0
    back = field_between(unfolded, SPACING, ed=ED, sizes=TO_ED, moving=2, fixed=ED)
    assert int((jacobian_determinant(back) <= 0).sum()) == 0
    # Far from the folds it equals the exponential of the negated velocity.
    torch.testing.assert_close(back.displacement_mm[..., 40:], bare.displacement_mm[..., 40:])
    assert float(back.displacement_mm.std()) > 0.1
