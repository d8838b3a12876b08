"""No input hangs a cohort: pipes, devices, huge folders and subjects that take too long cost only themselves."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmnet_cli.cohort.case import Case
from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.runs import provenance
from cmnet_cli.stages import read_images
from cmnet_core.errors import ErrorCode, ImageError
from cmnet_core.io import dicom, nifti
from tests.cli.commanding import cmnet, rows
from tests.dicoms import stack, write_zip
from tests.phantoms import write_cohort, write_heart


@dataclass(frozen=True)
class SleepingCase:
    """A case whose image is a file of a given size."""

    case_id: str
    image: tuple[Path, ...]


class SleepingStage:
    """A stage that never ends on one case."""

    name = "sleep"

    def open(self) -> Callable[[SleepingCase], str]:
        def run(case: SleepingCase) -> str:
            while case.case_id == "sub-1":
                time.sleep(0.01)
            return case.case_id

        return run


def test_endless_inputs_are_refused_before_they_are_read(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_MOST_ENTRIES", 50)
    manifest, run = write_cohort(tmp_path, 6, frames=2), tmp_path / "run"
    images = [tmp_path / f"990000{number}.nii.gz" for number in range(1, 6)]
    for image in images:
        image.unlink()
    os.mkfifo(images[0])
    images[1].symlink_to("/dev/zero")
    images[2].symlink_to(images[2])
    images[3].symlink_to("/usr")
    with images[4].open("wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    ran = cmnet("preprocess", "-m", manifest, "-o", run)
    assert (ran.exit_code, "1 done, 5 failed" in ran.output) == (4, True), ran.output
    assert time.monotonic() - started < 120
    codes = [row["error_code"] for row in rows(run, "status")]
    assert codes == ["file-damaged", "file-damaged", "file-missing", "dicom", "file-damaged", None]


def test_subject_that_never_ends_is_set_aside(tmp_path: Path) -> None:
    cases = [SleepingCase(f"sub-{number}", ()) for number in range(3)]
    outcomes = list(SerialEngine(EngineSpec(subject_timeout_s=0.2)).map(SleepingStage(), cases))
    assert [outcome.failure and outcome.failure.code for outcome in outcomes] == [None, ErrorCode.TIMEOUT, None]


def test_default_time_limit_grows_with_the_image(tmp_path: Path) -> None:
    small, large = tmp_path / "small.nii.gz", tmp_path / "large.nii.gz"
    small.write_bytes(b"x" * 1_000_000)
    with large.open("wb") as file:
        file.truncate(100_000_000)
    limits = [EngineSpec().time_limit_s(SleepingCase("sub-1", (image,))) for image in (small, large)]
    assert limits == [3660, 9600]
    assert EngineSpec(subject_timeout_s=0).time_limit_s(SleepingCase("sub-1", (large,))) is None
    assert EngineSpec(subject_timeout_s=5).time_limit_s(SleepingCase("sub-1", (large,))) == 5


def test_declared_size_is_compared_with_the_memory_before_voxels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    monkeypatch.setattr(read_images, "memory_limit_bytes", lambda: 100_000)
    ran = cmnet("validate", "-m", manifest)
    assert (ran.exit_code, "out-of-memory" in ran.output) == (3, True), ran.output


@pytest.mark.parametrize("kind", ["nifti", "pair", "dicom"])
def test_no_voxel_is_read_of_an_image_that_is_larger_than_the_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = write_heart(tmp_path, "9900001", frames=2)
    cine = nifti.read_cine(image, frame_ms=None)
    ed, es, archive = tmp_path / "ed.nii", tmp_path / "es.nii", tmp_path / "visit.zip"
    for path, voxels in ((ed, cine.voxels[0]), (es, cine.voxels[1])):
        nifti.write_image(path, voxels, affine=cine.affine, frame_ms=None)
    write_zip(archive, stack(slices=3, phases=4))
    images = {"nifti": (image,), "pair": (ed, es), "dicom": (archive,)}[kind]
    case = Case(row=2, subject_id="9900001", image=images)
    assert read_images.load_cine(case).frames > 1

    def refuse(*_: object) -> None:
        raise AssertionError("a voxel was read")

    for module, name in ((nifti, "decode_cine"), (dicom, "read_pixels")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(read_images, "memory_limit_bytes", lambda: 100)
    with pytest.raises(ImageError, match=f"{images[0]}: Its header declares") as raised:
        read_images.load_cine(case)
    assert raised.value.code == ErrorCode.OUT_OF_MEMORY
