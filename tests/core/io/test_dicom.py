import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import dicom, dicom_file
from tests.dicoms import Image, dicom_bytes, stack


def folder_of(path: Path, images: Sequence[Image]) -> Path:
    path.mkdir()
    for number, image in enumerate(images):
        (path / f"IM{number:04d}").write_bytes(dicom_bytes(image))
    return path


def values(path: Path) -> np.ndarray:
    """The number each slice and phase holds: (t, z)."""
    return dicom.read_cine(path, frame_ms=None).voxels[:, :, 0, 0].numpy()


EXPECTED = 100.0 * np.arange(4)[None, :] + np.arange(10.0)[:, None]


def test_messy_order_is_sorted_and_other_files_are_left_aside(tmp_path: Path) -> None:
    images = stack(slices=4, phases=10)
    long_axis = [Image(0, t, 999, 10, normal="lax", series=2) for t in range(10)]
    localiser = [Image(0, 0, 777, 10, position_mm=13.7, series=3)]
    shuffled = [*images, *long_axis, *localiser]
    random.Random(1).shuffle(shuffled)
    folder = folder_of(tmp_path / "dicoms", shuffled)
    (folder / "manifest.csv").write_text("nothing to see")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "cut").write_bytes(dicom_bytes(images[0])[:300])
    (folder / "garbled").write_bytes(dicom_bytes(images[0]).replace(b"1.5\\1.25", b"1.5\\z.25"))
    cine = dicom.read_cine(folder, frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 2, 2].numpy(), EXPECTED)
    assert cine.frame_ms == pytest.approx(40.0)
    assert cine.flags == ("files-unreadable", "slices-dropped")


def test_zip_equals_folder_and_nothing_is_unpacked(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "dicoms", stack(slices=4, phases=10))
    archive = tmp_path / "dicoms.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"../../{path.name}")
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_allclose(values(archive), EXPECTED)
    assert sorted(tmp_path.rglob("*")) == before


def test_geometry_equals_itk(tmp_path: Path) -> None:
    images = stack(slices=4, phases=2)
    cine = dicom.read_cine(folder_of(tmp_path / "all", images), frame_ms=None)
    folder = folder_of(tmp_path / "one", [image for image in images if image.phase == 0])
    reader = SimpleITK.ImageSeriesReader()
    # ITK expects the slices along the normal, which points from apex to base here.
    reader.SetFileNames([str(path) for path in sorted(folder.iterdir(), reverse=True)])
    itk = reader.Execute()
    assert cine.spacing.zyx == pytest.approx(itk.GetSpacing()[::-1], rel=1e-5)
    for zyx in ((0, 0, 0), (3, 0, 0), (0, 5, 0), (2, 3, 4)):
        ras = (cine.affine @ torch.tensor([*map(float, zyx), 1.0], dtype=torch.float64))[:3].numpy()
        lps = itk.TransformIndexToPhysicalPoint((zyx[2], zyx[1], 3 - zyx[0]))
        np.testing.assert_allclose(ras * [-1, -1, 1], lps, atol=1e-3)
    np.testing.assert_allclose(cine.voxels[0].numpy(), SimpleITK.GetArrayFromImage(itk)[::-1], atol=1e-3)


def test_phases_are_matched_by_share_of_the_cycle(tmp_path: Path) -> None:
    images = [i.changed(step_ms=40.0 + 4.0 * i.z) for i in stack(slices=4, phases=10)]
    cine = dicom.read_cine(folder_of(tmp_path / "d", images), frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 0, 0].numpy(), EXPECTED)
    assert cine.flags == ("trigger-times-differ",)
    assert cine.frame_ms == pytest.approx(46.0)


@pytest.mark.parametrize("lost", [[0], [4], [9], [0, 9], [4, 5]])
def test_missing_phases_are_interpolated(tmp_path: Path, lost: list[int]) -> None:
    def wave(image: Image) -> float:
        return round(500 + 400 * float(np.cos(2 * np.pi * image.phase / 10)))

    images = [i.changed(value=wave(i)) for i in stack(slices=4, phases=10)]
    kept = [i for i in images if i.z != 2 or i.phase not in lost]
    cine = dicom.read_cine(folder_of(tmp_path / "d", kept), frame_ms=None)
    found = cine.voxels[:, 2, 0, 0].numpy()
    whole = cine.voxels[:, 1, 0, 0].numpy()
    present = [t for t in range(10) if t not in lost]
    np.testing.assert_allclose(found, np.interp(range(10), present, whole[present], period=10), atol=1e-2)
    assert cine.flags == ("phases-interpolated",)


def test_slice_with_more_phases_is_brought_onto_the_common_cycle(tmp_path: Path) -> None:
    images = [i for i in stack(slices=3, phases=10) if i.z != 1]
    images += [Image(1, t, 1000 + 10 * min(t, 20 - t), 20, step_ms=20.0) for t in range(20)]
    cine = dicom.read_cine(folder_of(tmp_path / "d", images), frame_ms=None)
    found = cine.voxels[:, 1, 0, 0].numpy()
    np.testing.assert_allclose(found, 1000 + 10 * np.minimum(np.arange(0, 20, 2), 20 - np.arange(0, 20, 2)), atol=5.1)


def test_without_trigger_times_the_instance_number_decides(tmp_path: Path) -> None:
    images = [i.changed(trigger=False) for i in stack(slices=4, phases=10)]
    cine = dicom.read_cine(folder_of(tmp_path / "d", images[::-1]), frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 0, 0].numpy(), EXPECTED)
    assert cine.frame_ms == pytest.approx(40.0)
    with pytest.raises(CmnetError, match="there are no trigger times"):
        dicom.read_cine(folder_of(tmp_path / "e", images[:-1]), frame_ms=None)


def test_repeated_series_and_duplicates(tmp_path: Path) -> None:
    images = stack(slices=4, phases=10)
    first_try = [i.changed(value=i.value + 5000, series=0, step_ms=43.0) for i in images if i.z == 1]
    broken_off = [i.changed(value=i.value + 6000, series=2) for i in images if i.z == 2 and i.phase < 4]
    twice = [images[0], images[-1]]
    cine = dicom.read_cine(folder_of(tmp_path / "d", [*first_try, *images, *broken_off, *twice]), frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 0, 0].numpy(), EXPECTED)
    assert cine.flags == ("duplicate-images", "repeated-slices")


def test_uneven_gap_is_flagged(tmp_path: Path) -> None:
    images = [i for i in stack(slices=5, phases=3) if i.z != 2]
    header = dicom.inspect(folder_of(tmp_path / "d", images))
    assert header.flags == ("slice-gap-uneven",)
    assert header.spacing.z == pytest.approx(12.0)
    assert (header.frames, header.grid) == (3, (4, 6, 5))


def test_single_slice_takes_its_thickness(tmp_path: Path) -> None:
    header = dicom.inspect(folder_of(tmp_path / "d", stack(slices=1, phases=3)))
    assert header.spacing.zyx == (8.0, 1.5, 1.25)


def test_slices_run_from_base_to_apex_whatever_the_numbering(tmp_path: Path) -> None:
    images = stack(slices=4, phases=2)
    renumbered = [i.changed(instance=round(900 - 100 * i.z + i.phase)) for i in images]
    cine = dicom.read_cine(folder_of(tmp_path / "d", renumbered), frame_ms=None)
    assert cine.voxels[0, :, 0, 0].tolist() == [0.0, 100.0, 200.0, 300.0]
    right, anterior, superior = cine.affine[:3, 0].tolist()
    assert right < 0 < anterior
    assert superior <= 0


def bad_source(tmp_path: Path, kind: str) -> Path:
    images = stack(slices=2, phases=3)
    if kind == "missing":
        return tmp_path / "nowhere"
    if kind == "text":
        (tmp_path / "a.zip").write_text("not a zip")
        return tmp_path / "a.zip"
    if kind == "single phase":
        return folder_of(tmp_path / "d", [i for i in images if i.phase == 0])
    folder = folder_of(tmp_path / "d", [] if kind in ("empty", "no images") else images)
    if kind == "no images":
        (folder / "readme.txt").write_text("hello")
    if kind == "short pixels":
        (folder / "IM0000").write_bytes(dicom_bytes(images[0])[:-20])
    return folder


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", ErrorCode.FILE_MISSING),
        ("text", ErrorCode.FILE_DAMAGED),
        ("empty", ErrorCode.DICOM),
        ("no images", ErrorCode.DICOM),
        ("single phase", ErrorCode.IMAGE_DIMENSIONS),
        ("short pixels", ErrorCode.FILE_DAMAGED),
    ],
)
def test_bad_sources_are_named_with_a_remedy(tmp_path: Path, kind: str, code: ErrorCode) -> None:
    path = bad_source(tmp_path, kind)
    with pytest.raises(CmnetError) as caught:
        dicom.read_cine(path, frame_ms=None)
    assert caught.value.code is code
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_swelling_zip_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.dcm", b"\0" * 2**20)
    monkeypatch.setattr(dicom_file, "_MAX_FILE_BYTES", 2**19)
    with pytest.raises(CmnetError, match="may be malicious") as caught:
        dicom.inspect(archive)
    assert caught.value.code is ErrorCode.DICOM


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", stack(slices=4, phases=10))
    secret = tmp_path / "secret"
    secret.write_bytes(dicom_bytes(Image(0, 0, 9999, 10, series=9)))
    (folder / "link").symlink_to(secret)
    np.testing.assert_allclose(values(folder), EXPECTED)
