"""The number of images of a cine, from which its time is estimated."""

import os
from pathlib import Path

import torch

from cmnet_core.io.image_count import count_images
from cmnet_core.io.nifti import write_image
from tests.dicoms import dicom_bytes, stack, write_zip


def test_slices_times_frames_of_each_kind_of_image(tmp_path: Path) -> None:
    nifti = tmp_path / "cine.nii.gz"
    write_image(nifti, torch.zeros(5, 3, 9, 8), affine=torch.eye(4, dtype=torch.float64), frame_ms=40.0)
    zipped = write_zip(tmp_path / "cine.zip", stack(slices=2, phases=4))
    folder = tmp_path / "dicoms"
    folder.mkdir()
    for number, image in enumerate(stack(slices=2, phases=3)):
        (folder / f"{number}.dcm").write_bytes(dicom_bytes(image))
    assert [count_images(path) for path in (nifti, zipped, folder)] == [15, 8, 6]


def test_what_cannot_be_read_counts_nothing(tmp_path: Path) -> None:
    damaged, pipe = tmp_path / "damaged.nii.gz", tmp_path / "pipe.nii"
    damaged.write_bytes(b"\x1f\x8b damaged")
    os.mkfifo(pipe)
    no_zip = tmp_path / "empty.zip"
    no_zip.write_bytes(b"PK\3\4")
    paths = (damaged, pipe, no_zip, tmp_path / "missing.nii.gz", Path("\0"))
    assert [count_images(path) for path in paths] == [0] * len(paths)
