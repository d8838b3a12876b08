"""Axes, encoded images and figures of the report."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cmnet_cli.report.data import strata
from cmnet_cli.report.plot import bullseye, cohort_figures, colours, figures, svg


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_grey_png_holds_the_pixels(grey):
    read = np.asarray(Image.open(io.BytesIO(svg.encode_png(grey))))
    np.testing.assert_array_equal(read, grey)


def test_a_palette_png_holds_colours_and_transparency():
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = np.asarray(Image.open(io.BytesIO(svg.encode_png(steps, colours.palette()))).convert("RGBA"))
    np.testing.assert_array_equal(read[..., :3].reshape(-1, 3), colours.palette())
    assert read[..., 3].ravel().tolist() == [0, *[255] * 255]


def test_the_colour_scale_rises_evenly_in_grey_and_with_colour_vision_deficiency():
    grey = colours.palette() @ (0.2126, 0.7152, 0.0722)
    # Red and green are one to them: Viénot, Brettel and Mollon 1999, in their first approximation.
    alike = colours.palette() @ (0.15, 0.75, 0.1)
    for lightness in (grey, alike):
        steps = np.diff(lightness[::16])
        assert steps.min() > 0.3 * steps.mean()


def test_segments_have_the_positions_of_the_aha_model():
    centres = {wedge.number: wedge.centre() for wedge in bullseye.wedges()}
    middle = 130
    assert centres[1][1] < centres[7][1] < centres[13][1] < middle < centres[15][1] < centres[10][1] < centres[4][1]
    assert max(centres[n][0] for n in (2, 3, 8, 9, 14)) < middle < min(centres[n][0] for n in (5, 6, 11, 12, 16))
    assert centres[2][1] < middle < centres[3][1]
    assert centres[6][1] < middle < centres[5][1]


def test_a_segment_without_a_value_is_not_coloured():
    drawn = bullseye.bullseye("Ecc", "%", dict.fromkeys(range(1, 16), -18.0), bullseye.ColourScale(0.0, -30.0))
    assert drawn.count('class="segment"') == 15
    assert "16 apical lateral: no value" in drawn
    assert drawn.count(">−18<") == 15


@given(
    st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=20),
    st.booleans(),
)
def test_an_axis_spans_all_values(values, from_zero):
    values = [abs(value) for value in values] if from_zero else values
    axis = svg.axis("volume", values, from_zero=from_zero)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert axis.low <= min(values) + slack
    assert axis.high >= max(values) - slack
    assert 2 <= len(axis.ticks) <= 12


def test_counts_have_whole_ticks():
    assert svg.axis("subjects", [1, 2], from_zero=True, whole=True).ticks == (0.0, 1.0, 2.0)


def ridges_of(values):
    axis = cohort_figures.value_axis("%", values)
    edges = cohort_figures.histogram_edges(axis, len(values))
    summary = strata.summarise_stratum("all", values, edges, histogram_from=cohort_figures.HISTOGRAM_FROM)
    row = cohort_figures.RidgelineRow(summary, str(len(values)), summary.counts, (40.0, 60.0))
    return cohort_figures.ridgeline(axis, edges, [row])


@pytest.mark.parametrize("count", [1, 2, 11, 12, 400])
def test_a_distribution_is_drawn_for_any_number_of_subjects(count):
    drawn = ridges_of(np.linspace(20, 75, count))
    assert f"{count} subjects" in drawn
    assert drawn.count("<circle") == (count if count < cohort_figures.HISTOGRAM_FROM else 0)


@given(st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=1, max_size=199))
def test_bins_contain_every_value_of_a_small_cohort(values):
    axis = cohort_figures.value_axis("mL", np.array(values))
    edges = cohort_figures.histogram_edges(axis, len(values))
    assert np.all(np.diff(edges) > 0)
    assert np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].sum() == len(values)
    assert edges[0] <= min(values) + 1e-6 * max(1.0, abs(min(values)))
    assert edges[-1] >= max(values) - 1e-6 * max(1.0, abs(max(values)))


def test_equal_values_can_be_drawn():
    assert "<svg" in ridges_of(np.full(30, 50.0))
    assert "<svg" in figures.bland_altman("LVEF (%)", [50.0, 50.0], [50.0, 50.0])
    assert "<svg" in figures.cycle_figure(
        figures.CycleAxis((0.0,), "frame", ()), [figures.Curve("LV", "lv", (0.0,))], label="mL"
    )


def test_values_and_intervals_beyond_the_axis_are_marked_at_its_end():
    time, curve = figures.CycleAxis((0.0, 1.0, 2.0), "frame", ()), figures.Curve("7", "s1", (0.0, -55.0, 20.0))
    assert figures.cycle_figure(time, [curve], label="Ecc (%)", limits=(-40.0, 10.0)).count('class="beyond s1"') == 2
    # An interval of 400 does not flatten a curve of 20: it ends in two arrows, and its tooltip has its ends.
    wide = figures.Band("lv", 1, -200.0, 200.0)
    drawn = figures.cycle_figure(time, [figures.Curve("GCS", "lv", (0.0, -20.0, -5.0))], label="%", bands=[wide])
    assert drawn.count('class="beyond lv"') == 2
    assert "95 % interval \N{MINUS SIGN}200 to 200" in drawn
    assert "\N{MINUS SIGN}40" not in drawn
    narrow = figures.Band("lv", 1, -21.0, -19.0)
    assert "beyond" not in figures.cycle_figure(
        time, [figures.Curve("GCS", "lv", (0.0, -20.0, -5.0))], label="%", bands=[narrow]
    )


def test_a_segment_beyond_the_colour_scale_is_marked():
    drawn = bullseye.bullseye("Err", "%", {1: 72.0, 2: 30.0}, bullseye.ColourScale(0.0, 60.0))
    assert ">72!<" in drawn
    assert ">30<" in drawn


def test_text_in_a_figure_cannot_become_markup():
    nasty = "<script>alert(1)</script>"
    group = figures.ValueGroup(nasty, nasty, (1.0, 2.0))
    curve = figures.Curve(nasty, nasty, (1.0, 2.0))
    drawn = (
        figures.strip_plot(nasty, [group])
        + figures.box_plot(nasty, [group])
        + figures.cycle_figure(figures.CycleAxis((0.0, 1.0), nasty, ((nasty, 0),)), [curve], label=nasty)
    )
    drawn += bullseye.bullseye(nasty, nasty, {1: 2.0}, bullseye.ColourScale(0.0, 1.0))
    drawn += figures.slice_figure(np.zeros((2, 2), np.uint8), [], text=nasty)
    assert "<script" not in drawn
    assert '"<' not in drawn


def test_a_large_cohort_is_drawn_with_a_bounded_number_of_points():
    values = tuple(np.linspace(60, 95, 50_000).tolist())
    drawn = figures.strip_plot("Dice (%)", [figures.ValueGroup("LV", "lv", values)]) + figures.bland_altman(
        "mL", values, values
    )
    assert drawn.count("<circle") <= 800
    assert len(drawn) < 100_000


def test_box_has_quartiles_whiskers_and_values_beyond():
    values = (1.0, 2.0, 3.0, 4.0, 5.0, 40.0)
    drawn = figures.box_plot("mm", [figures.ValueGroup("SyN", "lv", values)])
    assert drawn.count('class="box lv"') == 1
    assert drawn.count('class="whisker"') == 2
    assert drawn.count("<circle") == 1, "only the value beyond 1.5 times the box is a point"
    assert "SyN: median 3.5" in drawn
    few = figures.box_plot("mm", [figures.ValueGroup("SyN", "lv", values[:3])])
    assert few.count("<circle") == 3
    assert "box lv" not in few


def test_agreement_states_bias_and_limits():
    drawn = figures.bland_altman("LVEF (%)", [52.0, 48.0, 56.0], [50.0, 50.0, 50.0])
    assert "bias 2.0, limits of agreement -5.8 to 9.8" in drawn
