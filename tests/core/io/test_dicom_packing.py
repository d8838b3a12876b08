"""How a scanner packs its pixels must not change a value, and a file that is not whole must end in an error."""

import contextlib
import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from cmnet_core.errors import CmnetError, ErrorCode, ImageError
from cmnet_core.io import dicom, dicom_file
from cmnet_core.io.dicom_file import open_members
from cmnet_core.io.dicom_image import read_headers, read_pixels
from tests.dicoms import Image, dataset_of, dicom_bytes, encoded, enhanced_bytes, set_pixels, stack

PIXELS = (np.arange(24 * 20).reshape(24, 20) * 7 % 3000 - 100).astype(np.int16)
VALUES = PIXELS * 0.5 - 3.0


def pictured() -> Dataset:
    dataset = dataset_of(Image(0, 0, 0, 2))
    set_pixels(dataset, PIXELS)
    return dataset


def implicit(_: Path) -> bytes:
    dataset = pictured()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return encoded(dataset)


def big_endian(_: Path) -> bytes:
    dataset = pictured()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = PIXELS.astype(">i2").tobytes()
    dataset["PixelData"].VR = "OW"
    return encoded(dataset)


def without_preamble(folder: Path) -> bytes:
    content = implicit(folder)
    dataset = pydicom.dcmread(io.BytesIO(content))
    buffer = io.BytesIO()
    del dataset.file_meta
    dataset.preamble = None
    dataset.save_as(buffer, implicit_vr=True, little_endian=True)
    return buffer.getvalue()


def run_length(_: Path) -> bytes:
    dataset = pictured()
    dataset.compress(RLELossless, generate_instance_uid=False)
    return encoded(dataset)


def by_gdcm(compressor: str) -> Callable[[Path], bytes]:
    """Lossless JPEG or JPEG 2000, encoded by another library than the one that decodes."""

    def pack(folder: Path) -> bytes:
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "packed.dcm"))
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.Execute(SimpleITK.GetImageFromArray(PIXELS[None]))
        packed, dataset = pydicom.dcmread(folder / "packed.dcm"), pictured()
        (folder / "packed.dcm").unlink()
        dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        dataset.PixelData = packed.PixelData
        dataset["PixelData"].is_undefined_length = True
        return encoded(dataset)

    return pack


PACKINGS: dict[str, Callable[[Path], bytes]] = {
    "implicit": implicit,
    "big-endian": big_endian,
    "without-preamble": without_preamble,
    "run-length": run_length,
    "jpeg-lossless": by_gdcm("JPEG"),
    "jpeg-2000": by_gdcm("JPEG2000"),
}


def decoded(folder: Path, content: bytes) -> np.ndarray:
    (folder / "image").write_bytes(content)
    with open_members(folder) as members:
        [header] = read_headers(members[0])
        return next(read_pixels([header]))


@pytest.mark.parametrize("packing", PACKINGS)
def test_values_are_the_same_however_they_are_packed(tmp_path: Path, packing: str) -> None:
    np.testing.assert_array_equal(decoded(tmp_path, PACKINGS[packing](tmp_path)), VALUES.astype(np.float32))


@pytest.mark.parametrize(("compressor", "syntax"), [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)])
def test_decoder_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressor: str, syntax: UID
) -> None:
    content = by_gdcm(compressor)(tmp_path)
    decoder = get_decoder(syntax)
    installed = {name: function for name, function in decoder._available.items() if name == "pillow"}
    monkeypatch.setattr(decoder, "_available", installed)
    with pytest.raises(ImageError, match="compressed") as raised:
        decoded(tmp_path, content)
    assert raised.value.code == ErrorCode.TOOL
    assert "cmnet[jpeg]" in str(raised.value.hint)


def test_lossy_jpeg_is_read(tmp_path: Path) -> None:
    grey = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint8) * 4
    stream = io.BytesIO()
    Picture.fromarray(grey).save(stream, format="JPEG", quality=95)
    dataset = pictured()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_allclose(decoded(tmp_path, encoded(dataset)), grey * 0.5 - 3.0, atol=2.0)


def test_enhanced_file_is_the_same_cine(tmp_path: Path) -> None:
    images = stack(slices=3, phases=4)
    (tmp_path / "enhanced.dcm").write_bytes(enhanced_bytes(random.Random(2).sample(images, len(images))))
    (tmp_path / "d").mkdir()
    for number, image in enumerate(images):
        (tmp_path / "d" / f"{number}").write_bytes(dicom_bytes(image))
    one, many = (dicom.read_cine(tmp_path / name, frame_ms=None) for name in ("enhanced.dcm", "d"))
    np.testing.assert_allclose(one.voxels.numpy(), many.voxels.numpy(), atol=0.5)
    np.testing.assert_allclose(one.affine.numpy(), many.affine.numpy(), atol=1e-4)
    assert (one.spacing.zyx, one.flags) == (pytest.approx(many.spacing.zyx), many.flags)
    assert one.frame_ms == pytest.approx(many.frame_ms)


def test_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    content = by_gdcm("JPEG2000")(tmp_path)
    at = content.index(b"\xff\x4f\xff\x51") + 8
    huge = content[:at] + (60_000).to_bytes(4, "big") * 2 + content[at + 8 :]
    with pytest.raises(CmnetError, match="and its header differ in size"):
        decoded(tmp_path, huge)


def test_deflated_file_is_passed_over(tmp_path: Path) -> None:
    images = stack(slices=3, phases=4)
    for number, image in enumerate(images):
        (tmp_path / f"{number}").write_bytes(dicom_bytes(image))
    dataset = dataset_of(images[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (tmp_path / "deflated").write_bytes(encoded(dataset))
    assert dicom.inspect(tmp_path).flags == ("files-unreadable",)


def zip_of(path: Path, contents: list[bytes], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for number, content in enumerate(contents):
            file.writestr(f"{number}.dcm", content)
    return path


def test_zip_that_swells_is_refused_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_file, "_RATIO_MATTERS_BYTES", 2**20)
    bomb = zip_of(tmp_path / "a.zip", [b"\0" * 2**21], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CmnetError, match="may be malicious"):
        dicom.inspect(bomb)


def test_unusual_compression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CmnetError, match="another compression") as caught:
        dicom.inspect(zip_of(tmp_path / "a.zip", [b"x"], compression=zipfile.ZIP_LZMA))
    assert caught.value.code is ErrorCode.FILE_DAMAGED


def test_damage_anywhere_ends_in_a_documented_error(tmp_path: Path) -> None:
    draw = random.Random(7)
    whole = [dicom_bytes(image) for image in stack(slices=2, phases=2)]
    sources = [whole[0], enhanced_bytes(stack(slices=2, phases=2)), run_length(tmp_path), by_gdcm("JPEG")(tmp_path)]
    for n in range(120):
        content = bytearray(sources[n % len(sources)])
        for _ in range(draw.choice((1, 4, 16))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        archive = zip_of(tmp_path / "a.zip", [bytes(content[: draw.choice((None, -40))]), *whole[1:]])
        with contextlib.suppress(CmnetError):
            dicom.read_cine(archive, frame_ms=None)


def test_header_without_end_is_not_waited_for(tmp_path: Path) -> None:
    """A megabyte of empty elements in place of the pixels: the file is named in no time."""
    for number, image in enumerate(stack(slices=2, phases=3)):
        (tmp_path / f"{number}").write_bytes(dicom_bytes(image))
    whole = (tmp_path / "0").read_bytes()
    (tmp_path / "endless").write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")] + b"\x29\0\x10\0LO\0\0" * 2**17)
    started = time.process_time()
    with pytest.raises(CmnetError, match="Decoding endless failed"):
        dicom.read_cine(tmp_path, frame_ms=None)
    assert time.process_time() - started < 2


def test_of_two_copies_the_whole_one_is_read(tmp_path: Path) -> None:
    for number, image in enumerate(stack(slices=2, phases=3)):
        content = dicom_bytes(image)
        (tmp_path / f"{number}").write_bytes(content)
        (tmp_path / f"{number} (1)").write_bytes(content[:-20])
    read = dicom.read_cine(tmp_path, frame_ms=None)
    assert (read.flags, read.voxels.shape[:2]) == (("duplicate-images",), (3, 2))
