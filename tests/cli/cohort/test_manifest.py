from pathlib import Path

import pandas as pd
import pytest
import torch

from cmnet_cli.cohort.datasets import from_acdc, from_nifti
from cmnet_cli.cohort.manifest import Case, check_manifest, read_manifest, write_manifest
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io import nifti
from cmnet_core.labels import LabelScheme


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def full_case(row: int, subject: str, folder: Path) -> Case:
    return Case(
        row=row,
        subject_id=subject,
        session="2",
        image=(folder / f"{subject}.nii.gz",),
        labels_ed=folder / "masks" / "ed.nii.gz",
        labels_es=Path("/elsewhere/es.nii.gz"),
        label_scheme=LabelScheme.ACDC,
        ed=3,
        es=11,
        frame_ms=31.25,
        heart_rate_bpm=61.0,
        sex="female",
        age_years=63.5,
        height_cm=171.0,
        weight_kg=70.2,
        group="NOR, mild",
        site="north",
        scanner="1.5 T",
        extra={"visit_note": 'said "fine"'},
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_manifest_round_trip(tmp_path: Path, suffix: str) -> None:
    pair = Case(row=3, subject_id="b", image=(tmp_path / "ed.nii", tmp_path / "es.nii"), ed=0, es=1)
    cases = (full_case(2, "a", tmp_path), pair)
    write_manifest(tmp_path / f"cohort{suffix}", cases)
    manifest = read_manifest(tmp_path / f"cohort{suffix}")
    assert manifest.cases == cases
    assert [case.case_id for case in cases] == ["sub-a_ses-2", "sub-b"]
    write_manifest(tmp_path / "again.csv", cases)
    assert read_manifest(tmp_path / "again.csv").digest == manifest.digest


def test_manifest_paths_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write_manifest(tmp_path / "here" / "cohort.csv", [full_case(2, "a", tmp_path / "here")])
    (tmp_path / "here").rename(tmp_path / "there")
    (case,) = read_manifest(tmp_path / "there" / "cohort.csv").cases
    assert case.image == (tmp_path / "there" / "a.nii.gz",)
    assert case.labels_es == Path("/elsewhere/es.nii.gz")


def test_manifest_digest_depends_on_content_only(tmp_path: Path) -> None:
    one = table(tmp_path / "a.csv", "subject_id,image,group\nx,x.nii,NOR\ny,y.nii,\n")
    other = table(tmp_path / "b.tsv", "image\tsubject_id\tsite\tgroup\n\t\t\t\ny.nii\ty\t\t\nx.nii\tx\t\tNOR\n")
    changed = table(tmp_path / "c.csv", "subject_id,image,group\nx,x.nii,DCM\ny,y.nii,\n")
    digests = [read_manifest(path).digest for path in (one, other, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_manifest_pair_of_images_has_frames_0_and_1(tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", "subject_id,image,ed,es\na,ed.nii;es.nii,4,11\n")
    (case,) = read_manifest(path).cases
    assert (case.ed, case.es) == (0, 1)
    assert case.image == (tmp_path / "ed.nii", tmp_path / "es.nii")


def test_manifest_accepts_numbers_as_spreadsheets_write_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"subject_id": [9900001, 9900002], "image": ["a.nii", "b.nii"], "ed": [0, None], "sex": "F"})
    frame.to_parquet(tmp_path / "m.parquet")
    first, second = read_manifest(tmp_path / "m.parquet").cases
    assert (first.subject_id, first.ed, second.ed, first.sex) == ("9900001", 0, None, "female")
    path = table(tmp_path / "m.csv", "\ufeffsubject_id , image\n007,a.nii\n")
    assert read_manifest(path).cases[0].subject_id == "007"


def test_manifest_error_lists_all_problems(tmp_path: Path) -> None:
    rows = [
        "subject_id,image,session,labels,labels_ed,label_scheme,ed,es,height_cm,sex",
        "good,a.nii,,,,,,,,",
        "a/b,a.nii,,,,,,,,",
        "good,b.nii,,,,,,,,",
        f"{'x' * 65},a.nii,,,,,,,,",
        ",a.nii,,,,,,,,",
        "no-image,,,,,,,,,",
        "three,a;b;c,,,,,,,,",
        "text,a.nii,,,,,first,,,",
        "minus,a.nii,,,,,-1,,,",
        "same,a.nii,,,,,4,4,,",
        "scheme,a.nii,,,,ukb,,,,",
        "metres,a.nii,,,,,,,1.71,",
        "sex,a.nii,,,,,,,,1",
        "maskless,a.nii,,,ed.nii,,,,,",
        "both,a.nii,,all.nii,ed.nii,,0,,,",
        "twice,a.nii;a.nii,,,,,,,,",
    ]
    with pytest.raises(ManifestError) as caught:
        read_manifest(table(tmp_path / "m.csv", "\n".join(rows)))
    assert caught.value.code is ErrorCode.MANIFEST_ROW
    places = [line.strip().split(":")[0] for line in caught.value.message.splitlines()[1:]]
    columns = (
        "subject_id subject_id subject_id subject_id image image ed ed es label_scheme height_cm sex ed labels image"
    )
    assert places == [f"row {row}, {column}" for row, column in enumerate(columns.split(), start=3)]


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("m.csv", "", ErrorCode.MANIFEST_UNREADABLE, "No columns"),
        ("m.csv", "subject_id,image\n", ErrorCode.MANIFEST_EMPTY, "has no rows"),
        ("m.csv", "subject_id,image\n,\n\n", ErrorCode.MANIFEST_EMPTY, "has no rows"),
        ("m.csv", "Subject ID,image\n1,a.nii\n", ErrorCode.MANIFEST_COLUMN, "Rename 'Subject ID' to 'subject_id'"),
        ("m.csv", "subject_id;image\n1;a.nii\n", ErrorCode.MANIFEST_COLUMN, "commas separate"),
        (
            "m.csv",
            "subject_id,image\n1,a,b,c\n2\n3,a,b,c,d",
            ErrorCode.MANIFEST_UNREADABLE,
            "cannot be read as a table",
        ),
        ("m.xlsx", "PK", ErrorCode.MANIFEST_UNREADABLE, "Save the table as CSV"),
        ("m.parquet", "text", ErrorCode.MANIFEST_UNREADABLE, "cannot be read as a table"),
    ],
)
def test_manifest_that_is_no_table_is_refused(tmp_path: Path, name: str, text: str, code: ErrorCode, said: str) -> None:
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(table(tmp_path / name, text))
    assert caught.value.code is code


def test_missing_or_binary_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"subject_id,image\n\xff\xfe,a\n")
    for name in ("m.csv", "nowhere.csv"):
        with pytest.raises(ManifestError) as caught:
            read_manifest(tmp_path / name)
        assert caught.value.code is ErrorCode.MANIFEST_UNREADABLE
    assert caught.value.message == f"{tmp_path / 'nowhere.csv'} cannot be read as a table: No such file or directory."


def save(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write_image(path, torch.zeros(*shape), affine=torch.eye(4, dtype=torch.float64), frame_ms=None)
    return path


def acdc_patient(folder: Path, number: int, *, ed: int, es: int, cine_frames: int | None) -> None:
    patient = folder / f"patient{number:03d}"
    for frame in (ed, es):
        for mask in ("", "_gt"):
            save(patient / f"{patient.name}_frame{frame:02d}{mask}.nii.gz", 2, 3, 4)
    if cine_frames is not None:
        save(patient / f"{patient.name}_4d.nii.gz", cine_frames, 2, 3, 4)
    (patient / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")


@pytest.mark.parametrize("inner", ["", "training"])
def test_acdc_image_is_the_cine_or_the_pair_of_frames(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    acdc_patient(folder, 1, ed=1, es=12, cine_frames=None)
    acdc_patient(folder, 90, ed=4, es=11, cine_frames=12)
    acdc_patient(folder, 91, ed=4, es=11, cine_frames=5)
    pair, cine, short = from_acdc(tmp_path).cases
    assert [path.name for path in pair.image] == ["patient001_frame01.nii.gz", "patient001_frame12.nii.gz"]
    assert (pair.ed, pair.es, pair.height_cm, pair.weight_kg, pair.group) == (0, 1, 184.0, 95.0, "DCM")
    assert (pair.label_scheme, len(short.image)) == (LabelScheme.ACDC, 2)
    assert [path.name for path in cine.image] == ["patient090_4d.nii.gz"]
    assert (cine.ed, cine.es) == (3, 10)
    assert cine.labels_es is not None
    assert cine.labels_es.name == "patient090_frame11_gt.nii.gz"


def test_acdc_patients_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    for number in range(1, 8):
        acdc_patient(tmp_path, number, ed=1, es=12, cine_frames=8 if number == 4 else None)
    for number in (1, 4):
        (tmp_path / f"patient{number:03d}" / f"patient{number:03d}_frame12.nii.gz").unlink()
    info = "ED: 1\nES: 12\nGroup: RV\nHeight: {}\n"
    for number, text in ((2, "ED: one\n"), (5, info.format("1.71")), (6, info.format("NA"))):
        (tmp_path / f"patient{number:03d}" / "Info.cfg").write_text(text)
    (tmp_path / "patient003" / "Info.cfg").unlink()
    (tmp_path / "._patient101").write_bytes(b"of another file system")
    listing = from_acdc(tmp_path)
    assert [case.subject_id for case in listing.cases] == ["patient006", "patient007"]
    assert listing.cases[0].height_cm is None
    reasons = {left_out.path.name: left_out.reason for left_out in listing.left_out}
    assert reasons == {
        "patient001": "The 4-D cine is missing, and there are no files of the frames of ED and ES.",
        "patient002": "Info.cfg does not give ED and ES as numbers of frames.",
        "patient003": "Info.cfg is missing, which names the frames of ED and ES.",
        "patient004": "Info.cfg names frame 12, the 4-D cine has 8 frames, and there are no files of the frames of ED "
        "and ES.",
        "patient005": "Info.cfg, height_cm: Expected a number from 30 to 250, found '1.71'.",
    }
    with pytest.raises(ManifestError, match="found none"):
        from_acdc(tmp_path / "patient001")


def test_nifti_layout_by_pattern(tmp_path: Path) -> None:
    for subject in ("p1", "p2"):
        save(tmp_path / subject / f"{subject}_ses-2_sa.nii.gz", 2, 2, 3, 4)
    save(tmp_path / "p1" / "p1_ses-2_gt.nii.gz", 2, 2, 3, 4)
    cases = from_nifti(
        tmp_path,
        pattern="{subject_id}/{subject_id}_ses-{session}_*.nii.gz",
        labels="{subject_id}/{subject_id}_ses-{session}_gt.nii.gz",
        scheme=LabelScheme.MNMS,
    ).cases
    assert [case.case_id for case in cases] == ["sub-p1_ses-2", "sub-p2_ses-2"]
    assert [case.labels is not None for case in cases] == [True, False]
    with pytest.raises(ManifestError, match="does not say where"):
        from_nifti(tmp_path, pattern="*.nii", scheme=LabelScheme.CMNET)
    with pytest.raises(ManifestError, match="found none"):
        from_nifti(tmp_path, scheme=LabelScheme.CMNET)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_manifest_cells_are_guarded_against_csv_injection(tmp_path: Path, suffix: str) -> None:
    cells = {"note": "=HYPERLINK(A1)", "@more": "+cmd|' /C calc'!A0", "shift_mm": "-1.5", "said": "'tis"}
    case = Case(2, "-x1", (tmp_path / "=a.nii",), group="@home", extra=cells)
    path = tmp_path / f"m{suffix}"
    write_manifest(path, [case])
    separator = "," if suffix == ".csv" else "\t"
    cells = [cell.strip('"') for line in path.read_text().splitlines() for cell in line.split(separator)]
    assert [cell for cell in cells if cell.startswith(("=", "+", "@", "-"))] == ["-1.5"]
    assert read_manifest(path).cases == (case,)


def test_manifest_error_does_not_repeat_an_invalid_id(tmp_path: Path) -> None:
    _, problems = check_manifest(table(tmp_path / "m.csv", "subject_id,image\n9900001/<b>,a.nii\n9900002,\n"))
    assert [problem.row for problem in problems] == [2, 3]
    assert "found '/', '<', '>' in it" in problems[0].message
    assert "9900001" not in problems[0].message


def test_manifest_missing_values_are_empty_cells(tmp_path: Path) -> None:
    text = "subject_id,image,height_cm,ed,sex,clinic\na,a.nii,NA,n/a,NaN,null\n"
    (case,) = read_manifest(table(tmp_path / "m.csv", text)).cases
    assert (case.height_cm, case.ed, case.sex, case.extra) == (None, None, None, {})


def test_manifest_error_in_one_cell_costs_its_row(tmp_path: Path) -> None:
    text = "subject_id,image,height_cm\na,a.nii,171\nb,b.nii,Prefer not to answer\nc/d,c.nii,\ne,e.nii,\n"
    manifest = read_manifest(table(tmp_path / "m.csv", text))
    assert [case.subject_id for case in manifest.cases] == ["a", "e"]
    assert [(problem.row, problem.column) for problem in manifest.left_out] == [(3, "height_cm"), (4, "subject_id")]
    assert "NA, n/a and NaN count as empty" in manifest.left_out[0].hint
    codes = table(tmp_path / "codes.csv", "subject_id,image,height_cm\na,a.nii,-3\nb,b.nii,1.71\n")
    hints = [problem.hint for problem in check_manifest(codes)[1]]
    assert ["must be an empty cell" in hint for hint in hints] == [True, False]
    with pytest.raises(ManifestError, match="same subject and visit"):
        read_manifest(table(tmp_path / "m.csv", text + "a,f.nii,\n"))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
def test_manifest_with_two_columns_of_one_name_is_refused(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame([["a", "a.nii", "b.nii"]], columns=["subject_id", "image", "image "])
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_csv(tmp_path / name, sep="," if name.endswith("csv") else "\t", index=False)
    with pytest.raises(ManifestError, match="found two of 'image'") as caught:
        read_manifest(tmp_path / name)
    assert caught.value.code is ErrorCode.MANIFEST_COLUMN


def test_manifest_ids_with_the_prefixes_of_bids_are_those_without(tmp_path: Path) -> None:
    text = "subject_id,session,image\nsub-01,ses-2,a.nii\n02,2,b.nii\n"
    assert [case.case_id for case in read_manifest(table(tmp_path / "m.csv", text)).cases] == [
        "sub-01_ses-2",
        "sub-02_ses-2",
    ]
    with pytest.raises(ManifestError, match="same subject and visit"):
        read_manifest(table(tmp_path / "m.csv", text + "01,2,c.nii\n"))


@pytest.mark.parametrize("cell", ["9900001.0", "9.90E+06"])
def test_manifest_id_that_a_table_program_made_a_number(tmp_path: Path, cell: str) -> None:
    _, (problem,) = check_manifest(table(tmp_path / "m.csv", f"subject_id,image\n{cell},a.nii\n"))
    assert problem.hint == "A table program made a number of this id: store the column as text."


@pytest.mark.parametrize("column", ["image", "labels"])
@pytest.mark.parametrize("path", ["x" * 256, "a/" * 2100])
def test_path_that_no_file_can_have_is_named(tmp_path: Path, column: str, path: str) -> None:
    manifest = tmp_path / "m.csv"
    cells = {"subject_id": "1", "image": "a.nii", "labels": "b.nii", "label_scheme": "acdc"} | {column: path}
    manifest.write_text(f"{','.join(cells)}\n{','.join(cells.values())}\n2,a.nii,,\n")
    [problem] = read_manifest(manifest).left_out
    assert (problem.column, problem.message) == (column, "No file can have a name this long.")
