"""Each layout as its owners hand it out, built small, through the command manifest."""

from pathlib import Path

import pytest
import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.cohort.table import read_table
from cmnet_core.io import nifti
from cmnet_core.labels import LabelScheme
from tests.cli.commanding import cmnet, errors_of
from tests.dicoms import stack, write_zip


def save(path: Path, voxels: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write_image(path, voxels, affine=torch.eye(4, dtype=torch.float64), frame_ms=None)
    return path


def cine(frames: int = 5) -> torch.Tensor:
    return torch.arange(float(frames * 24)).reshape(frames, 2, 3, 4)


def masks(*frames: int, of: int = 5) -> torch.Tensor:
    labels = torch.zeros(of, 2, 3, 4, dtype=torch.uint8)
    labels[list(frames)] = 1
    return labels


def mnms(folder: Path) -> Path:
    for subject in ("A0S9V9", "B2E5W2"):
        save(folder / "Training" / subject / f"{subject}_sa.nii.gz", cine())
        save(folder / "Training" / subject / f"{subject}_sa_gt.nii.gz", masks(1, 3))
    (folder / "information.csv").write_text(
        "External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"
        "A0S9V9,Siemens,A,1,1,3,28,NOR,F,171,70\nB2E5W2,Philips,B,2,1,3,61.5,DCM,M,,\n"
    )
    return folder


def ukb(folder: Path) -> Path:
    for name in ("99/9900001_20209_2_0.zip", "99/9900001_20209_3_0.zip", "98/9900002_20209_2_0.zip"):
        write_zip(folder / name, stack(slices=2, phases=3))
    (folder / "98" / "9900002_20208_2_0.zip").write_bytes(b"long axes, another field")
    write_zip(folder / "98" / "9900002_20209_2_1.zip", stack(slices=2, phases=4))
    return folder


def ukbb_cardiac(folder: Path) -> Path:
    voxels = cine()
    save(folder / "9900001" / "sa.nii.gz", voxels)
    for phase, frame in (("ED", 0), ("ES", 3)):
        save(folder / "9900001" / f"sa_{phase}.nii.gz", voxels[frame])
        save(folder / "9900001" / f"seg_sa_{phase}.nii.gz", masks(frame)[frame])
    save(folder / "9900002" / "sa.nii.gz", voxels)
    save(folder / "9900002" / "seg_sa.nii.gz", masks(0, 2))
    for phase in ("ED", "ES"):
        save(folder / "9900003" / f"sa_{phase}.nii.gz", voxels[0])
    return folder


@pytest.mark.parametrize("layout", ["mnms", "auto"])
def test_mnms_layout_with_its_table(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "cohort.csv"
    assert cmnet("manifest", mnms(tmp_path / "data"), "--layout", layout, "-o", out).exit_code == 0
    first, second = read_manifest(out).cases
    assert (first.subject_id, first.ed, first.es, first.label_scheme) == ("A0S9V9", 1, 3, LabelScheme.MNMS)
    assert (first.sex, first.age_years, first.height_cm, first.weight_kg) == ("female", 28.0, 171.0, 70.0)
    assert (second.group, second.site, second.scanner, second.height_cm) == ("DCM", "2", "Philips", None)
    assert errors_of(out, deep=True) == []


@pytest.mark.parametrize("layout", ["ukb", "auto"])
def test_ukb_layout_by_subject_and_visit(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "cohort.csv"
    assert cmnet("manifest", ukb(tmp_path / "data"), "--layout", layout, "-o", out).exit_code == 0
    cases = read_manifest(out).cases
    assert [case.case_id for case in cases] == ["sub-9900001_ses-2", "sub-9900001_ses-3", "sub-9900002_ses-2"]
    assert cases[2].image[0].name == "9900002_20209_2_1.zip"
    assert errors_of(out, deep=True) == []


def left_out(folder: Path) -> dict[str, str]:
    """Reason by name of the folder or file, from the table beside the manifest."""
    table = folder / "cohort_left_out.csv"
    return {Path(cells["path"]).name: cells["reason"] for _, cells in read_table(table).rows} if table.exists() else {}


def test_ukb_visit_stored_twice_or_without_short_axis_is_left_out(tmp_path: Path) -> None:
    data = ukb(tmp_path / "data")
    write_zip(data / "97" / "9900001_20209_2_0.zip", stack(slices=2, phases=3))
    (data / "97" / "9900003_20208_2_0.zip").write_bytes(b"long axes, another field")
    ran = cmnet("manifest", data, "--layout", "ukb", "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, "two places" in ran.output, "99000" in ran.output) == (4, True, False)
    assert [case.case_id for case in read_manifest(tmp_path / "cohort.csv").cases] == [
        "sub-9900001_ses-3",
        "sub-9900002_ses-2",
    ]
    assert set(left_out(tmp_path)) == {"9900001_20209_2_0.zip", "9900003_20208_2_0.zip"}


@pytest.mark.parametrize("layout", ["ukbb_cardiac", "auto"])
def test_ukbb_cardiac_layout_detects_frames_of_masks(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "cohort.csv"
    assert cmnet("manifest", ukbb_cardiac(tmp_path / "data"), "--layout", layout, "-o", out).exit_code == 0
    by_phase, whole, pair = read_manifest(out).cases
    assert (by_phase.ed, by_phase.es) == (0, 3)
    assert by_phase.labels_es is not None
    assert by_phase.labels_es.name == "seg_sa_ES.nii.gz"
    assert whole.labels is not None
    assert [path.name for path in pair.image] == ["sa_ED.nii.gz", "sa_ES.nii.gz"]
    assert errors_of(out, deep=True) == []


UKB_COLUMNS = {
    "new": "eid,p31,p21003_i2,p21003_i3,p50_i2,p50_i3,p21002_i2,p21002_i3",
    "old": "eid,31-0.0,21003-2.0,21003-3.0,50-2.0,50-3.0,21002-2.0,21002-3.0",
    "dotted": "f.eid,f.31.0.0,f.21003.2.0,f.21003.3.0,f.50.2.0,f.50.3.0,f.21002.2.0,f.21002.3.0",
}


@pytest.mark.parametrize("style", UKB_COLUMNS)
def test_demographics_of_each_visit(tmp_path: Path, style: str) -> None:
    table, out = tmp_path / "demographics.csv", tmp_path / "cohort.csv"
    table.write_text(f"{UKB_COLUMNS[style]}\n9900001,0,61,64,165,164.5,60.2,63\n9900009,1,50,55,180,180,90,90\n")
    ran = cmnet("manifest", ukb(tmp_path / "data"), "-o", out, "--demographics", table)
    assert ran.exit_code == 0
    first, second, unknown = read_manifest(out).cases
    assert (first.sex, first.age_years, first.height_cm, first.weight_kg) == ("female", 61.0, 165.0, 60.2)
    assert (second.sex, second.age_years, second.height_cm, second.weight_kg) == ("female", 64.0, 164.5, 63.0)
    assert (unknown.sex, unknown.weight_kg) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eid,p50_i2\n9900001.0,171\n", "made numbers of the ids"),
        ("name,p50_i2\n9900001,171\n", "expected a column of ids"),
        ("eid\tp50_i2\n9900001\t171\n", "commas separate"),
        ("eid,p50_i2\n9900077,171\n", "no subject of the data set"),
    ],
)
def test_unusable_demographics_are_refused(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "demographics.csv"
    table.write_text(text)
    ran = cmnet("manifest", ukb(tmp_path / "data"), "-o", tmp_path / "cohort.csv", "--demographics", table)
    assert (ran.exit_code, message in " ".join(ran.output.split())) == (3, True)


def test_unusable_cell_of_demographics_costs_its_subject(tmp_path: Path) -> None:
    table, out = tmp_path / "demographics.csv", tmp_path / "cohort.csv"
    table.write_text("eid,p50_i2,p21002_i2\n9900001,1.71,70\n9900002,NA,Prefer not to answer\n")
    ran = cmnet("manifest", ukb(tmp_path / "data"), "-o", out, "--demographics", table)
    assert ran.exit_code == 4
    assert [(case.case_id, case.height_cm, case.weight_kg) for case in read_manifest(out).cases] == [
        ("sub-9900001_ses-3", None, None),
        ("sub-9900002_ses-2", None, None),
    ]
    expected = "row 2 of demographics.csv, height_cm: Expected a number from 30 to 250, found '1.71'."
    assert left_out(tmp_path) == {"9900001_20209_2_0.zip": expected}
    table.write_text("eid,p50_i2,p21002_i2\n9900001,171,70\n9900002,NA,\n")
    assert cmnet("manifest", tmp_path / "data", "-o", out, "--demographics", table).exit_code == 0
    assert left_out(tmp_path) == {}


def test_folders_without_an_image_are_left_out(tmp_path: Path) -> None:
    data = ukbb_cardiac(tmp_path / "cardiac")
    save(data / "9900004" / "la_4ch.nii.gz", cine())
    (data / "9900005").mkdir()
    (data / "9900003" / "sa_ES.nii.gz").unlink()
    (data / ".git").mkdir()
    assert cmnet("manifest", data, "-o", tmp_path / "cohort.csv").exit_code == 4
    assert list(left_out(tmp_path)) == ["9900003", "9900004", "9900005"]
    for path in ("sub-01/ses-1", "sub-01/ses-2", "sub-02/ses-1"):
        (tmp_path / "bids" / path).mkdir(parents=True)
    save(tmp_path / "bids" / "sub-01" / "ses-1" / "x_cine.nii.gz", cine())
    pattern = "sub-{subject_id}/ses-{session}/*_cine.nii.gz"
    ran = cmnet("manifest", tmp_path / "bids", "--layout", "nifti", "--pattern", pattern, "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, list(left_out(tmp_path))) == (4, ["ses-2", "sub-02"])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("dataset/001/001_SA_CINE.nii.gz", "dataset/{subject_id}/{subject_id}_SA_CINE.nii.gz"),
        (
            "sub-01/ses-1/sub-01_ses-1_cine.nii.gz",
            "sub-{subject_id}/ses-{session}/sub-{subject_id}_ses-{session}_cine.nii.gz",
        ),
    ],
)
def test_layout_that_is_not_known_is_named_by_a_pattern(tmp_path: Path, name: str, pattern: str) -> None:
    save(tmp_path / "data" / name, cine())
    save(tmp_path / "data" / name.replace("_SA_", "_LA_"), cine())
    ran = cmnet("manifest", tmp_path / "data", "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, f"--pattern '{pattern}'" in " ".join(ran.output.split())) == (3, True)
    ran = cmnet("manifest", tmp_path / "data", "--layout", "nifti", "--pattern", pattern, "-o", tmp_path / "cohort.csv")
    assert ran.exit_code == 0


def test_detect_layout(tmp_path: Path) -> None:
    mixed = ukb(mnms(tmp_path / "mixed"))
    ran = cmnet("manifest", mixed, "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, "found mnms, ukb" in " ".join(ran.output.split())) == (3, True)
    (tmp_path / "empty").mkdir()
    assert cmnet("manifest", tmp_path / "empty", "-o", tmp_path / "cohort.csv").exit_code == 3
    save(tmp_path / "plain" / "9900001.nii.gz", cine())
    assert cmnet("manifest", tmp_path / "plain", "-o", tmp_path / "cohort.csv").exit_code == 0
    assert [case.subject_id for case in read_manifest(tmp_path / "cohort.csv").cases] == ["9900001"]


def test_links_out_of_a_data_set_are_left_out_unless_they_are_followed(tmp_path: Path) -> None:
    data = ukb(tmp_path / "data")
    write_zip(tmp_path / "elsewhere" / "9900007_20209_2_0.zip", stack(slices=2, phases=3))
    (data / "9900007_20209_2_0.zip").symlink_to(tmp_path / "elsewhere" / "9900007_20209_2_0.zip")
    (data / "more").symlink_to(tmp_path / "elsewhere")
    (data / "9900008_20209_2_0.zip").symlink_to(data / "98" / "9900002_20209_2_0.zip")
    (tmp_path / "elsewhere" / "back").symlink_to(data)
    ran = cmnet("manifest", data, "--layout", "ukb", "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, "This link leads out" in ran.stderr) == (4, True)
    assert set(left_out(tmp_path)) == {"9900007_20209_2_0.zip", "more"}
    assert [case.subject_id for case in read_manifest(tmp_path / "cohort.csv").cases][-2:] == ["9900002", "9900008"]
    (data / "9900007_20209_2_0.zip").unlink()
    ran = cmnet("manifest", data, "--layout", "ukb", "--follow-links", "-o", tmp_path / "cohort.csv")
    assert ran.exit_code == 0
    assert [(case.subject_id, case.follow_links) for case in read_manifest(tmp_path / "cohort.csv").cases][-2:] == [
        ("9900007", True),
        ("9900008", True),
    ]


def test_data_set_of_links_names_the_option_that_follows_them(tmp_path: Path) -> None:
    acdc_patient = tmp_path / "elsewhere" / "patient001"
    save(acdc_patient / "patient001_4d.nii.gz", cine())
    (acdc_patient / "Info.cfg").write_text("ED: 1\nES: 3\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patient001").symlink_to(acdc_patient)
    refused = cmnet("manifest", tmp_path / "data", "-o", tmp_path / "cohort.csv")
    assert (
        refused.exit_code,
        "lead out of the folder: 1; give --follow-links" in " ".join(refused.output.split()),
    ) == (
        3,
        True,
    )
    ran = cmnet("manifest", tmp_path / "data", "--follow-links", "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, len(read_manifest(tmp_path / "cohort.csv").cases)) == (0, 1), ran.output


def test_message_does_not_name_an_incomplete_subject(tmp_path: Path) -> None:
    data = ukbb_cardiac(tmp_path / "data")
    (data / "9900003" / "sa_ES.nii.gz").unlink()
    ran = cmnet("manifest", data, "--layout", "ukbb_cardiac", "-o", tmp_path / "cohort.csv")
    assert (ran.exit_code, "1 left out" in ran.output, "Expected sa.nii.gz" in ran.output) == (4, True, True)
    assert "9900003" not in ran.output
    for name in ("9900001/sa.nii.gz", "9900001/sa_ED.nii.gz", "9900002/sa.nii.gz"):
        (data / name).unlink()
    ran = cmnet("manifest", data, "--layout", "ukbb_cardiac", "-o", tmp_path / "none.csv")
    assert (ran.exit_code, "none of the 3 subjects" in ran.output) == (3, True)
    assert not (tmp_path / "none.csv").exists()
