import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cmnet_cli.report.data import strata
from cmnet_cli.report.plot import bullseye, cohort_figures, colours, figures, overlay, svg
from cmnet_core.labels import Label

EYE = np.eye(4)


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
    return np.stack([labels == label for label in overlay.HEART]).astype(np.float32)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_png_is_read_back_by_an_independent_reader(grey):
    read = np.asarray(Image.open(io.BytesIO(svg.png(grey))))
    np.testing.assert_array_equal(read, grey)


def test_a_picture_in_colours_is_read_back_by_an_independent_reader():
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = np.asarray(Image.open(io.BytesIO(svg.indexed_png(steps, colours.palette()))).convert("RGBA"))
    np.testing.assert_array_equal(read[..., :3].reshape(-1, 3), colours.palette())
    assert read[..., 3].ravel().tolist() == [0, *[255] * 255]


def test_the_colour_scale_rises_evenly_in_grey_and_to_those_who_see_no_red_or_no_green():
    grey = colours.palette() @ (0.2126, 0.7152, 0.0722)
    # Red and green are one to them: Viénot, Brettel and Mollon 1999, in their first approximation.
    alike = colours.palette() @ (0.15, 0.75, 0.1)
    for lightness in (grey, alike):
        steps = np.diff(lightness[::16])
        assert steps.min() > 0.3 * steps.mean()


def test_segments_lie_as_the_aha_numbers_them():
    centres = {wedge.number: wedge.centre() for wedge in bullseye.wedges()}
    middle = 130
    assert centres[1][1] < centres[7][1] < centres[13][1] < middle < centres[15][1] < centres[10][1] < centres[4][1]
    assert max(centres[n][0] for n in (2, 3, 8, 9, 14)) < middle < min(centres[n][0] for n in (5, 6, 11, 12, 16))
    assert centres[2][1] < middle < centres[3][1]
    assert centres[6][1] < middle < centres[5][1]


def test_a_segment_that_is_not_known_is_not_coloured():
    drawn = bullseye.bullseye("Ecc", "%", dict.fromkeys(range(1, 16), -18.0), bullseye.Scale(0.0, -30.0))
    assert drawn.count('class="segment"') == 15
    assert "16 apical lateral: not known" in drawn
    assert drawn.count(">−18<") == 15


@given(
    st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=20),
    st.booleans(),
)
def test_an_axis_holds_all_values(values, from_zero):
    values = [abs(value) for value in values] if from_zero else values
    axis = svg.axis("volume", values, from_zero=from_zero)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert axis.low <= min(values) + slack
    assert axis.high >= max(values) - slack
    assert 2 <= len(axis.ticks) <= 12


def test_counts_have_no_fractions_beside_their_axis():
    assert svg.axis("subjects", [1, 2], from_zero=True, whole=True).ticks == (0.0, 1.0, 2.0)


def test_levels_run_from_the_wide_end_to_the_narrow_one():
    belongs = one_hot(disc_labels(slices=9))
    names = [(level.name, level.index) for level in overlay.choose_slices(belongs)]
    assert names == [("basal", 1), ("mid", 4), ("apical", 7)]
    assert [level.index for level in overlay.choose_slices(belongs[:, ::-1])] == [7, 4, 1]


@pytest.mark.parametrize(("slices", "names"), [(1, ["mid"]), (2, ["basal", "apical"]), (3, ["basal", "mid", "apical"])])
def test_a_short_stack_has_fewer_levels(slices, names):
    levels = overlay.choose_slices(one_hot(disc_labels(slices=slices)))
    assert len({level.index for level in levels}) == len(levels) == len(names)


def test_a_stack_without_a_ventricle_has_no_levels():
    assert overlay.choose_slices(np.zeros((3, 4, 8, 8), np.float32)) == ()


def test_labels_land_on_the_picture_wherever_the_two_grids_lie():
    labels = disc_labels(slices=4, size=40)
    finer = np.diag([1.0, 0.5, 0.5, 1.0])
    finer[:3, 3] = (0.0, 5.0, 5.0)
    belongs = overlay.memberships(labels, labels_affine=EYE, picture_affine=finer, shape=(4, 60, 60))
    inside = belongs[0] > 0.5
    np.testing.assert_array_equal(inside[:, ::2, ::2], (labels == Label.LV)[:, 5:35, 5:35])


def test_an_outline_encloses_the_area_of_its_disc():
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(y - 30.0, x - 33.0) < 12).astype(np.float32)
    empty = np.zeros_like(disc)
    outlined = {outline.structure: outline.lines for outline in overlay.contours(np.stack([disc, empty, empty]))}
    (line,) = outlined[Label.LV]
    area = 0.5 * abs(np.sum(line[:-1, 0] * line[1:, 1] - line[1:, 0] * line[:-1, 1]))
    assert area == pytest.approx(disc.sum(), rel=0.03)
    np.testing.assert_allclose(line.mean(axis=0), (33, 30), atol=0.3)
    assert not outlined[Label.RV]


def test_an_outline_is_closed_at_the_edge_of_the_picture():
    half = np.zeros((3, 20, 20), np.float32)
    half[0, :, :7] = 1.0
    (line,) = overlay.contours(half)[1].lines
    np.testing.assert_allclose(line[0], line[-1])


@pytest.mark.parametrize("margin", [0, 3, 100])
def test_the_box_holds_the_heart_and_stays_in_the_picture(margin):
    belongs = np.zeros((3, 2, 50, 60), np.float32)
    belongs[0, 0, 40:48, 3:20] = 1.0
    box = overlay.heart_box(belongs, margin=margin)
    assert 0 <= box.top <= 40
    assert 48 <= box.bottom <= 50
    assert 0 <= box.left <= 3
    assert 20 <= box.right <= 60


def grid(*, along_y, along_x):
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = np.cross(along_y, along_x), along_y, along_x
    return affine


# Through a heart that points to the left, front and feet: from septum to side wall, and from front to lower wall.
TO_SIDE, TO_LOWER = np.array([-0.7, -0.7, 0.0]), np.array([0.35, -0.35, -0.87])


@pytest.mark.parametrize(
    ("along_y", "along_x"),
    [
        (TO_LOWER, TO_SIDE), (-TO_LOWER, TO_SIDE), (TO_LOWER, -TO_SIDE), (-TO_LOWER, -TO_SIDE),
        (TO_SIDE, TO_LOWER), (-TO_SIDE, TO_LOWER), (TO_SIDE, -TO_LOWER), (-TO_SIDE, -TO_LOWER),
    ],
)  # fmt: skip
def test_the_septum_is_on_the_left_and_the_front_wall_on_top_however_the_file_is_stored(along_y, along_x):
    y, x = np.mgrid[-2:3, -2:3]
    place = y[..., None] * along_y + x[..., None] * along_x
    seen = [overlay.usual_view(grid(along_y=along_y, along_x=along_x)).of(place @ axis) for axis in (TO_SIDE, TO_LOWER)]
    assert np.all(np.diff(seen[0], axis=1) > 0)
    assert np.all(np.diff(seen[1], axis=0) > 0)


def test_a_file_without_patient_orientation_is_shown_as_it_is():
    assert overlay.usual_view(grid(along_y=(0, -1, 0), along_x=(-1, 0, 0))) == overlay.View(False, False, False)


def test_a_picture_without_contrast_is_still_a_picture():
    grey = overlay.grey_levels(np.full((4, 4), 7.0))
    assert grey.dtype == np.uint8


def ridges_of(values):
    axis = strata.scale_of("%", values)
    edges = strata.bins_of(axis, len(values))
    told = strata.tell("everyone", values, edges, one_by_one=cohort_figures.ONE_BY_ONE)
    row = cohort_figures.RidgeRow(told, str(len(values)), told.counts, (40.0, 60.0))
    return cohort_figures.ridges(axis, edges, [row])


@pytest.mark.parametrize("count", [1, 2, 11, 12, 400])
def test_a_distribution_is_drawn_for_any_number_of_subjects(count):
    drawn = ridges_of(np.linspace(20, 75, count))
    assert f"{count} subjects" in drawn
    assert drawn.count("<circle") == (count if count < cohort_figures.ONE_BY_ONE else 0)


@given(st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=199))
def test_bins_hold_every_value_of_a_small_cohort(values):
    axis = strata.scale_of("mL", np.array(values))
    edges = strata.bins_of(axis, len(values))
    assert np.all(np.diff(edges) > 0)
    assert np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].sum() == len(values)
    assert edges[0] <= min(values) + 1e-6 * max(1.0, abs(min(values)))
    assert edges[-1] >= max(values) - 1e-6 * max(1.0, abs(max(values)))


def test_equal_values_can_be_drawn():
    assert "<svg" in ridges_of(np.full(30, 50.0))
    assert "<svg" in figures.agreement("LVEF (%)", [50.0, 50.0], [50.0, 50.0])
    assert "<svg" in figures.cycle(figures.Cycle((0.0,), "frame", ()), [figures.Curve("LV", "lv", (0.0,))], up="mL")


def test_text_in_a_figure_cannot_become_markup():
    nasty = "<script>alert(1)</script>"
    spread = figures.Spread(nasty, nasty, (1.0, 2.0))
    curve = figures.Curve(nasty, nasty, (1.0, 2.0))
    drawn = figures.spreads(nasty, [spread]) + figures.cycle(
        figures.Cycle((0.0, 1.0), nasty, ((nasty, 0),)), [curve], up=nasty
    )
    drawn += bullseye.bullseye(nasty, nasty, {1: 2.0}, bullseye.Scale(0.0, 1.0))
    drawn += figures.heart(np.zeros((2, 2), np.uint8), [], text=nasty)
    assert "<script" not in drawn
    assert '"<' not in drawn


def test_a_large_cohort_is_drawn_with_a_bounded_number_of_points():
    values = tuple(np.linspace(60, 95, 50_000).tolist())
    drawn = figures.spreads("Dice (%)", [figures.Spread("LV", "lv", values)]) + figures.agreement("mL", values, values)
    assert drawn.count("<circle") <= 800
    assert len(drawn) < 100_000


def test_agreement_states_bias_and_limits():
    drawn = figures.agreement("LVEF (%)", [52.0, 48.0, 56.0], [50.0, 50.0, 50.0])
    assert "bias 2.0, limits of agreement -5.8 to 9.8" in drawn
