import zipfile
from pathlib import Path

import pytest
import torch

from cmnet_cli.manifest import Case
from cmnet_cli.stages.load import load_cine, load_labels
from cmnet_cli.stages.validate import validate_manifest
from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import nifti
from cmnet_core.io.nifti import LabelScheme
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
        "nan,nan.nii.gz,,,,",
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
def test_every_row_is_checked_and_nothing_written(tmp_path: Path, *, deep: bool, expected: list[object]) -> None:
    path = cohort(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    problems = validate_manifest(path, deep=deep)
    assert [(p.row, p.column, p.code) for p in problems] == expected
    assert all(p.hint and p.message for p in problems)
    assert sorted(tmp_path.rglob("*")) == before


def test_time_axis_from_row_header_or_heart_rate(tmp_path: Path) -> None:
    silent = save(tmp_path / "silent.nii.gz", 5, 2, 3, 4)
    telling = save(tmp_path / "telling.nii.gz", 5, 2, 3, 4, frame_ms=40.0)

    def frame_ms(image: Path, **row: float) -> float | None:
        return load_cine(Case(2, "a", (image,), **row)).frame_ms  # type: ignore[arg-type]

    assert frame_ms(silent) is None
    assert frame_ms(silent, heart_rate_bpm=60.0) == pytest.approx(200.0)
    assert frame_ms(telling, heart_rate_bpm=60.0) == pytest.approx(40.0)
    assert frame_ms(telling, frame_ms=30.0) == 30.0


def test_masks_are_placed_on_the_frames_of_their_image(tmp_path: Path) -> None:
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


def test_frames_outside_the_cine_are_refused(tmp_path: Path) -> None:
    cine = save(tmp_path / "cine.nii.gz", 5, 2, 3, 4)
    with pytest.raises(CmnetError, match=r"cine\.nii\.gz: frame ed=7 lies outside"):
        load_cine(Case(2, "a", (cine,), ed=7))
