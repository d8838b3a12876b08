"""Slices, orientation, crop and contours of the images on a subject's page."""

import numpy as np
import pytest

from cmnet_cli.report.data import slice_geometry
from cmnet_core.labels import Label

IDENTITY = np.eye(4)


def disc_labels(*, slices=6, size=40, radius=6):
    """Discs: an LV inside a ring of myocardium, an RV beside it; the first slice is the largest."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((slices, size, size), np.uint8)
    for z in range(slices):
        r = radius * (1 - 0.6 * z / max(slices - 1, 1))
        distance = np.hypot(y - size / 2, x - size / 2)
        labels[z][np.hypot(y - size / 2, x - size / 2 + 2 * r) < r] = Label.RV
        labels[z][distance < r + 3] = Label.MYO
        labels[z][distance < r] = Label.LV
    return labels


def one_hot(labels):
    return np.stack([labels == label for label in slice_geometry.HEART]).astype(np.float32)


def test_levels_run_from_base_to_apex():
    membership = one_hot(disc_labels(slices=9))
    names = [(level.name, level.index) for level in slice_geometry.choose_slices(membership)]
    assert names == [("basal", 1), ("mid", 4), ("apical", 7)]
    assert [level.index for level in slice_geometry.choose_slices(membership[:, ::-1])] == [7, 4, 1]


@pytest.mark.parametrize(("slices", "names"), [(1, ["mid"]), (2, ["basal", "apical"]), (3, ["basal", "mid", "apical"])])
def test_a_short_stack_has_fewer_levels(slices, names):
    levels = slice_geometry.choose_slices(one_hot(disc_labels(slices=slices)))
    assert len({level.index for level in levels}) == len(levels) == len(names)


def test_a_stack_without_a_ventricle_has_no_levels():
    assert slice_geometry.choose_slices(np.zeros((3, 4, 8, 8), np.float32)) == ()


def test_labels_are_resampled_between_grids_of_different_origin_and_spacing():
    labels = disc_labels(slices=4, size=40)
    finer = np.diag([1.0, 0.5, 0.5, 1.0])
    finer[:3, 3] = (0.0, 5.0, 5.0)
    membership = slice_geometry.memberships(labels, labels_affine=IDENTITY, image_affine=finer, shape=(4, 60, 60))
    inside = membership[0] > 0.5
    np.testing.assert_array_equal(inside[:, ::2, ::2], (labels == Label.LV)[:, 5:35, 5:35])


def test_an_outline_encloses_the_area_of_its_disc():
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(y - 30.0, x - 33.0) < 12).astype(np.float32)
    empty = np.zeros_like(disc)
    outlined = {outline.structure: outline.lines for outline in slice_geometry.contours(np.stack([disc, empty, empty]))}
    (line,) = outlined[Label.LV]
    area = 0.5 * abs(np.sum(line[:-1, 0] * line[1:, 1] - line[1:, 0] * line[:-1, 1]))
    assert area == pytest.approx(disc.sum(), rel=0.03)
    np.testing.assert_allclose(line.mean(axis=0), (33, 30), atol=0.3)
    assert not outlined[Label.RV]


def test_an_outline_is_closed_at_the_edge_of_the_image():
    half = np.zeros((3, 20, 20), np.float32)
    half[0, :, :7] = 1.0
    (line,) = slice_geometry.contours(half)[1].lines
    np.testing.assert_allclose(line[0], line[-1])


@pytest.mark.parametrize("margin", [0, 3, 100])
def test_the_crop_contains_the_heart_and_stays_within_the_image(margin):
    membership = np.zeros((3, 2, 50, 60), np.float32)
    membership[0, 0, 40:48, 3:20] = 1.0
    box = slice_geometry.heart_box(membership, margin=margin)
    assert 0 <= box.top <= 40
    assert 48 <= box.bottom <= 50
    assert 0 <= box.left <= 3
    assert 20 <= box.right <= 60


def grid(*, along_y, along_x):
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = np.cross(along_y, along_x), along_y, along_x
    return affine


# Directions in a heart that points left, anterior and inferior: septum to lateral, and anterior to inferior wall.
TO_SIDE, TO_LOWER = np.array([-0.7, -0.7, 0.0]), np.array([0.35, -0.35, -0.87])


@pytest.mark.parametrize(
    ("along_y", "along_x"),
    [
        (TO_LOWER, TO_SIDE), (-TO_LOWER, TO_SIDE), (TO_LOWER, -TO_SIDE), (-TO_LOWER, -TO_SIDE),
        (TO_SIDE, TO_LOWER), (-TO_SIDE, TO_LOWER), (TO_SIDE, -TO_LOWER), (-TO_SIDE, -TO_LOWER),
    ],
)  # fmt: skip
def test_the_septum_is_left_and_the_anterior_wall_on_top_in_any_storage_order(along_y, along_x):
    y, x = np.mgrid[-2:3, -2:3]
    position = y[..., None] * along_y + x[..., None] * along_x
    oriented = [
        slice_geometry.standard_orientation(grid(along_y=along_y, along_x=along_x)).apply(position @ axis)
        for axis in (TO_SIDE, TO_LOWER)
    ]
    assert np.all(np.diff(oriented[0], axis=1) > 0)
    assert np.all(np.diff(oriented[1], axis=0) > 0)


def test_a_file_without_patient_orientation_is_shown_as_it_is():
    assert slice_geometry.standard_orientation(
        grid(along_y=(0, -1, 0), along_x=(-1, 0, 0))
    ) == slice_geometry.Orientation(False, False, False)


def test_an_image_without_contrast_is_scaled():
    grey = slice_geometry.grey_levels(np.full((4, 4), 7.0))
    assert grey.dtype == np.uint8
