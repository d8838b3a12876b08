"""Known values of a phantom agree with its closed form, and masks alone determine no motion."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.derivatives.tracking import StoredTracking, TrackingFacts
from cmnet_cli.stages import phantom as stage
from cmnet_cli.stages.phantom import write_cohort
from cmnet_cli.stages.read_images import load_cine
from cmnet_cli.stages.reference_values import reference_rows
from cmnet_core.imaging.preprocess import wide_window
from cmnet_core.models.shape_motion_net import ShapeMotionSizes
from cmnet_core.phantom import PhantomSpec, draw_spec, spec_from_values

FRAMES = 10


def on_coarse_grid(generator: torch.Generator, *, frames: int, defect: bool) -> PhantomSpec:
    """Draw a phantom whose images are small."""
    values = asdict(draw_spec(generator, frames=frames, defect=defect))
    values["scan"] |= {"rows": 96, "columns": 96, "pixel_mm": 2.0}
    return spec_from_values(values)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "draw_spec", on_coarse_grid)
        manifest = write_cohort(tmp_path_factory.mktemp("known"), subjects=1, frames=FRAMES, seed=5, defect_fraction=0)
    return read_manifest(manifest).cases[0]


def stored_tracking(case: Case) -> StoredTracking:
    """What infer would store, as far as known values depend on it: window, timing and affine."""
    cine = load_cine(case)
    facts = TrackingFacts(
        frames=cine.frames,
        frame_ms=cine.frame_ms,
        ed=0,
        es=1,
        cycle_consistency_error_mm=0.0,
        folded_voxels=(0,) * cine.frames,
        window=wide_window(cine, spacing_mm=1.5),
        motion=ShapeMotionSizes(),
        flags=(),
    )
    nothing = torch.zeros(cine.voxels.shape, dtype=torch.uint8)
    return StoredTracking(facts, nothing, nothing, nothing.float(), cine.spacing, cine.affine, has_steps=True)


def test_known_values_of_a_phantom_are_those_of_its_closed_form(phantom: Case) -> None:
    row, segments = reference_rows(phantom, stored_tracking(phantom))
    [truth] = csv.DictReader((phantom.image[0].parents[1] / "truth_indices.csv").read_text().splitlines())
    for name in ("lvedv_ml", "lvef_pct", "lvm_g", "rvsv_ml"):
        assert row[name] == pytest.approx(float(truth[name]), abs=0.01)
    assert row["gcs_green_wall_peak_pct"] == pytest.approx(float(truth["gcs_green_wall_peak_pct"]), abs=1.5)
    assert row["grs_green_wall_peak_pct"] == pytest.approx(float(truth["grs_green_wall_peak_pct"]), abs=4.0)
    time = "time_to_peak_gcs_green_wall_ms"
    assert row[time] == pytest.approx(float(truth[time]), abs=25.0)
    assert row["lv_peak_ejection_rate_ml_s"] > 0
    assert all(segment["ecc_line_wall_peak_pct"] < 0 for segment in segments)


def test_masks_alone_determine_no_motion(phantom: Case, tmp_path: Path) -> None:
    copy = tmp_path / "image.nii.gz"
    copy.write_bytes(phantom.image[0].read_bytes())
    row, _ = reference_rows(replace(phantom, image=(copy,)), stored_tracking(phantom))
    assert row["wall_thickness_ed_mm"] > 0
    assert "gcs_line_midwall_peak_pct" not in row
    assert "twist_deg" not in row
