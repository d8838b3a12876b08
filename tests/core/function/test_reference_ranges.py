"""z-scores against the shipped reference ranges and against the user's own."""

from pathlib import Path

import pytest

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.function.reference_ranges import SHIPPED, Z_COLUMNS, compare_with_reference, read_reference

VALUES = {"lvedv_ml": 230.0, "lvesv_ml": 69.0, "lvef_pct": 48.0, "lvm_index_g_m2": 53.0, "rvedv_ml": 180.0}


def test_shipped_reference_ranges_are_those_of_petersen_2017() -> None:
    ranges = read_reference(SHIPPED)
    shipped = {(r.sex, r.quantity): (r.mean, r.sd) for r in ranges}
    assert shipped == {
        ("male", "lvedv_ml"): (166, 32),
        ("male", "lvesv_ml"): (69, 16),
        ("male", "lvsv_ml"): (96, 20),
        ("male", "lvsv_index_ml_m2"): (49, 10),
        ("male", "lvef_pct"): (58, 5),
        ("male", "lvm_index_g_m2"): (53, 9),
        ("female", "lvedv_ml"): (124, 21),
        ("female", "lvesv_ml"): (49, 11),
        ("female", "lvsv_ml"): (75, 14),
        ("female", "lvsv_index_ml_m2"): (45, 8),
        ("female", "lvef_pct"): (61, 5),
        ("female", "lvm_index_g_m2"): (42, 7),
    }
    assert {r.table for r in ranges} == {"petersen-2017-v2"}
    assert all("Petersen" in r.source and r.ages == (45, 74) for r in ranges)


def test_z_scores_are_those_of_the_sex_and_values_outside_the_range_are_named() -> None:
    ranges = read_reference(SHIPPED)
    man = compare_with_reference(VALUES, ranges, sex="male", age_years=60.0)
    assert man.z["lvedv_z"] == pytest.approx(2.0)
    assert man.z["lvesv_z"] == 0
    assert man.z["lvef_z"] == pytest.approx(-2.0)
    assert (man.z["lvsv_z"], man.z["rvedv_z"]) == (None, None)
    assert (man.outside, man.flags) == (("lvedv-high", "lvef-low"), ())
    woman = compare_with_reference(VALUES, ranges, sex="female", age_years=60.0)
    assert woman.z["lvedv_z"] == pytest.approx(106 / 21)


def test_z_scores_without_sex_are_none_and_another_age_is_flagged() -> None:
    ranges = read_reference(SHIPPED)
    without_sex = compare_with_reference(VALUES, ranges, sex=None, age_years=60.0)
    assert set(without_sex.z) == set(Z_COLUMNS.values())
    assert not any(without_sex.z.values())
    assert without_sex.flags == ("no-sex",)
    for age in (30.0, None):
        young = compare_with_reference(VALUES, ranges, sex="male", age_years=age)
        assert young.z["lvedv_z"] == pytest.approx(2.0)
        assert young.flags == ("age-outside-reference",)


def test_own_reference_ranges_may_include_the_rv_and_ages(tmp_path: Path) -> None:
    path = tmp_path / "ours.csv"
    path.write_text(
        "quantity,sex,mean,sd,age_from,age_to\nrvedv_ml,male,150,30,20,39.9\nrvedv_ml,male,120,30,40,80\n"
        "lvedv_ml,male,200,30,,\n"
    )
    ranges = read_reference(path)
    old = compare_with_reference(VALUES, ranges, sex="male", age_years=60.0)
    assert (old.z["rvedv_z"], old.z["lvedv_z"]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert old.flags == ()
    # Outside all ages there is no single range to take.
    beyond = compare_with_reference(VALUES, ranges, sex="male", age_years=90.0)
    assert (beyond.z["rvedv_z"], beyond.flags) == (None, ("age-outside-reference",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantity,sex,mean\nlvedv_ml,male,1\n", "lacks sd"),
        ("quantity,sex,mean,sd\n", "lacks rows"),
        ("quantity,sex,mean,sd,colour\nlvedv_ml,male,1,1,red\n", "unknown"),
        ("quantity,sex,mean,sd\nheight,male,1,1\n", "row 2: there is no z-score of 'height'"),
        ("quantity,sex,mean,sd\nlvedv_ml,man,1,1\n", "row 2: sex must be"),
        ("quantity,sex,mean,sd\nlvedv_ml,male,1,0\n", "an sd above 0"),
        ("quantity,sex,mean,sd\nlvedv_ml,male,many,1\n", "row 2: could not convert"),
        ("quantity,sex,mean,sd\nlvedv_ml,male,1,1\nlvedv_ml,male,2,1\n", "two ranges of lvedv_ml"),
        ("", "lacks quantity, sex, mean, sd"),
        (None, "cannot be read"),
    ],
)
def test_unusable_reference_ranges_are_refused_with_a_reason(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ManifestError, match=said) as raised:
        read_reference(path)
    assert raised.value.code == ErrorCode.REFERENCE_RANGES


def test_bias_against_readers_is_subtracted_and_indexed_values_have_z_scores(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("quantity,sex,mean,sd,bias\nlvm_g,male,100,10,5\nrvedv_index_ml_m2,male,90,15,\n")
    found = compare_with_reference(
        {"lvm_g": 125.0, "rvedv_index_ml_m2": 105.0}, read_reference(path), sex="male", age_years=None
    )
    assert found.z["lvm_z"] == pytest.approx(2.0)
    assert found.z["rvedv_index_z"] == pytest.approx(1.0)
    assert found.outside == ("lvm-high",)
