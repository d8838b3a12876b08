"""Label maps in which a structure is missing: values that depend on it are null with a flag, all others are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.mechanics import WITHOUT_WALL
from cmnet_core.io.nifti import read_cine, write_image, write_labels
from cmnet_core.labels import Label
from cmnet_core.qc.flags import FLAGS
from cmnet_core.types import LabelSequence, Spacing
from tests.cli.commanding import cmnet, rows
from tests.phantoms import beating_circles


def _whole(labels: Tensor) -> Tensor:
    return labels


def _without_rv(labels: Tensor) -> Tensor:
    return torch.where(labels == Label.RV, 0, labels)


def _without_lv_at_ed(labels: Tensor) -> Tensor:
    labels[0][labels[0] == Label.LV] = Label.MYO
    return labels


def _one_slice(labels: Tensor) -> Tensor:
    labels[:, 1:] = Label.BACKGROUND
    return labels


def _with_a_gap(labels: Tensor) -> Tensor:
    labels[:, 3] = Label.BACKGROUND
    return labels


def _cut(labels: Tensor) -> Tensor:
    return labels.roll(30, dims=-1)


BAD: dict[str, tuple[Callable[[Tensor], Tensor], str | None]] = {
    "9900001": (_whole, None),
    "9900002": (_without_rv, "rv-insertion-not-found"),
    "9900003": (_without_lv_at_ed, "lv-missing-at-ed"),
    "9900004": (_one_slice, "too-few-slices"),
    "9900005": (_with_a_gap, "lv-gap-in-stack"),
    "9900006": (_cut, "lv-cut-at-border"),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, list[dict[str, Any]]]:
    """The tables of one cohort with one subject for each kind of incomplete label map."""
    folder = tmp_path_factory.mktemp("incomplete-hearts")
    cine, _ = beating_circles(frames=4, slices=6, size=80, spacing=Spacing(z=10.0, y=2.0, x=2.0))
    write_image(folder / "heart.nii.gz", cine.voxels, affine=cine.affine, frame_ms=40.0)
    lines = ["subject_id,image,ed,es", *(f"{subject},heart.nii.gz,0,2" for subject in BAD)]
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    run = folder / "run"
    assert cmnet("infer", "--manifest", folder / "cohort.csv", "--out", run, "--model", tiny_model).exit_code == 0
    for subject, (spoil, _) in BAD.items():
        path = RunFolder(run).case(f"sub-{subject}").segnet_labels
        stored = read_cine(path, frame_ms=None)
        spoiled = spoil(stored.voxels.to(torch.uint8)).to(torch.uint8)
        write_labels(path, LabelSequence(spoiled, tuple(range(4)), stored.spacing, stored.affine), frame_ms=40.0)
    assert cmnet("indices", "--run", run, "--samples", 2).exit_code == 0
    return {name: rows(run, name) for name in ("indices", "frames", "segments", "bullseye", "motion")}


@pytest.mark.parametrize("subject", BAD)
def test_values_of_a_missing_structure_are_null_with_a_flag(
    tables: dict[str, list[dict[str, Any]]], subject: str
) -> None:
    own = {name: [row for row in listed if row["subject_id"] == subject] for name, listed in tables.items()}
    [row], reason = own["indices"], BAD[subject][1]
    assert set(row["qc_flags"]) <= set(FLAGS)
    assert (len(own["frames"]), len(own["segments"]), len(own["motion"])) == (4, 16, 1)
    has_wall, has_segments = reason not in WITHOUT_WALL, reason is None
    assert reason is None or reason in row["qc_flags"]
    for name in (
        "gcs_line_midwall_peak_pct",
        "grs_line_wall_es_pct",
        "wall_thickness_ed_mm",
        "gcs_line_midwall_peak_pct_hi",
    ):
        assert (row[name] is not None) == has_wall, name
    assert bool(own["bullseye"]) == has_segments
    for segment in own["segments"]:
        assert (segment["wall_thickness_ed_mm"] is not None) == has_segments
        assert reason is None or reason in segment["qc_flags"]
        assert set(segment["qc_flags"]) <= set(FLAGS)
