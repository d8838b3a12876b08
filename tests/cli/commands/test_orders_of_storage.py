"""The same heart gives the same numbers however it is stored: slices, rows and columns in any order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_core.io.nifti import read_cine, read_motion, write_image
from cmnet_core.io.orientation import StackOrientation
from cmnet_core.types import Spacing
from tests.cli.commanding import cmnet, rows
from tests.phantoms import beating_circles

ORDERS = {
    "9900001": StackOrientation(),
    "9900002": StackOrientation(slices_reversed=True),
    "9900003": StackOrientation(columns_reversed=True),
    "9900004": StackOrientation(transposed=True),
    "9900005": StackOrientation(True, True, False, True),
}


def test_tables_do_not_depend_on_the_order_of_storage(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The seed of a subject depends on its id, which is the only other difference between the subjects.
    monkeypatch.setattr(SamplingSettings, "generator", lambda settings, _: torch.Generator().manual_seed(settings.seed))
    cine, _ = beating_circles(frames=6, slices=4, size=90, spacing=Spacing(9.0, 1.8, 2.0))
    # Shrinking towards the apex, and brighter there, no two slices are equal.
    voxels = torch.stack([cine.voxels[:, z].roll(2 * z, dims=-1) * (1.0 + 0.01 * z) for z in range(4)], dim=1)
    # Nor is a slice the mirror image of itself: points halfway between two voxels would be a matter of their order.
    voxels[..., 45:] = voxels[..., 45:].roll(1, dims=-2)
    affine = torch.tensor(
        [[-5.0, 0.2, -1.5, 40.0], [5.4, -0.6, -1.3, -20.0], [-5.2, -1.68, 0.1, 90.0], [0, 0, 0, 1]], dtype=torch.float64
    )
    usual = replace(cine, voxels=voxels, affine=affine)
    for subject, order in ORDERS.items():
        stored = order.orient_cine(usual)
        write_image(tmp_path / f"{subject}.nii", stored.voxels, affine=stored.affine, frame_ms=40.0)
    (tmp_path / "cohort.csv").write_text(
        "subject_id,image\n" + "".join(f"{subject},{subject}.nii\n" for subject in ORDERS)
    )
    run = tmp_path / "run"
    infer = ["infer", "--manifest", tmp_path / "cohort.csv", "--out", run, "--model", tiny_model]
    for command in (infer, ["indices", "--run", run, "--samples", "4"]):
        ran = cmnet(*command)
        assert ran.exit_code == 0, ran.output

    first, *others = rows(run, "indices")
    measured = [name for name, value in first.items() if isinstance(value, float)]
    assert {"lvedv_ml", "lvedv_ml_lo", "gcs_line_midwall_peak_pct", "gcs_line_midwall_peak_pct_hi"} <= set(measured)
    for other in others:
        for name in measured:
            assert other[name] == pytest.approx(first[name], rel=1e-4, abs=1e-4), (other["case_id"], name)
        assert other["qc_flags"] == first["qc_flags"]

    # What is stored is on the grid of each image.
    folders = {subject: next((run / "subjects").glob(f"*/sub-{subject}")) for subject in ORDERS}
    labels = {
        subject: read_cine(next(folder.glob("*segnet_dseg.nii.gz")), frame_ms=None)
        for subject, folder in folders.items()
    }
    motion = {subject: read_motion(next(folder.glob("*ed2es_motion.nii.gz"))) for subject, folder in folders.items()}
    for subject, order in ORDERS.items():
        assert order.restore(labels[subject].voxels).equal(labels["9900001"].voxels)
        np.testing.assert_allclose(labels[subject].affine, order.orient_affine(usual.affine, (4, 90, 90)), atol=1e-4)
        moved = order.restore_vectors(motion[subject].displacement_mm, 0)
        torch.testing.assert_close(moved, motion["9900001"].displacement_mm, rtol=0, atol=0.02)
