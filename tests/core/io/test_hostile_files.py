"""Files made to do harm: refused before they are unpacked, allocated or waited for."""

import gzip
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import dicom, dicom_file, nifti
from tests.dicoms import dicom_bytes, stack, write_zip

FEW_BYTES = 30 * 2**20


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()


def swelling(path: Path) -> None:
    """Members that are small enough one by one, and shrink as no picture does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}.dcm", bytes(2**20))


def crowded(path: Path) -> None:
    """More names than fit into memory, as far as the zip's own record tells; its directory is not read."""
    write_zip(path, stack(slices=1, phases=2))
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\5\6")
    content[end + 12 : end + 16] = struct.pack("<I", 2**31)
    path.write_bytes(content)


def crowded_large(path: Path) -> None:
    """The same in a zip of the large format."""
    crowded(path)
    content = path.read_bytes()
    end = content.rfind(b"PK\5\6")
    large = b"PK\6\6" + bytes(36) + struct.pack("<QQ", 2**40, 0) + b"PK\6\7" + bytes(16)
    path.write_bytes(content[:end] + large + content[end : end + 12] + b"\xff" * 4 + content[end + 16 :])


def oddly_packed(path: Path) -> None:
    """LZMA can ask for gigabytes before the first byte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.dcm", dicom_bytes(stack(slices=1, phases=2)[0]))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (swelling, ErrorCode.DICOM),
        (crowded, ErrorCode.DICOM),
        (crowded_large, ErrorCode.DICOM),
        (oddly_packed, ErrorCode.FILE_DAMAGED),
    ],
)
def test_zips_that_are_traps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], code: ErrorCode
) -> None:
    monkeypatch.setattr(dicom_file, "_RATIO_MATTERS_BYTES", 2**21)
    make(tmp_path / "trap.zip")
    with little_memory(), pytest.raises(CmnetError) as caught:
        dicom.inspect(tmp_path / "trap.zip")
    assert caught.value.code is code


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    inside = tmp_path / "inner" / "a.zip"
    inside.parent.mkdir()
    with zipfile.ZipFile(inside, "w") as archive:
        for number, image in enumerate(stack(slices=2, phases=3)):
            archive.writestr(f"{('../', '/tmp/', 'C:/')[number % 3]}{number}.dcm", dicom_bytes(image))
    assert dicom.read_cine(inside, frame_ms=None).voxels.shape == (3, 2, 6, 5)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "inner"]


def test_a_damaged_length_in_a_dicom_allocates_nothing(tmp_path: Path) -> None:
    content = dicom_bytes(stack(slices=1, phases=2)[0])
    # Series Number, (0020,0011) IS: behind it the length, here that of an unknown value of 4 GB.
    place = content.index(b"\x20\x00\x11\x00IS")
    (tmp_path / "1.dcm").write_bytes(content[: place + 4] + b"UN\0\0\xfe\xff\xff\xff" + content[place + 8 :])
    with little_memory(), pytest.raises(CmnetError):
        dicom.inspect(tmp_path)


def huge(path: Path, shape: tuple[int, ...], *, bomb: bool) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_zooms((1.0,) * len(shape))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + bytes(4)
    path.write_bytes(gzip.compress(content + bytes(2**20), 1) * (600 if bomb else 1))
    return path


@pytest.mark.parametrize(
    ("shape", "bomb", "code"),
    [
        ((30000, 30000, 30000, 30000), False, ErrorCode.FILE_DAMAGED),
        ((32767, 32767, 1, 2), False, ErrorCode.FILE_DAMAGED),
        ((1024, 1024, 10, 30), True, ErrorCode.IMAGE_DIMENSIONS),
    ],
)
def test_declared_sizes_are_not_believed(tmp_path: Path, shape: tuple[int, ...], bomb: bool, code: ErrorCode) -> None:  # noqa: FBT001
    path = huge(tmp_path / "a.nii.gz", shape, bomb=bomb)
    for read in (nifti.inspect, lambda p: nifti.read_cine(p, frame_ms=None)):
        with little_memory(), pytest.raises(CmnetError) as caught:
            read(path)
        assert caught.value.code is code


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cine.nii")
    with pytest.raises(CmnetError, match="a pipe or a device"):
        nifti.inspect(tmp_path / "cine.nii")
    with pytest.raises(CmnetError, match="a pipe or a device"):
        nifti.inspect(Path("/dev/zero"))
