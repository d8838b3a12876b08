"""The standard orientation: the same stack however it is stored, by its affine."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.io.orientation import StackOrientation, is_unplaced, standard_orientation
from cmnet_core.types import CineSequence, Spacing

SPACING = Spacing(8.0, 1.25, 1.5)
ORDERS = [StackOrientation(*order) for order in itertools.product((False, True), repeat=4)]


def oblique() -> Tensor:
    """Return the affine of a usual short axis: base to apex, anterior to inferior, septum to lateral wall."""
    apex = torch.tensor([-0.62, 0.55, -0.56], dtype=torch.float64)
    apex /= apex.norm()
    lateral = torch.tensor([-0.75, -0.66, 0.0], dtype=torch.float64)
    lateral -= (lateral @ apex) * apex
    lateral /= lateral.norm()
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.stack([apex, torch.linalg.cross(lateral, apex), lateral], dim=1)
    affine[:3, :3] *= torch.tensor(SPACING.zyx, dtype=torch.float64)
    affine[:3, 3] = torch.tensor([20.0, -35.0, 70.0])
    return affine


def transversal() -> Tensor:
    """Return an affine as those of ACDC: transversal axes, slices to the head."""
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SPACING.z, -SPACING.y, -SPACING.x, 1.0
    return affine


def cine_of(affine: Tensor) -> CineSequence:
    voxels = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return CineSequence(voxels, SPACING, affine, None, None, None)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("affine", [oblique(), transversal()], ids=["oblique", "transversal"])
def test_every_order_of_storage_is_brought_to_the_same_stack(affine: Tensor, order: StackOrientation) -> None:
    usual = cine_of(affine)
    stored = order.orient_cine(usual)
    found = standard_orientation(stored.affine).orient_cine(stored)
    assert found.voxels.equal(usual.voxels)
    assert found.spacing == usual.spacing
    torch.testing.assert_close(found.affine, usual.affine)
    assert order.restore(stored.voxels).equal(usual.voxels)


@pytest.mark.parametrize("order", ORDERS)
def test_vectors_keep_their_direction_in_the_body(order: StackOrientation) -> None:
    vectors = torch.rand(2, 3, 3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = order.orient_vectors(vectors, 1)

    def in_body(field: Tensor, affine: Tensor) -> Tensor:
        return torch.einsum("ri,ticba->trcba", affine[:3, :3] / affine[:3, :3].norm(dim=0), field)

    usual = oblique()
    torch.testing.assert_close(
        in_body(turned, order.orient_affine(usual, (3, 5, 7))), order.orient(in_body(vectors, usual))
    )
    assert order.restore_vectors(turned, 1).equal(vectors)


def test_a_stack_that_is_rotated_in_plane_is_shown_as_usual() -> None:
    affine = oblique()
    y, x = affine[:3, 1].clone(), affine[:3, 2].clone()
    turn = math.radians(30.0)
    affine[:3, 1], affine[:3, 2] = y * math.cos(turn) + x * math.sin(turn), x * math.cos(turn) - y * math.sin(turn)
    assert standard_orientation(affine) == StackOrientation()


def test_without_an_orientation_the_image_is_taken_as_stored() -> None:
    identity = torch.diag(torch.tensor([8.0, 1.5, 1.5, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    assert is_unplaced(identity)
    assert standard_orientation(identity) == StackOrientation()
    reversed_rows = StackOrientation(rows_reversed=True).orient_affine(oblique(), (3, 5, 7))
    assert standard_orientation(reversed_rows) != StackOrientation()
    assert standard_orientation(reversed_rows, (QCFlag.ORIENTATION_MISSING,)) == StackOrientation()
