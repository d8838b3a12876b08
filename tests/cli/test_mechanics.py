"""What the tables say of the wall: of phantoms whose motion is known, however their stack lies, and of bad input."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from cmnet_cli.derivatives.crop import Crop
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts
from cmnet_cli.stages.mechanics import (
    WITHOUT_WALL,
    MechanicsRows,
    NearHeart,
    mechanics_rows,
    segmented_walls,
    stretches,
)
from cmnet_cli.tables.columns.mechanics import STRAINS
from cmnet_cli.tables.schema import TABLES, to_arrow
from cmnet_core.geometry.shared_bins import BINS, bins
from cmnet_core.imaging.preprocess import Window
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes
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
    """A heart with a segment that moves less, on a grid of the networks' voxels."""
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
    """The exact pull-back of every frame into ED."""
    truth = beating()
    scan, here = truth.spec.scan, everywhere(truth)
    fields = []
    for frame in range(1, FRAMES + 1):
        at_ed = pull_back(truth.beat, truth.at(frame % FRAMES), here)
        moved = torch.stack([a - b for a, b in zip(to_image(scan, at_ed), to_image(scan, here), strict=True)])
        fields.append(MotionField(moved.float(), spacing_of(scan), fixed=frame % FRAMES, moving=0))
    return tuple(fields)


def stored_of(labels: Tensor, spacing: Spacing, affine: Tensor, *, es: int, frame_ms: float | None) -> StoredTracking:
    """What infer stores, with a window that is the subject's own grid."""
    _, depth, rows, columns = labels.shape
    facts = TrackingFacts(
        frames=len(labels),
        frame_ms=frame_ms,
        ed=0,
        es=es,
        cycle_consistency_error_mm=0.0,
        folded_voxels=(0,) * len(labels),
        window=Window((depth, rows, columns), spacing, spacing, (0.0, 0.0), (rows, columns)),
        motion=MotionSizes(integration_steps=0, output_level=0),
        segnet_members=1,
        refinement_iterations=0,
        cycle_closed=False,
        flags=(),
    )
    return StoredTracking(facts, labels, labels, torch.zeros(labels.shape), spacing, affine, has_steps=True)


def rows_of(
    *, flips: tuple[int, ...] = (), turned: Tensor | None = None, frame_ms: float | None = FRAME_MS
) -> MechanicsRows:
    """Rows of the heart whose stack is stored with some axes the other way round, in a patient who is turned."""
    scan, labels, affine = beating().spec.scan, labels_of(), affine_of(beating().spec.scan)
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (labels.shape[axis + 1] - 1)
        affine[:, axis] *= -1
    affine[:3] = (torch.eye(3, dtype=torch.float64) if turned is None else turned) @ affine[:3]
    signs = torch.tensor([-1.0 if axis in flips else 1.0 for axis in range(3)]).view(3, 1, 1, 1)
    over = tuple(axis + 1 for axis in flips)
    steps = [replace(step, displacement_mm=(signs * step.displacement_mm).flip(over)) for step in to_ed_of()]
    es = int(beating().volumes().lv_ml.argmin())
    stored = stored_of(labels.flip(over), spacing_of(scan), affine, es=es, frame_ms=frame_ms)
    return mechanics_rows(stored, segmented_walls(stored), read(steps), ())


def read(to_ed: Sequence[MotionField]) -> NearHeart:
    """The motion as it is read from a folder, on all of the window."""
    rows, columns = (slice(0, size) for size in to_ed[0].displacement_mm.shape[2:])
    return NearHeart(Crop(rows, columns, 1), tuple(to_ed))


@cache
def plain() -> MechanicsRows:
    return rows_of()


def test_strain_of_a_known_motion_is_in_the_tables() -> None:
    found, truth = plain(), beating()
    radial, circumferential, longitudinal = 100.0 * truth.global_strain()
    assert found.indices["gcs_peak_pct"] == pytest.approx(float(circumferential.min()), abs=1.0)
    assert found.indices["grs_peak_pct"] == pytest.approx(float(radial.max()), abs=2.5)
    assert found.indices["gls_sax_peak_pct"] == pytest.approx(float(longitudinal.min()), abs=1.5)
    assert max(found.segments, key=lambda row: row["ecc_peak_pct"])["segment"] == 9
    assert found.frames[0]["gcs_pct"] == pytest.approx(0.0, abs=1e-6)
    # A line that shortens by a fifth has a Green-Lagrange strain of -18 %.
    engineering = found.indices["gcs_line_mid_peak_pct"] / 100
    assert 100 * (engineering + engineering**2 / 2) == pytest.approx(found.indices["gcs_midwall_peak_pct"], abs=2.0)
    assert found.flags == ["twist-not-constrained-by-masks"]


def test_every_value_belongs_to_a_column_and_all_are_known() -> None:
    found = plain()
    own = {"case_id": "sub-9900001", "subject_id": "9900001", "session": None}
    tables = {
        "indices": [own | found.indices],
        "frames": [own | row for row in found.frames],
        "segments": [own | row for row in found.segments],
        "bullseye": [own | row for row in found.bullseye],
    }
    for name, listed in tables.items():
        assert to_arrow(name, listed).num_rows == len(listed)
    assert None not in found.indices.values()
    assert [row["segment"] for row in found.segments] == list(range(1, 17))
    assert all(row["qc_flags"] == [] and None not in row.values() for row in found.segments)
    mechanics = {column.name for column in TABLES["segments"] if not column.name.endswith(("_lo", "_hi"))}
    assert mechanics == set(tables["segments"][0])


def test_the_shared_space_has_the_wall_in_it() -> None:
    found = plain().bullseye
    assert (len(found), len(list(bins()))) == (BINS, BINS)
    seen = [row for row in found if row["voxels"]]
    assert len(seen) > 0.8 * BINS
    assert sum(row["voxels"] for row in seen) > 5000
    inner, outer = (
        sum(row["ecc_es_pct"] for row in seen if row["layer"] == layer and row["level"] == 3) for layer in (0, 2)
    )
    assert inner < outer < 0
    assert all(row["radial_displacement_es_mm"] < 2.0 for row in seen)
    assert all(row["longitudinal_displacement_es_mm"] > 0 for row in seen if row["level"] == 0)
    assert {row["segment"] for row in seen} == set(range(1, 17))


def oblique() -> Tensor:
    """A turn of the patient by 20° about an axis of no importance."""
    skew = torch.tensor([[0.0, -0.2, 0.25], [0.2, 0.0, -0.15], [-0.25, 0.15, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)


@pytest.mark.parametrize(
    ("flips", "turned"),
    [((2,), None), ((1,), None), ((0,), None), ((0, 1, 2), None), ((0, 2), oblique())],
)
def test_the_same_motion_in_another_orientation_gives_the_same_table(
    flips: tuple[int, ...], turned: Tensor | None
) -> None:
    found, expected = rows_of(flips=flips, turned=turned), plain()
    assert found.flags == expected.flags
    for name, value in expected.indices.items():
        assert found.indices[name] == pytest.approx(value, abs=2e-2), name
    for row, other in zip(found.segments, expected.segments, strict=True):
        assert row["qc_flags"] == other["qc_flags"]
        for name in set(row) - {"qc_flags"}:
            assert row[name] == pytest.approx(other[name], abs=5e-2), name
    for row, other in zip(found.bullseye, expected.bullseye, strict=True):
        assert (row["voxels"], row["segment"]) == (other["voxels"], other["segment"])
        if row["voxels"]:
            assert row["circumferential_displacement_es_mm"] == pytest.approx(
                other["circumferential_displacement_es_mm"], abs=1e-2
            )


def test_a_rigid_motion_strains_and_thickens_nothing_and_turns_by_what_it_is() -> None:
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
    stored = stored_of(torch.stack(labels), spacing_of(scan), affine_of(scan), es=1, frame_ms=None)
    found = mechanics_rows(stored, segmented_walls(stored), read(fields), ())
    for name in ("gcs_es_pct", "grs_es_pct", "gls_sax_es_pct", "twist_es_deg"):
        assert found.indices[name] == pytest.approx(0.0, abs=0.01), name
    assert found.indices["wall_thickening_pct"] == pytest.approx(0.0, abs=0.5)
    assert found.indices["basal_rotation_deg"] == pytest.approx(degrees, abs=0.05)
    assert found.indices["apical_rotation_deg"] == pytest.approx(degrees, abs=0.05)
    assert "no-frame-time" in found.flags
    assert found.indices["time_to_peak_gcs_ms"] is None


@pytest.mark.parametrize("flag", sorted(WITHOUT_WALL))
def test_of_a_wall_that_is_not_all_there_nothing_is_said(flag: str) -> None:
    stored = stored_of(
        labels_of(), spacing_of(beating().spec.scan), affine_of(beating().spec.scan), es=5, frame_ms=80.0
    )
    found = mechanics_rows(stored, segmented_walls(stored), read(to_ed_of()), (flag,))
    assert (found.indices, found.frames, found.bullseye) == ({}, [], [])
    assert [row["segment"] for row in found.segments] == list(range(1, 17))
    assert all(flag in row["qc_flags"] and flag in FLAGS for row in found.segments)


def test_without_an_rv_the_whole_wall_has_values_and_its_segments_have_a_reason() -> None:
    labels = labels_of().clone()
    labels[labels == Label.RV] = Label.BACKGROUND
    scan = beating().spec.scan
    stored = stored_of(labels, spacing_of(scan), affine_of(scan), es=5, frame_ms=FRAME_MS)
    found = mechanics_rows(stored, segmented_walls(stored), read(to_ed_of()), ())
    assert found.indices["gcs_peak_pct"] == pytest.approx(plain().indices["gcs_peak_pct"])
    assert found.indices["twist_deg"] == pytest.approx(plain().indices["twist_deg"])
    assert (found.indices["dyssynchrony_ms"], found.bullseye) == (None, [])
    assert {"rv-insertion-not-found", "few-segments-with-times"} <= set(found.flags) <= set(FLAGS)
    for row in found.segments:
        assert (row["ecc_peak_pct"], row["wall_thickness_ed_mm"], row["qc_flags"]) == (
            None,
            None,
            ["rv-insertion-not-found"],
        )


@pytest.mark.parametrize(
    ("at_es", "told"),
    [((30.0, -15.0, -12.0), False), ((30.0, -15.0, 20.0), True), ((-5.0, -15.0, -12.0), True), ((None,) * 3, False)],
)
def test_a_wall_that_stretches_at_es_is_told(at_es: tuple[float | None, ...], *, told: bool) -> None:
    """A wrong longitudinal motion may contract a little at first, and then stretch: its peak alone looks right."""
    whole = {f"{name}_es_pct": value for name, value in zip(STRAINS, at_es, strict=True)}
    assert stretches(whole | {f"time_to_peak_{name}_ms": 300.0 for name in STRAINS}, times=True) == told
