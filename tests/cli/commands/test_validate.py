import json
import zipfile
from pathlib import Path

import pytest
import torch

from cmnet_cli.cohort.manifest import Case
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import nifti
from cmnet_core.labels import LabelScheme
from tests.cli.commanding import cmnet, errors_of
from tests.dicoms import dicom_bytes, stack


def save(path: Path, *shape: int, value: float = 0.0, shift_mm: float = 0.0, frame_ms: float | None = None) -> Path:
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 3] = shift_mm
    nifti.write_image(path, torch.full(shape, value), affine=affine, frame_ms=frame_ms)
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def cohort(folder: Path) -> Path:
    """A manifest in which every row but the first and the last has one problem."""
    save(folder / "cine.nii.gz", 5, 2, 3, 4)
    save(folder / "ed.nii.gz", 2, 3, 4)
    save(folder / "es-elsewhere.nii.gz", 2, 3, 4, shift_mm=30.0)
    save(folder / "mask.nii.gz", 2, 3, 4, value=1.0)
    save(folder / "mask7.nii.gz", 2, 3, 4, value=7.0)
    save(folder / "mask-large.nii.gz", 2, 3, 5, value=1.0)
    save(folder / "nan.nii.gz", 5, 2, 3, 4, value=float("nan"))
    cut(save(folder / "cut.nii.gz", 5, 2, 3, 4))
    with zipfile.ZipFile(folder / "dicoms.zip", "w") as archive:
        for number, image in enumerate(stack(slices=2, phases=4)):
            archive.writestr(f"{number}.dcm", dicom_bytes(image))
    rows = [
        "subject_id,image,ed,es,labels_ed,labels",
        "good,cine.nii.gz,0,2,mask.nii.gz,",
        "bad/id,cine.nii.gz,,,,",
        "missing,nowhere.nii.gz,,,,",
        "volume,ed.nii.gz,,,,",
        "outside,cine.nii.gz,0,5,,",
        "apart,ed.nii.gz;es-elsewhere.nii.gz,,,,",
        "mask,cine.nii.gz,0,,mask-large.nii.gz,",
        "frames,cine.nii.gz,,,,mask.nii.gz",
        "mask7,cine.nii.gz,0,,mask7.nii.gz,",
        "not-finite,nan.nii.gz,,,,",
        "cut,cut.nii.gz,,,,",
        "dicoms,dicoms.zip,0,3,,",
    ]
    (folder / "m.csv").write_text("\n".join(rows))
    return folder / "m.csv"


SHALLOW = [
    (3, "subject_id", ErrorCode.MANIFEST_ROW),
    (4, "image", ErrorCode.FILE_MISSING),
    (5, "image", ErrorCode.IMAGE_DIMENSIONS),
    (6, "image", ErrorCode.GEOMETRY),
    (7, "image", ErrorCode.GEOMETRY),
    (8, "labels_ed", ErrorCode.LABEL_GEOMETRY),
    (9, "labels", ErrorCode.LABEL_GEOMETRY),
]
DEEP = [
    (10, "labels_ed", ErrorCode.LABEL_VALUES),
    (11, "image", ErrorCode.IMAGE_VALUES),
    (12, "image", ErrorCode.FILE_DAMAGED),
]


@pytest.mark.parametrize(("deep", "expected"), [(False, SHALLOW), (True, SHALLOW + DEEP)])
def test_validate_checks_every_row_and_writes_nothing(tmp_path: Path, *, deep: bool, expected: list[object]) -> None:
    path = cohort(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    problems = errors_of(path, deep=deep)
    assert [(p.row, p.column, p.code) for p in problems] == expected
    assert all(p.hint and p.message for p in problems)
    assert sorted(tmp_path.rglob("*")) == before


def test_frame_time_from_manifest_header_or_heart_rate(tmp_path: Path) -> None:
    silent = save(tmp_path / "silent.nii.gz", 5, 2, 3, 4)
    telling = save(tmp_path / "telling.nii.gz", 5, 2, 3, 4, frame_ms=40.0)

    def frame_ms(image: Path, **row: float) -> float | None:
        return load_cine(Case(2, "a", (image,), **row)).frame_ms  # type: ignore[arg-type]

    assert frame_ms(silent) is None
    assert frame_ms(silent, heart_rate_bpm=60.0) == pytest.approx(200.0)
    assert frame_ms(telling, heart_rate_bpm=60.0) == pytest.approx(40.0)
    assert frame_ms(telling, frame_ms=30.0) == 30.0


def test_reference_masks_have_the_frames_of_their_image(tmp_path: Path) -> None:
    cine, mask = save(tmp_path / "cine.nii.gz", 5, 2, 3, 4), save(tmp_path / "mask.nii.gz", 2, 3, 4, value=3.0)
    masks = {"labels_ed": mask, "labels_es": mask, "label_scheme": LabelScheme.ACDC}
    case = Case(2, "a", (cine,), ed=1, es=4, **masks)
    labels = load_labels(case, load_cine(case))
    assert labels is not None
    assert labels.frames == (1, 4)
    assert int(labels.labels.max()) == 1
    frame = save(tmp_path / "frame.nii.gz", 2, 3, 4)
    pair = Case(2, "a", (frame, frame), ed=0, es=1, **masks)
    labels = load_labels(pair, load_cine(pair))
    assert labels is not None
    assert labels.frames == (0, 1)
    assert load_labels(Case(2, "a", (cine,)), load_cine(case)) is None


def test_ed_outside_the_cine_is_refused(tmp_path: Path) -> None:
    cine = save(tmp_path / "cine.nii.gz", 5, 2, 3, 4)
    with pytest.raises(CmnetError, match=r"cine\.nii\.gz: frame ed=7 is outside"):
        load_cine(Case(2, "a", (cine,), ed=7))


def test_validate_prints_problems_as_table_or_json(tmp_path: Path) -> None:
    path = cohort(tmp_path)
    ran = cmnet("validate", "-m", path)
    head, first, second, *_ = ran.stdout.splitlines()
    assert (ran.exit_code, head.split()) == (3, ["row", "column", "code", "problem", "what", "to", "do"])
    assert first.split()[:4] == ["row", "3", "subject_id", "manifest-row"]
    assert second.split()[:4] == ["row", "4", "image", "file-missing"]
    assert "Correct the path" in second
    assert "7 problems, 0 of them warnings" in ran.stderr
    found = json.loads(cmnet("validate", "-m", path, "--json", "--deep").stdout)
    errors = [(problem["row"], problem["column"], problem["code"]) for problem in found if not problem["warning"]]
    assert errors == SHALLOW + DEEP


def test_validate_does_not_print_participant_ids(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("subject_id,image\n9900001,9900001_20209_2_0.zip\np-17,in/p-17/sa.nii\n")
    ran = cmnet("validate", "-m", tmp_path / "m.csv")
    assert (ran.exit_code, ran.output.count("does not exist")) == (3, 2)
    assert "9900001" not in ran.output
    assert "p-17" not in ran.output


def questionable(kind: str) -> torch.Tensor:
    """A bright disc that beats in noise, in six slices and five frames, with something the matter in slice 3."""
    chance = torch.Generator().manual_seed(5)
    away = torch.meshgrid(*(torch.arange(80.0) - 40,) * 2, indexing="ij")[0].hypot(torch.arange(80.0) - 40)
    frames = torch.stack([(away < 20 - t).float() for t in range(5)])
    voxels = 500 * frames[:, None].repeat(1, 6, 1, 1) + 40 * torch.rand(5, 6, 80, 80, generator=chance)
    voxels += 300 * ((away > 30) & (away < 34)).float()
    if kind == "empty":
        voxels[2, 3] = 7.0
    elif kind == "still":
        voxels[:, 3] = voxels[:1, 3]
    elif kind == "copied":
        voxels[:, 3] = voxels[:, 2]
    elif kind == "clipped":
        voxels[:, 3] = voxels[:, 3].clamp(max=505)
    elif kind == "moved":
        voxels[:, 3] = voxels[:, 3].roll(5, dims=1)
    elif kind == "negative":
        voxels = voxels.max() - voxels
    return voxels


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sound", ""),
        ("empty", "Slice(s) 3 of 6 have one constant value"),
        ("still", "Slice(s) 3 are identical in every frame"),
        ("copied", "Slice(s) 3 are copies"),
        ("clipped", "In slice(s) 3 bright voxels"),
        ("negative", "The image may be a negative"),
        ("moved", "shifted in-plane against their neighbours: 3 by 10 mm"),
    ],
)
def test_validate_deep_reports_image_quality(tmp_path: Path, kind: str, message: str) -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 8.0, 1.0], dtype=torch.float64))[:, [2, 1, 0, 3]]
    affine[:3, 3] = -80.0  # an image at 0 would have no orientation
    nifti.write_image(tmp_path / "a.nii.gz", questionable(kind), affine=affine, frame_ms=None)
    (tmp_path / "m.csv").write_text("subject_id,image\n9900001,a.nii.gz\n")
    shallow, deep = (cmnet("validate", "-m", tmp_path / "m.csv", "--json", *more) for more in ((), ("--deep",)))
    assert (shallow.exit_code, json.loads(shallow.stdout)) == (0, [])
    found = json.loads(deep.stdout)
    assert (deep.exit_code, len(found)) == (0, 1 if message else 0)
    assert all(p["code"] == "image-quality" and p["warning"] and message in p["message"] for p in found)
