"""Implausible results are flagged, plausible ones are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.function.volumes import ClinicalIndices, smooth_volume_curve
from cmnet_core.labels import Label
from cmnet_core.qc.flags import FLAGS, GROUPS
from cmnet_core.qc.result_checks import (
    PhaseLabels,
    check_confidence,
    check_contours,
    check_function,
    check_motion,
    check_strain,
    check_volume_curve,
    withhold_truncated,
)
from cmnet_core.qc.thresholds import MINIMUM_PROMINENCE

RADII_ED = (9, 10, 9, 8, 6, 3, 0)
RADII_ES = (0, 7, 6, 5, 4, 2, 0)
NORMAL = ClinicalIndices(
    lvedv_ml=150.0,
    lvesv_ml=60.0,
    lvsv_ml=90.0,
    lvef_pct=60.0,
    lvm_g=110.0,
    rvedv_ml=170.0,
    rvesv_ml=80.0,
    rvsv_ml=90.0,
    rvef_pct=53.0,
)


def _heart(radii: tuple[int, ...], *, size: int = 64, shift: int = 0) -> Tensor:
    """Discs of LV in a wall of three voxels, with an RV disc to the left."""
    axis = torch.arange(size, dtype=torch.float32) - size // 2
    y, x = torch.meshgrid(axis, axis - shift, indexing="ij")
    labels = torch.zeros(len(radii), size, size, dtype=torch.uint8)
    for plane, radius in zip(labels, radii, strict=True):
        if radius:
            plane[(x + 14).hypot(y) < radius] = Label.RV
            plane[x.hypot(y) < radius + 3] = Label.MYO
            plane[x.hypot(y) < radius] = Label.LV
    return labels


def _flags_of(ed: Tensor, es: Tensor) -> list[str]:
    contours = PhaseLabels(ed, es)
    return list(check_contours(contours, contours))


def test_a_completely_imaged_heart_has_no_flag() -> None:
    assert _flags_of(_heart(RADII_ED), _heart(RADII_ES)) == []
    # The same stack from apex to base has none either.
    assert _flags_of(_heart(RADII_ED).flip(0), _heart(RADII_ES).flip(0)) == []


def test_a_stack_that_begins_below_the_base_or_ends_above_the_apex_is_flagged() -> None:
    assert _flags_of(_heart(RADII_ED)[1:], _heart(RADII_ES)[1:]) == ["base-not-covered"]
    assert _flags_of(_heart(RADII_ED)[:4], _heart(RADII_ES)[:4]) == ["few-slices", "apex-not-covered"]
    # The stack goes on, but the segmentation ends too early.
    assert _flags_of(_heart((9, 10, 10, 9, 9, 0, 0)), _heart((0, 7, 7, 6, 5, 0, 0))) == ["apex-not-covered"]


@pytest.mark.parametrize(("label", "flag"), [(Label.LV, "lv-gap-in-stack"), (Label.RV, "rv-gap-in-stack")])
def test_a_gap_in_the_stack_is_flagged_at_either_phase(label: Label, flag: str) -> None:
    for spoiled in (0, 1):
        maps = [_heart(RADII_ED), _heart(RADII_ES)]
        maps[spoiled][3][maps[spoiled][3] == label] = Label.BACKGROUND
        assert _flags_of(*maps) == [flag]


@pytest.mark.parametrize("structure", [(Label.LV,), (Label.RV,), (Label.LV, Label.MYO)])
def test_a_second_part_of_a_structure_is_flagged_at_either_phase(structure: tuple[Label, ...]) -> None:
    for spoiled in (0, 1):
        maps = [_heart(RADII_ED), _heart(RADII_ES)]
        part = torch.isin(maps[spoiled][2], torch.tensor(structure, dtype=torch.uint8))
        across = part.any(0).nonzero()
        # A column of background through its middle parts it; a voxel apart does not count.
        maps[spoiled][2][:, int(across[0] + across[-1]) // 2] = Label.BACKGROUND
        assert "contours-fragmented" in _flags_of(*maps)
    speck = [_heart(RADII_ED), _heart(RADII_ES)]
    speck[0][2][2, 2] = structure[0]
    assert "contours-fragmented" not in _flags_of(*speck)


def test_a_structure_at_the_image_border_is_flagged() -> None:
    moved = [_heart(radii, shift=24) for radii in (RADII_ED, RADII_ES)]
    assert _flags_of(*moved) == ["lv-cut-at-border"]
    moved = [_heart(radii, shift=-16) for radii in (RADII_ED, RADII_ES)]
    assert _flags_of(*moved) == ["rv-cut-at-border"]


def test_volumes_of_a_single_slice_are_withheld() -> None:
    assert "too-few-slices" in _flags_of(_heart((9,)), _heart((6,)))
    withheld = withhold_truncated(NORMAL, {QCFlag.TOO_FEW_SLICES})
    assert (withheld.lvedv_ml, withheld.lvm_g, withheld.rvef_pct) == (None, None, None)
    assert withhold_truncated(NORMAL, {QCFlag.RV_GAP_IN_STACK}).lvef_pct == 60.0
    assert withhold_truncated(NORMAL, {QCFlag.BASE_NOT_COVERED, QCFlag.FEW_SLICES}) == NORMAL


def test_implausible_ejection_fractions_and_stroke_volumes_are_flagged() -> None:
    assert list(check_function(NORMAL)) == []
    assert list(check_function(replace(NORMAL, rvef_pct=2.0))) == ["rvef-implausible"]
    assert list(check_function(replace(NORMAL, lvef_pct=91.0))) == ["lvef-implausible"]
    widely = ["stroke-volumes-differ", "stroke-volumes-differ-widely"]
    cases = ((100, 86, []), (100, 85, widely[:1]), (85, 100, widely[:1]), (100, 70, widely), (70, 100, widely))
    for lv, rv, expected in cases:
        indices = replace(NORMAL, lvsv_ml=float(lv), rvsv_ml=float(rv))
        assert list(check_function(indices)) == expected
    assert list(check_function(replace(NORMAL, rvsv_ml=None, rvef_pct=None))) == []


def _curve(*, beats: float = 1.0, frames: int = 20) -> Tensor:
    phase = 2 * torch.pi * torch.arange(frames) / frames
    return 110 + 40 * torch.cos(beats * phase)


def test_minima_of_random_curves_are_counted_as_scipy_counts_them() -> None:
    generator, flagged = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        modes = torch.randn(4, 2, generator=generator).double() / torch.arange(1, 5)[:, None]
        angle = torch.arange(30).double() * 2 * torch.pi / 30 * torch.arange(1, 5)[:, None]
        curve = 100 + 10 * (modes[:, :1] * angle.cos() + modes[:, 1:] * angle.sin()).sum(0)
        smooth = smooth_volume_curve(curve).numpy()
        opened = np.roll(smooth, -int(smooth.argmax()))
        opened = np.append(opened, opened[0])
        minima = find_peaks(-opened, prominence=MINIMUM_PROMINENCE * np.ptp(opened))[0]
        found = list(check_volume_curve(curve, given_ed=None, given_es=None))
        assert found == (["multiple-volume-minima"] if len(minima) > 1 else [])
        flagged += len(found)
    assert 10 < flagged < 90


def test_a_volume_curve_of_two_cycles_is_flagged_and_one_with_a_plateau_is_not() -> None:
    assert list(check_volume_curve(_curve(beats=2.0), given_ed=None, given_es=None)) == ["multiple-volume-minima"]
    plateau = _curve()
    plateau[14:17] = plateau[14:17].mean() - torch.tensor([2.0, 4.0, 2.0])
    for start in (0, 5, 10):
        assert list(check_volume_curve(plateau.roll(start), given_ed=None, given_es=None)) == []
    # The median removes a single outlier; a constant volume has no curve.
    spoiled = _curve()
    spoiled[3] = 70.0
    assert list(check_volume_curve(spoiled, given_ed=None, given_es=None)) == []
    assert list(check_volume_curve(torch.full((20,), 100.0), given_ed=3, given_es=5)) == []


def test_ed_and_es_of_the_manifest_that_contradict_the_volumes_are_flagged() -> None:
    assert list(check_volume_curve(_curve(), given_ed=1, given_es=10)) == []
    assert list(check_volume_curve(_curve(), given_ed=5, given_es=9)) == ["ed-inconsistent-with-volumes"]
    assert list(check_volume_curve(_curve(), given_ed=0, given_es=0)) == ["es-inconsistent-with-volumes"]
    assert list(check_volume_curve(torch.tensor([60.0, 140.0]), given_ed=0, given_es=1)) == [
        "ed-inconsistent-with-volumes",
        "es-inconsistent-with-volumes",
    ]


def test_implausible_motion_is_flagged() -> None:
    assert (
        list(
            check_motion(
                folded_voxels=0,
                cycle_consistency_error_mm=3.0,
                entropy_heart_nats=-6.0,
                myocardial_volume_change_pct=9.0,
            )
        )
        == []
    )
    assert (
        list(
            check_motion(
                folded_voxels=0,
                cycle_consistency_error_mm=3.0,
                entropy_heart_nats=None,
                myocardial_volume_change_pct=None,
            )
        )
        == []
    )
    assert list(
        check_motion(
            folded_voxels=1, cycle_consistency_error_mm=8.6, entropy_heart_nats=1.5, myocardial_volume_change_pct=-24.0
        )
    ) == [
        "motion-folds",
        "cycle-inconsistent",
        "low-confidence-motion",
        "myocardial-volume-changes",
    ]


def test_implausible_strain_is_flagged() -> None:
    assert list(check_strain({"gcs_green_wall": -18.0, "grs_green_wall": 45.0})) == []
    assert list(check_strain({"gcs_green_wall": None, "grs_green_wall": None})) == []
    assert list(check_strain({"gcs_green_wall": -18.0, "grs_green_wall": 159.0})) == ["strain-implausible"]
    assert list(check_strain({"gcs_green_wall": 45.0, "grs_green_wall": 45.0})) == ["strain-implausible"]


def test_a_segmentation_of_low_confidence_is_flagged() -> None:
    certain = torch.nn.functional.one_hot(_heart(RADII_ED).long(), 4).movedim(-1, 0).float()[None]
    uncertain = 0.4 * certain + 0.15
    assert list(check_confidence(certain)) == []
    assert list(check_confidence(0.8 * certain + 0.05)) == []
    assert list(check_confidence(uncertain)) == ["low-confidence-segmentation"]
    assert list(check_confidence(torch.cat([certain, uncertain]))) == ["low-confidence-segmentation"]


def test_every_flag_is_documented() -> None:
    assert set(FLAGS) == set(QCFlag)
    assert len(FLAGS) == sum(len(group) for group in GROUPS.values())
    for flag in FLAGS.values():
        assert flag.name == flag.name.lower().replace("_", "-")
        assert flag.raised
        assert flag.advice.endswith(".")
