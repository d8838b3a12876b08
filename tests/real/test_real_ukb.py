"""A visit as UK Biobank hands it out, made from Sunnybrook pixels under invented ids: from the zip to the indices."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from typer.testing import CliRunner

from cmnet_cli.app import app
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.read_images import Case, load_cine
from cmnet_core.io.dicom_file import open_members
from cmnet_core.io.dicom_image import read_headers
from cmnet_core.types import CineSequence
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.real

PHASES, BEAT_MS = 50, 920
SLICES = range(3, 6)
CROP = slice(64, 192)  # rows and columns around the heart


@dataclass(frozen=True)
class Series:
    """One series of the visit; ``values`` are its images, in the order of the cycle."""

    number: int
    description: str
    values: np.ndarray
    slice: int
    beat_ms: float = BEAT_MS
    turned: bool = False


def cine_of_fifty(cine: CineSequence) -> np.ndarray:
    """Voxels (t, z, y, x) of a few slices, as if recorded with 50 phases."""
    around = np.concatenate([cine.voxels.numpy(), cine.voxels[:1].numpy()])[:, SLICES, CROP, CROP]
    share = np.arange(PHASES) / PHASES * cine.frames
    before, weight = share.astype(int), (share % 1)[:, None, None, None]
    return np.round((1 - weight) * around[before] + weight * around[before + 1])


def written(cine: CineSequence, series: Series) -> Iterator[bytes]:
    """The files of a series, with a scanner's headers and the place of the cine's slice."""
    ras = cine.affine.numpy() @ [series.slice, CROP.start, CROP.start, 1.0]
    axes = [
        cine.affine[:3, axis].numpy() / cine.spacing.zyx[axis] for axis in ((2, 1) if not series.turned else (2, 0))
    ]
    for phase, pixels in enumerate(series.values):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.Manufacturer, dataset.PatientID, dataset.PatientName = "SIEMENS", "9900001", "9900001"
        dataset.SeriesNumber, dataset.SeriesInstanceUID = series.number, f"1.2.3.{series.number}"
        dataset.SeriesDescription, dataset.InstanceNumber = series.description, phase + 1 + 1000 * series.slice
        dataset.ImagePositionPatient = [round(float(mm), 5) for mm in ras[:3] * [-1, -1, 1]]
        dataset.ImageOrientationPatient = [round(float(mm), 8) for axis in axes for mm in axis * [-1, -1, 1]]
        dataset.PixelSpacing, dataset.SliceThickness = [cine.spacing.y, cine.spacing.x], 6.0
        dataset.TriggerTime = round(series.beat_ms * phase / PHASES, 2)
        dataset.NominalInterval, dataset.CardiacNumberOfImages = round(series.beat_ms), PHASES
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PixelData = pixels.astype("<u2").tobytes()
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        yield buffer.getvalue()


def write_visit(path: Path, cine: CineSequence, visit: Sequence[Series], *, manifest: str) -> Path:
    """A zip without folders, and a manifest whose dates have commas that nobody quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["filename,patientid,modality,date,series number,series discription"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for series in visit:
            for phase, content in enumerate(written(cine, series)):
                name = f"1.3.12.{series.number}.{series.slice}.{phase}.dcm"
                archive.writestr(name, content)
                lines.append(f"{name},9900001,MR,Feb {phase % 27 + 1}, 2015 11:02,{series.number},{series.description}")
        archive.writestr(manifest, "\n".join([*lines, "a line, that, went wrong", ""]))
    return path


def visits(cine: CineSequence) -> dict[str, list[Series]]:
    """A visit with a series for each slice and much else beside them, and one whose slices are all in one series."""
    voxels = cine_of_fifty(cine)
    apart = [
        Series(10 + n, f"CINE_segmented_SAX_b{n + 1}", voxels[:, n], z, beat_ms=BEAT_MS + 12 * n)
        for n, z in enumerate(SLICES)
    ]
    beside = [
        Series(3, "localizer", voxels[:1, 0], SLICES[0]),
        Series(5, "CINE_segmented_LAX_4Ch", voxels[:, 1], SLICES[1], turned=True),
        Series(6, "CINE_segmented_Ao_dist", voxels[:, 2], SLICES[0] - 4),
        Series(9, "CINE_segmented_SAX_b2", voxels[:, 2] // 2, SLICES[1]),  # a breath-hold that was done again
        Series(40, "CINE_segmented_SAX_InlineVF", voxels[:, 2] // 3, SLICES[2]),
    ]
    mixed = [Series(8, "CINE_segmented_SAX", voxels[:, n], z) for n, z in enumerate(SLICES)]
    return {"9900001": [*beside, *apart], "9900002": mixed}


def cmnet(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def test_visits_go_from_zip_to_indices(sunnybrook: Path, tmp_path: Path) -> None:
    cine = load_cine(Case(2, "source", (sunnybrook / "SC-HF-I-4.zip",)))
    for subject, visit in visits(cine).items():
        name = "manifest.cvs" if subject == "9900001" else "manifest.csv"
        write_visit(tmp_path / "99" / f"{subject}_20209_2_0.zip", cine, visit, manifest=name)
    cohort, run = tmp_path / "cohort.csv", tmp_path / "run"
    cmnet("manifest", tmp_path / "99", "--layout", "ukb", "--out", cohort)
    cmnet("validate", "--manifest", cohort)
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    cmnet("infer", "--manifest", cohort, "--out", run, "--model", model, "--workers", "0")
    cmnet("indices", "--run", run, "--samples", "2")
    table = pd.read_parquet(run / "tables" / "indices.parquet").set_index("subject_id")
    assert list(table.frames) == [PHASES, PHASES]
    assert table.frame_ms.tolist() == pytest.approx([(BEAT_MS + 12) / PHASES, BEAT_MS / PHASES], rel=1e-3)
    assert {"trigger-times-differ", "repeated-slices"} <= set(table.qc_flags["9900001"])
    assert not {"slices-dropped", "slice-gap-uneven", "orientation-unusual"} & set(table.qc_flags["9900001"])
    for subject in table.index:
        case_id = f"sub-{subject}_ses-2"
        labels = nib.load(RunFolder(run).case(case_id).segnet_labels)
        assert labels.shape == (128, 128, len(SLICES), PHASES)
        corner = labels.affine @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner, cine.affine.numpy() @ [SLICES[0], CROP.start, CROP.start, 1.0], atol=0.01)
    voxels = cine_of_fifty(cine)
    for subject in table.index:
        read = load_cine(Case(2, subject, (tmp_path / "99" / f"{subject}_20209_2_0.zip",)))
        np.testing.assert_array_equal(read.voxels.numpy(), voxels)


def test_headers_hold_no_name(sunnybrook: Path, tmp_path: Path) -> None:
    """What is read of a file with a name in it does not hold that name."""
    cine = load_cine(Case(2, "source", (sunnybrook / "SC-HF-I-4.zip",)))
    content = next(written(cine, Series(1, "CINE_segmented_SAX_b1", np.zeros((1, 8, 8)), 2)))
    assert pydicom.dcmread(io.BytesIO(content)).PatientID == "9900001"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.dcm").write_bytes(content)
    with open_members(tmp_path / "d") as members:
        assert "9900001" not in repr(read_headers(members[0]))
