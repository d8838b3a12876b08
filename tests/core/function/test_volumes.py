"""Volumes, phases and clinical indices against shapes and curves that are known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmnet_core.errors import GeometryError, ImageError
from cmnet_core.function.volumes import (
    BodySurfaceFormula,
    ClinicalIndices,
    PumpIndices,
    Volumes,
    body_surface_area_m2,
    cardiac_output_l_min,
    clinical_indices,
    find_phases,
    heart_rate_bpm,
    pump_indices,
    volumes_ml,
)
from cmnet_core.types import Spacing


def make_volumes(lv: list[float], myo: list[float], rv: list[float]) -> Volumes:
    return Volumes(*(torch.tensor(curve, dtype=torch.float64) for curve in (lv, myo, rv)))


def volume_curve(frames: int, *, ed: int, es: int, top: float = 150.0, bottom: float = 60.0) -> torch.Tensor:
    """Falls from ED to ES and rises again, over the closed cycle."""
    t = (torch.arange(frames, dtype=torch.float64) - ed) % frames
    systole = (es - ed) % frames
    phase = torch.where(t <= systole, t / systole, 1 + (t - systole) / (frames - systole))
    return bottom + (top - bottom) * 0.5 * (1 + torch.cos(math.pi * phase))


@pytest.mark.parametrize("spacing", [Spacing(8.0, 1.5, 1.5), Spacing(5.0, 1.1, 1.9)])
def test_volumes_of_a_sphere_and_a_cylinder(spacing: Spacing) -> None:
    shape = (round(100 / spacing.z), round(100 / spacing.y), round(100 / spacing.x))
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing.zyx, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    sphere = (z**2 + y**2 + x**2 < 40**2).to(torch.uint8)
    depth_mm = shape[0] * spacing.z
    cylinder = 3 * (y**2 + x**2 < 30**2).to(torch.uint8)
    found = volumes_ml(torch.stack([sphere, cylinder]), spacing)
    assert float(found.lv_ml[0]) == pytest.approx(4 / 3 * math.pi * 4**3, rel=0.01)
    assert float(found.rv_ml[1]) == pytest.approx(math.pi * 3**2 * depth_mm / 10, rel=0.01)
    assert found.myo_ml.tolist() == [0, 0]


@given(frames=st.integers(2, 60), data=st.data())
def test_phases_are_found_wherever_the_cycle_starts(frames: int, data: st.DataObject) -> None:
    ed = data.draw(st.integers(0, frames - 1))
    es = (ed + data.draw(st.integers(max(1, frames // 3), max(1, frames // 2)))) % frames
    found_ed, found_es = find_phases(volume_curve(frames, ed=ed, es=es))
    for found, expected in ((found_ed, ed), (found_es, es)):
        assert min((found - expected) % frames, (expected - found) % frames) <= (1 if frames >= 10 else 0)


@pytest.mark.parametrize(("bad_frame", "bad_volume"), [(17, 230.0), (22, 5.0), (0, 0.0)])
def test_one_badly_segmented_frame_does_not_change_the_phases(bad_frame: int, bad_volume: float) -> None:
    curve = volume_curve(30, ed=2, es=12)
    curve[bad_frame] = bad_volume
    ed, es = find_phases(curve)
    assert abs(ed - 2) <= 1
    assert abs(es - 12) <= 1


@pytest.mark.parametrize("frames", [4, 20])
def test_of_equal_volumes_the_earliest_frame_is_the_phase(frames: int) -> None:
    assert find_phases(torch.full((frames,), 70.3)) == (0, 0)


def test_phases_of_two_frames() -> None:
    assert find_phases(torch.tensor([60.0, 150.0])) == (1, 0)


def test_a_cine_without_lv_has_no_phases() -> None:
    with pytest.raises(ImageError, match="no volume"):
        find_phases(torch.zeros(12))


def test_clinical_indices_follow_their_definitions() -> None:
    found = clinical_indices(make_volumes([150, 60, 149], [100, 97, 101], [160, 80, 158]), ed=0, es=1)
    assert (found.lvedv_ml, found.lvesv_ml, found.lvsv_ml) == (150, 60, 90)
    assert found.lvef_pct == pytest.approx(60)
    assert found.lvm_g == pytest.approx(105)
    assert (found.rvedv_ml, found.rvesv_ml, found.rvsv_ml, found.rvef_pct) == (160, 80, 80, 50)
    assert found.flags == ()


def test_undefined_clinical_indices_are_none_with_a_flag() -> None:
    found = clinical_indices(make_volumes([150, 160], [0, 97], [160, 0]), ed=0, es=1)
    assert found.lvef_pct == pytest.approx(-100 / 15)
    assert found.lvm_g is None
    assert (found.rvedv_ml, found.rvesv_ml, found.rvsv_ml, found.rvef_pct) == (160, None, None, None)
    assert found.flags == ("lv-does-not-contract", "myo-missing-at-ed", "rv-missing-at-es")


def test_clinical_indices_of_a_frame_outside_the_cycle_are_refused() -> None:
    with pytest.raises(GeometryError, match="es=3"):
        clinical_indices(make_volumes([1, 2, 3], [1, 2, 3], [1, 2, 3]), ed=0, es=3)


def test_cardiac_output_needs_a_heart_rate() -> None:
    assert cardiac_output_l_min(80.0, heart_rate_bpm(frames=50, frame_ms=20.0)) == pytest.approx(4.8)
    assert cardiac_output_l_min(80.0, None) is None
    assert cardiac_output_l_min(None, 60.0) is None


def test_body_surface_area_agrees_with_published_examples() -> None:
    assert body_surface_area_m2(180.0, 80.0) == pytest.approx(2.0)
    assert body_surface_area_m2(170.0, 70.0, formula=BodySurfaceFormula.DU_BOIS) == pytest.approx(1.810, abs=1e-3)
    assert body_surface_area_m2(1.80, 80.0) is None


def test_pump_indices_combine_volumes_and_mass() -> None:
    function = ClinicalIndices(150.0, 60.0, 90.0, 60.0, 105.0, 160.0, 60.0, 100.0, 62.5)
    found = pump_indices(function)
    assert (found.sv_difference_ml, found.sv_difference_pct) == (10.0, 10.0)
    assert found.lv_mass_to_volume_g_per_ml == pytest.approx(0.7)
    assert found.lv_contraction_fraction_pct == pytest.approx(90.0)
    assert found.lv_global_function_index_pct == pytest.approx(100 * 90 / (105 + 100))
    unknown = pump_indices(ClinicalIndices(*(None,) * 9))
    assert unknown == PumpIndices(None, None, None, None, None)
