"""Rows about the LV wall: of phantoms with known motion in any orientation, and of incomplete label maps."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from cmnet_cli.derivatives.heart_motion import HeartMotion
from cmnet_cli.derivatives.tracking import TrackingFacts
from cmnet_cli.stages.mechanics import WITHOUT_WALL, WallRows, wall_rows
from cmnet_cli.tables.schema import TABLES, to_arrow
from cmnet_core.geometry.shared_bins import BINS, bins
from cmnet_core.imaging.crop import Crop
from cmnet_core.imaging.preprocess import Window
from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.phantom import Truth, draw_spec, truth_of
from cmnet_core.phantom.kinematics import pull_back
from cmnet_core.phantom.scan_grid import affine_of, grid_points, slice_depths, spacing_of, to_image
from cmnet_core.phantom.shape import Points, labels_at
from cmnet_core.phantom.spec import Defect
from cmnet_core.qc.flags import FLAGS
from cmnet_core.types import MotionField, Spacing

SIZE, PIXEL_MM, FRAMES, FRAME_MS = 96, 1.5, 12, 80.0
Row = dict[str, Any]


@cache
def beating() -> Truth:
    """A phantom with one hypokinetic segment, on the grid of the network's window."""
    spec = draw_spec(torch.Generator().manual_seed(21), frames=FRAMES, defect=True)
    scan = replace(spec.scan, pixel_mm=PIXEL_MM, rows=SIZE, columns=SIZE)
    return truth_of(replace(spec, scan=scan, beat=replace(spec.beat, defect=Defect(segment=9, severity=0.5))))


def everywhere(truth: Truth) -> Points:
    scan = truth.spec.scan
    return Points(*torch.broadcast_tensors(*grid_points(scan, slice_depths(scan))))


@cache
def labels_of() -> Tensor:
    truth = beating()
    now = [pull_back(truth.beat, truth.at(frame), everywhere(truth)) for frame in range(FRAMES)]
    return torch.stack([labels_at(truth.spec.heart, points) for points in now])


@cache
def to_ed_of() -> tuple[MotionField, ...]:
    """The exact field of every frame that points into ED."""
    truth = beating()
    scan, here = truth.spec.scan, everywhere(truth)
    fields = []
    for frame in range(1, FRAMES + 1):
        at_ed = pull_back(truth.beat, truth.at(frame % FRAMES), here)
        moved = torch.stack([a - b for a, b in zip(to_image(scan, at_ed), to_image(scan, here), strict=True)])
        fields.append(MotionField(moved.float(), spacing_of(scan), fixed=frame % FRAMES, moving=0))
    return tuple(fields)


def facts_of(labels: Tensor, spacing: Spacing, *, es: int, frame_ms: float | None) -> TrackingFacts:
    """What infer stores, with a window that is the subject's own grid."""
    _, depth, rows, columns = labels.shape
    return TrackingFacts(
        frames=len(labels),
        frame_ms=frame_ms,
        ed=0,
        es=es,
        cycle_consistency_error_mm=0.0,
        folded_voxels=(0,) * len(labels),
        window=Window((depth, rows, columns), spacing, spacing, (0.0, 0.0), (rows, columns)),
        motion=MotionSizes(),
        flags=(),
    )


def analysed(
    labels: Tensor,
    to_ed: Sequence[MotionField],
    affine: Tensor,
    *,
    es: int,
    frame_ms: float | None,
    raised: tuple[str, ...] = (),
) -> WallRows:
    """Rows of label maps of all frames and their motion, which covers all of the window."""
    rows, columns = (slice(0, size) for size in to_ed[0].displacement_mm.shape[2:])
    facts = facts_of(labels, to_ed[0].spacing, es=es, frame_ms=frame_ms)
    return wall_rows(labels[[0, es]], HeartMotion(Crop(rows, columns, 1), tuple(to_ed)), facts, affine, raised)


def rows_of(
    *, flips: tuple[int, ...] = (), turned: Tensor | None = None, frame_ms: float | None = FRAME_MS
) -> WallRows:
    """Rows of the phantom stored with some axes reversed, in a patient who is rotated."""
    scan, labels, affine = beating().spec.scan, labels_of(), affine_of(beating().spec.scan)
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (labels.shape[axis + 1] - 1)
        affine[:, axis] *= -1
    affine[:3] = (torch.eye(3, dtype=torch.float64) if turned is None else turned) @ affine[:3]
    signs = torch.tensor([-1.0 if axis in flips else 1.0 for axis in range(3)]).view(3, 1, 1, 1)
    over = tuple(axis + 1 for axis in flips)
    to_ed = [replace(field, displacement_mm=(signs * field.displacement_mm).flip(over)) for field in to_ed_of()]
    es = int(beating().volumes().lv_ml.argmin())
    assert to_ed[0].spacing == spacing_of(scan)
    return analysed(labels.flip(over), to_ed, affine, es=es, frame_ms=frame_ms)


@cache
def plain() -> WallRows:
    return rows_of()


def test_strain_of_a_known_motion_is_in_the_tables() -> None:
    found, truth = plain(), beating()
    radial, circumferential, longitudinal = 100.0 * truth.global_strain()
    assert found.indices["gcs_green_wall_peak_pct"] == pytest.approx(float(circumferential.min()), abs=1.0)
    assert found.indices["grs_green_wall_peak_pct"] == pytest.approx(float(radial.max()), abs=2.5)
    assert found.experimental[0]["region"] == "wall"
    assert found.experimental[0]["peak_pct"] == pytest.approx(float(longitudinal.min()), abs=1.5)
    for kind in ("line", "green"):
        assert max(found.segments, key=lambda row: row[f"ecc_{kind}_wall_peak_pct"])["segment"] == 9
    assert max(found.segments, key=lambda row: row["ukb_ecc_pct"])["segment"] == 9
    assert found.frames[0]["gcs_line_midwall_pct"] == pytest.approx(0.0, abs=1e-6)
    # A line that shortens by a fifth has a Green-Lagrange strain of -18 %.
    engineering = found.indices["gcs_line_midwall_peak_pct"] / 100
    assert 100 * (engineering + engineering**2 / 2) == pytest.approx(
        found.indices["gcs_green_midwall_peak_pct"], abs=2.0
    )
    # Between endocardium and epicardium, whose line elements it averages, and nearer to the longer epicardium.
    endo, epi = (found.indices[f"gcs_line_{layer}_peak_pct"] for layer in ("endo", "epi"))
    assert endo < found.indices["ukb_ecc_global_pct"] < epi < 0 < found.indices["ukb_err_global_pct"]
    assert found.flags == ["twist-not-constrained-by-masks"]


def test_every_value_belongs_to_a_column_and_is_known() -> None:
    found = plain()
    own = {"case_id": "sub-9900001", "subject_id": "9900001", "session": None}
    tables = {
        "indices": [own | found.indices],
        "frames": [own | row for row in found.frames],
        "segments": [own | row for row in found.segments],
        "bullseye": [own | row for row in found.bullseye],
        "experimental": [own | row for row in found.experimental],
    }
    for name, listed in tables.items():
        assert to_arrow(name, listed).num_rows == len(listed)
    assert None not in found.indices.values()
    assert [row["segment"] for row in found.segments] == list(range(1, 17))
    assert all(row["qc_flags"] == [] and None not in row.values() for row in found.segments)
    mechanics = {column.name for column in TABLES["segments"] if not column.name.endswith(("_lo", "_hi"))}
    assert mechanics == set(tables["segments"][0])


def test_bullseye_bins_contain_the_wall() -> None:
    found = plain().bullseye
    assert (len(found), len(list(bins()))) == (BINS, BINS)
    occupied = [row for row in found if row["voxels"]]
    assert len(occupied) > 0.8 * BINS
    assert sum(row["voxels"] for row in occupied) > 5000
    inner, outer = (
        sum(row["ecc_line_es_pct"] for row in occupied if row["layer"] == layer and row["level"] == 3)
        for layer in (0, 2)
    )
    assert inner < outer < 0
    assert all(row["radial_displacement_es_mm"] < 2.0 for row in occupied)
    assert all(row["longitudinal_displacement_es_mm"] > 0 for row in occupied if row["level"] == 0)
    assert {row["segment"] for row in occupied} == set(range(1, 17))


def oblique() -> Tensor:
    """A rotation of the patient by 20° about an oblique axis."""
    skew = torch.tensor([[0.0, -0.2, 0.25], [0.2, 0.0, -0.15], [-0.25, 0.15, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)


@pytest.mark.parametrize(
    ("flips", "turned"),
    [((2,), None), ((1,), None), ((0,), None), ((0, 1, 2), None), ((0, 2), oblique())],
)
def test_orientation_of_the_stack_does_not_change_the_tables(flips: tuple[int, ...], turned: Tensor | None) -> None:
    found, expected = rows_of(flips=flips, turned=turned), plain()
    assert found.flags == expected.flags
    for name, value in expected.indices.items():
        assert found.indices[name] == pytest.approx(value, abs=2e-2), name
    for row, other in zip(found.segments, expected.segments, strict=True):
        assert row["qc_flags"] == other["qc_flags"]
        for name in set(row) - {"qc_flags"}:
            # By the UK Biobank's definition a segment has those of 36 chords whose middle is in it. The first chord is
            # on an axis of the grid, so that a segment has other chords where the grid is reversed.
            tolerance = 1.0 if name.startswith("ukb_") else 5e-2
            assert row[name] == pytest.approx(other[name], abs=tolerance), name
    for row, other in zip(found.bullseye, expected.bullseye, strict=True):
        assert (row["voxels"], row["segment"]) == (other["voxels"], other["segment"])
        if row["voxels"]:
            name = "circumferential_displacement_es_mm"
            assert row[name] == pytest.approx(other[name], abs=1e-2)


def test_rigid_motion_has_no_strain_no_thickening_and_its_own_rotation() -> None:
    """By 8° counter-clockwise on the display, where the RV is on the left: that is as seen from the apex."""
    truth, degrees = beating(), 8.0
    scan = replace(truth.spec.scan, tilt_y_deg=0.0, tilt_x_deg=0.0)
    scans = (scan, replace(scan, rv_deg=scan.rv_deg - degrees))
    labels = [labels_at(truth.spec.heart, everywhere(truth_of(replace(truth.spec, scan=each)))) for each in scans]
    angle = math.radians(degrees)
    axes = [(torch.arange(SIZE) - (SIZE - 1) / 2) * PIXEL_MM - off for off in (scan.centre_y_mm, scan.centre_x_mm)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    fields = []
    for turn in (angle, -angle):
        # Rows count downwards: what turns counter-clockwise on the display came from clockwise.
        back = torch.stack([math.cos(turn) * y + math.sin(turn) * x - y, math.cos(turn) * x - math.sin(turn) * y - x])
        field = torch.cat([torch.zeros_like(back[:1]), back])[:, None].expand(3, len(labels[0]), SIZE, SIZE).float()
        fields.append(MotionField(field, spacing_of(scan), fixed=len(fields) ^ 1, moving=len(fields)))
    found = analysed(torch.stack(labels), fields, affine_of(scan), es=1, frame_ms=None)
    for name in ("gcs_line_endo_es_pct", "gcs_green_wall_es_pct", "grs_line_wall_es_pct", "twist_es_deg"):
        assert found.indices[name] == pytest.approx(0.0, abs=0.01), name
    assert found.indices["wall_thickening_pct"] == pytest.approx(0.0, abs=0.5)
    assert found.indices["basal_rotation_deg"] == pytest.approx(degrees, abs=0.05)
    assert found.indices["apical_rotation_deg"] == pytest.approx(degrees, abs=0.05)
    assert "no-frame-time" in found.flags
    assert found.indices["time_to_peak_gcs_line_midwall_ms"] is None


@pytest.mark.parametrize("flag", sorted(WITHOUT_WALL))
def test_incomplete_wall_has_no_values(flag: str) -> None:
    affine = affine_of(beating().spec.scan)
    found = analysed(labels_of(), to_ed_of(), affine, es=5, frame_ms=80.0, raised=(flag,))
    assert (found.indices, found.frames, found.bullseye) == ({}, [], [])
    assert [row["segment"] for row in found.segments] == list(range(1, 17))
    assert all(flag in row["qc_flags"] and flag in FLAGS for row in found.segments)


def test_without_rv_the_whole_wall_has_values_and_segments_have_a_flag() -> None:
    labels = labels_of().clone()
    labels[labels == Label.RV] = Label.BACKGROUND
    found = analysed(labels, to_ed_of(), affine_of(beating().spec.scan), es=5, frame_ms=FRAME_MS)
    assert found.indices["gcs_line_midwall_peak_pct"] == pytest.approx(plain().indices["gcs_line_midwall_peak_pct"])
    assert found.indices["twist_deg"] == pytest.approx(plain().indices["twist_deg"])
    assert (found.indices["dyssynchrony_ms"], found.bullseye) == (None, [])
    assert {"rv-insertion-not-found", "few-segments-with-times"} <= set(found.flags) <= set(FLAGS)
    for row in found.segments:
        assert (row["ecc_line_wall_peak_pct"], row["wall_thickness_ed_mm"], row["qc_flags"]) == (
            None,
            None,
            ["rv-insertion-not-found"],
        )
