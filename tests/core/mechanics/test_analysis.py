"""Analysis of the whole wall in one call: a phantom with known motion, and motion that does not fit."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import GeometryError
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import WallAnalysis, analyse_wall, has_systolic_stretch
from cmnet_core.mechanics.lagrangian import follow_material
from cmnet_core.mechanics.strain import Direction
from cmnet_core.mechanics.strain_curves import UNKNOWN
from cmnet_core.phantom import Truth, draw_spec, truth_of
from cmnet_core.phantom.kinematics import pull_back
from cmnet_core.phantom.scan_grid import affine_of, grid_points, slice_depths, spacing_of
from cmnet_core.phantom.shape import Points, labels_at
from cmnet_core.phantom.spec import Defect

FRAMES, FRAME_MS = 10, 80.0


@cache
def phantom() -> Truth:
    """A phantom whose AHA segment 9 is hypokinetic, on the grid of the network's window."""
    spec = draw_spec(torch.Generator().manual_seed(21), frames=FRAMES, defect=True)
    scan = replace(spec.scan, pixel_mm=1.5, rows=96, columns=96)
    return truth_of(replace(spec, scan=scan, beat=replace(spec.beat, defect=Defect(segment=9, severity=0.5))))


def es_frame() -> int:
    return int(phantom().volumes().lv_ml.argmin())


def labels(frame: int) -> Tensor:
    truth, scan = phantom(), phantom().spec.scan
    points = Points(*torch.broadcast_tensors(*grid_points(scan, slice_depths(scan))))
    return labels_at(truth.spec.heart, pull_back(truth.beat, truth.at(frame), points))


@cache
def analysis() -> WallAnalysis:
    fields = [phantom().to_ed(frame) for frame in range(1, FRAMES)]
    return analyse_wall(
        labels(0),
        fields,
        spacing=spacing_of(phantom().spec.scan),
        affine=affine_of(phantom().spec.scan),
        ed=0,
        es=es_frame(),
        frame_ms=FRAME_MS,
        labels_es=labels(es_frame()),
    )


def test_global_strain_of_every_frame_is_that_of_the_known_motion() -> None:
    wall, true = analysis(), 100.0 * phantom().global_strain()
    assert wall.motion.frames == tuple(range(FRAMES))
    for curve, direction, tolerance in (
        (wall.grs_pct, Direction.RADIAL, 2.5),
        (wall.gcs_pct, Direction.CIRCUMFERENTIAL, 1.0),
        (wall.gls_sax_pct, Direction.LONGITUDINAL, 1.5),
    ):
        assert float((curve - true[direction]).abs().max()) < tolerance
        summary = wall.strain_summary.whole[direction]
        assert summary.at_es == float(curve[es_frame()])
        assert summary.time_to_peak_ms == pytest.approx(es_frame() * FRAME_MS, abs=FRAME_MS)


def test_regions_have_their_summaries_and_the_hypokinetic_segment_contracts_least() -> None:
    wall = analysis()
    ecc = [one.peak for one in wall.strain_summary.segments[Direction.CIRCUMFERENTIAL]]
    assert ecc.index(max(peak for peak in ecc if peak is not None)) + 1 == 9
    endo, _, epi = wall.strain_summary.layers[Direction.CIRCUMFERENTIAL]
    assert endo.peak < epi.peak < 0
    assert len(wall.strain_summary.levels[Direction.RADIAL]) == 3
    assert wall.line_summary.endo.peak < wall.line_summary.epi.peak < 0
    assert wall.rotation_summary.twist.peak > 0
    assert wall.dyssynchrony_ms is not None
    assert wall.flags == ("twist-not-constrained-by-masks",)
    assert wall.segment_flags == ((),) * 16


def test_the_wall_thickens_and_its_bins_hold_the_means_at_es() -> None:
    wall = analysis()
    assert wall.thickness_es is not None
    assert wall.thickness_es.whole_mm > wall.thickness_ed.whole_mm
    assert wall.bins is not None
    occupied = wall.bins.voxels > 0
    assert float(wall.bins.strain_es_pct[Direction.CIRCUMFERENTIAL, occupied].mean()) < -5.0
    assert torch.equal(wall.bins.thickness_ed_mm.isnan(), ~occupied)


def test_displacement_of_the_voxels_may_be_given_instead_of_fields() -> None:
    """As where fields cover only a part of the label map's grid."""
    at_ed, fields = labels(0), [phantom().to_ed(frame) for frame in range(1, FRAMES)]
    material = follow_material(fields, at_ed == Label.MYO)
    wall = analyse_wall(
        at_ed,
        material,
        spacing=spacing_of(phantom().spec.scan),
        affine=affine_of(phantom().spec.scan),
        ed=0,
        es=es_frame(),
        frame_ms=None,
    )
    assert torch.equal(wall.gcs_pct, analysis().gcs_pct)
    assert wall.thickness_es is None
    assert "no-frame-time" in wall.flags
    assert wall.strain_summary.whole[Direction.CIRCUMFERENTIAL].time_to_peak_ms is None


@pytest.mark.parametrize(("ed", "es"), [(1, 2), (0, 5)])
def test_motion_with_another_reference_or_without_es_is_refused(ed: int, es: int) -> None:
    scan = phantom().spec.scan
    fields = [phantom().to_ed(frame) for frame in (1, 2)]
    with pytest.raises(GeometryError, match=f"expected ED {ed} and ES {es}"):
        analyse_wall(
            labels(0), fields, spacing=spacing_of(scan), affine=affine_of(scan), ed=ed, es=es, frame_ms=FRAME_MS
        )


@pytest.mark.parametrize(
    ("at_es", "stretched"),
    [((30.0, -15.0, -12.0), False), ((30.0, -15.0, 20.0), True), ((-5.0, -15.0, -12.0), True), ((None,) * 3, False)],
)
def test_systolic_stretch_is_recognised_by_the_sign_at_es(at_es: tuple[float | None, ...], *, stretched: bool) -> None:
    """A wrong longitudinal motion may contract a little at first, and then stretch: its peak alone is plausible."""
    whole = [replace(UNKNOWN, at_es=value, time_to_peak_ms=300.0) for value in at_es]
    assert has_systolic_stretch(whole, has_times=True) == stretched
