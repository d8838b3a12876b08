"""The content of a file decides how it is read, and files without content are named with their remedy."""

import gzip
import shutil
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import dicom, nifti
from cmnet_core.io.cine import is_dicom, read_cine
from cmnet_core.types import CineSequence
from tests.dicoms import dicom_bytes, enhanced_bytes, stack, write_zip

EXPECTED = 100.0 * np.arange(4)[None, :] + np.arange(10.0)[:, None]
IMAGES = stack(slices=4, phases=10)


def values(cine: CineSequence) -> np.ndarray:
    """The number that fills each slice and phase: (t, z)."""
    return cine.voxels[:, :, 0, 0].numpy()


def dicom_folder(path: Path) -> Path:
    path.mkdir()
    for number, image in enumerate(IMAGES):
        (path / f"IM{number:04d}").write_bytes(dicom_bytes(image))
    return path


@pytest.mark.parametrize("name", ["visit", "visit.bin", "visit.nii.gz"])
def test_zip_and_enhanced_file_by_any_name(tmp_path: Path, name: str) -> None:
    write_zip(tmp_path / name, IMAGES)
    np.testing.assert_allclose(values(read_cine(tmp_path / name)), EXPECTED)
    (tmp_path / name).write_bytes(enhanced_bytes(IMAGES))
    np.testing.assert_allclose(values(read_cine(tmp_path / name)), EXPECTED)


@pytest.mark.parametrize("name", ["cine.dcm", "cine.zip", "cine"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_by_any_name(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nifti.write_image(path, torch.rand(3, 2, 4, 5), affine=torch.eye(4, dtype=torch.float64), frame_ms=None)
    path = path.rename(tmp_path / name)
    assert not is_dicom(path)
    assert read_cine(path).frames == 3


@pytest.mark.parametrize("name", ["visit.tar", "visit.tar.gz", "visit.zip"])
def test_tar_archive_is_named(tmp_path: Path, name: str) -> None:
    folder = dicom_folder(tmp_path / "d")
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        archive.add(folder, "d")
    with pytest.raises(CmnetError, match="found a tar archive") as caught:
        read_cine(tmp_path / name)
    assert f"tar -xf {name}" in caught.value.hint
    (tmp_path / "outer").mkdir()
    shutil.move(tmp_path / name, tmp_path / "outer" / "visit.tar")
    with pytest.raises(CmnetError, match="1 tar archives"):
        read_cine(tmp_path / "outer")


def annex(folder: Path) -> Path:
    """Move the files of a folder to a store beside it, and leave links."""
    store = folder.parent / ".git" / "annex" / "objects"
    store.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        path.rename(store / path.name)
        path.symlink_to(Path("..", ".git", "annex", "objects", path.name))
    return store


def test_links_out_of_a_folder_are_named_and_can_be_followed(tmp_path: Path) -> None:
    folder = dicom_folder(tmp_path / "d")
    store = annex(folder)
    (folder / "again").symlink_to(folder)
    with pytest.raises(CmnetError, match="40 links that lead out of the folder") as caught:
        dicom.inspect(folder)
    assert "--follow-links" in caught.value.hint
    np.testing.assert_allclose(values(read_cine(folder, follow_links=True)), EXPECTED)
    for path in store.iterdir():
        path.unlink()
    with pytest.raises(CmnetError, match="40 links without a target") as caught:
        read_cine(folder, follow_links=True)
    assert "datalad get" in caught.value.hint


def test_a_series_with_links_without_target_is_flagged(tmp_path: Path) -> None:
    folder = dicom_folder(tmp_path / "d")
    (folder / "IM9999").symlink_to(tmp_path / "nowhere")
    assert "files-unreadable" in read_cine(folder, follow_links=True).flags


@pytest.mark.parametrize("read", [dicom.inspect, nifti.inspect])
def test_link_whose_content_was_not_fetched(tmp_path: Path, read: object) -> None:
    path = tmp_path / "cine.nii.gz"
    path.symlink_to(Path(".git", "annex", "objects", "MD5E-s3--5d.nii.gz"))
    with pytest.raises(CmnetError, match="target of this link") as caught:
        read(path)  # type: ignore[operator]
    assert (caught.value.code, "datalad get" in caught.value.hint) == (ErrorCode.FILE_MISSING, True)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("/annex/objects/MD5E-s3--5d.nii.gz\n", "git annex get"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_pointer_without_content(tmp_path: Path, text: str, remedy: str) -> None:
    path = tmp_path / "cine.nii.gz"
    path.write_text(text)
    with pytest.raises(CmnetError, match="a pointer to its content") as caught:
        read_cine(path)
    assert remedy in caught.value.hint
    with pytest.raises(CmnetError, match="pointers of git-annex or Git LFS"):
        dicom.inspect(tmp_path)


def test_gzip_of_something_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "cine.nii.gz"
    path.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(CmnetError) as caught:
        read_cine(path)
    assert caught.value.code is ErrorCode.FILE_DAMAGED


def test_mask_without_a_position_wants_the_header_of_its_image(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([8.0, -1.5, 1.5, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    affine[:3, 3] = torch.tensor([-90.0, 40.0, 12.0])
    nifti.write_image(tmp_path / "a.nii", torch.rand(2, 3, 4, 5), affine=affine, frame_ms=None)
    cine = read_cine(tmp_path / "a.nii")
    shifted = affine.clone()
    shifted[0, 3] += 30
    xyz = torch.eye(4, dtype=torch.float64)[[2, 1, 0, 3]]
    for name, of_mask in (("unplaced", xyz), ("elsewhere", shifted)):
        nifti.write_image(tmp_path / name, torch.ones(3, 4, 5, dtype=torch.uint8), affine=of_mask, frame_ms=None)
        with pytest.raises(CmnetError, match="not on the grid") as caught:
            nifti.read_labels([tmp_path / name], scheme=nifti.LabelScheme.CMNET, cine=cine, frames=[0])
        assert ("header" in caught.value.hint) == (name == "unplaced")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.zip", "visit"])
def test_links_in_a_circle_are_links_without_a_target(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / f"other-{name}")
    (tmp_path / f"other-{name}").symlink_to(tmp_path / name)
    with pytest.raises(CmnetError, match="target of this link does not exist") as caught:
        read_cine(tmp_path / name)
    assert caught.value.code == ErrorCode.FILE_MISSING


def test_two_images_that_a_comma_separates_are_named_with_their_remedy(tmp_path: Path) -> None:
    with pytest.raises(CmnetError) as caught:
        read_cine(tmp_path / "ED.nii.gz,ES.nii.gz")
    assert (caught.value.code, "semicolon" in caught.value.hint) == (ErrorCode.FILE_MISSING, True)


def test_a_header_whose_voxels_are_in_another_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(np.zeros((4, 4, 3, 2), np.int16), np.eye(4)), tmp_path / "cine.hdr")
    with pytest.raises(CmnetError, match="header of a pair") as caught:
        nifti.inspect(tmp_path / "cine.hdr")
    assert "as one '.nii'" in caught.value.hint
