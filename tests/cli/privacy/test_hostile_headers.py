"""Nothing that headers of images say of a person is stored or printed; ``--share-safe`` hides ids and names, too."""

import gzip
import zipfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.cli.commanding import cmnet, finals
from tests.dicoms import Image, dataset_of, encoded, stack
from tests.phantoms import write_heart

# What the headers say; no output may have it.
HEADER = ("Wintergreen", "19470812", "1947-08-12", "Ward17", "QX4711", "1.2.840.99999.4711")
# What the manifest and the names of folders and files say; nothing that is printed or shared may have it.
GIVEN = ("9900001", "9900002", "9900003", "20231105", "Featherstone", "clinic-north", "called twice")
_VALUES = {
    **dict.fromkeys(("PN", "LO", "LT", "ST", "UT", "UC"), "Wintergreen^Ada Ward17"),
    **{"SH": "Wintergreen", "AE": "Wintergreen", "UR": "https://Wintergreen.org/1947-08-12"},
    **{"DA": "19470812", "DT": "19470812101500"},
}


@cache
def _hostile() -> Dataset:
    """Every text and date of the dictionary, with a value that would identify the person."""
    dataset = Dataset()
    for number, (kind, many, _, retired, keyword) in DicomDictionary.items():
        if kind in _VALUES and keyword and not retired and many.startswith("1") and Tag(number).group > 0x0002:
            dataset.add_new(number, kind, _VALUES[kind])
    block = dataset.private_block(0x0029, "Wintergreen", create=True)
    block.add_new(0x01, "LO", "QX4711 Wintergreen")
    dataset.PatientID, dataset.StudyInstanceUID = "QX4711", "1.2.840.99999.4711"
    return dataset


def _write_dicoms(folder: Path, images: list[Image], description: str, name: str = "Featherstone", **tags: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        dataset = dataset_of(image)
        dataset.update(_hostile())
        dataset.file_meta.SourceApplicationEntityTitle = "Wintergreen"
        dataset.SeriesDescription = description
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        (folder / f"{name}_{number:03d}.dcm").write_bytes(encoded(dataset))


def _write_nifti(folder: Path) -> str:
    """A heart whose NIfTI header and extensions name a person."""
    image, _ = write_heart(folder, "Featherstone_9900001_sa", frames=4)
    read = nib.load(image)
    hostile = nib.Nifti1Image(np.asanyarray(read.dataobj), read.affine, read.header)
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        hostile.header[field] = b"Wintergreen"
    hostile.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Wintergreen 19470812"))
    nib.save(hostile, image)
    return image.name


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound and refused images of one person; the manifest's path."""
    folder = tmp_path_factory.mktemp("cohort") / "Featherstone 1947"
    folder.mkdir()
    images = [image.changed(shape=(48, 48)) for image in stack(slices=4, phases=5)]
    _write_dicoms(folder / "9900002 Featherstone", images, "SAX Wintergreen 19470812")
    _write_dicoms(folder / "long axis", images, "4Ch LAX Wintergreen 19470812")
    moved = [image.changed(position_mm=image.z * 9.0 + 4.0, series=2) for image in images]
    both = folder / "two persons"
    _write_dicoms(both, images, "SAX Wintergreen")
    _write_dicoms(both, moved, "SAX", "other", PatientID="QX4712", StudyInstanceUID="1.2.840.99999.4712")
    (folder / "Featherstone 9900003.nii.gz").write_bytes(gzip.compress(b"Wintergreen 19470812" * 50))
    rows = [
        "subject_id,session,image,group,site,notes,height_cm",
        f"9900001,20231105,{_write_nifti(folder)},clinic-north,clinic-north,Featherstone called twice,170",
        "9900002,20231105,9900002 Featherstone,clinic-north,clinic-north,Featherstone called twice,180",
        "9900002,2,long axis,clinic-north,clinic-north,,",
        "9900003,20231105,Featherstone 9900003.nii.gz,clinic-north,clinic-north,,",
        "9900003,3,two persons,clinic-north,clinic-north,,",
        "Featherstone,20231105,Featherstone gone.nii.gz,clinic-north,clinic-north,,",
        "9900003,4,Featherstone a;b;c,clinic-north,clinic-north,,Featherstone called twice",
    ]
    (folder / "Featherstone.csv").write_text("\n".join(rows) + "\n")
    (folder / "fields.csv").write_text("eid,lvef_pct\n9900001,50\n")
    return folder / "Featherstone.csv"


def _texts(path: Path) -> str:
    """All that a file contains, also what is compressed in it."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return f"{table.to_pylist()} {table.schema.metadata}"
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return b" ".join(archive.read(name) for name in archive.namelist()).decode("latin-1")
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("latin-1")


def _found(folder: Path, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Every word in the name or the content of a file below a folder."""
    texts = {str(path.relative_to(folder)): _texts(path) for path in finals(folder)}
    return [(name, word) for name, text in texts.items() for word in words if word in name or word in text]


def test_nothing_of_a_person_is_printed_shared_or_logged(cohort: Path, tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    commands: list[tuple[tuple[object, ...], int]] = [
        (("validate", "-m", cohort, "--deep"), 3),
        (("status", "-r", cohort.parent), 3),
        (("infer", "-m", cohort.with_name("Featherstone gone.csv"), "-o", run), 3),
        (("infer", "-m", cohort, "-o", run, "--model", tiny_model, "--verbose"), 4),
        (("indices", "-r", run, "--samples", 0), 4),
        (("compare", "-r", run, "--against", cohort.with_name("fields.csv"), "--on", "eid"), 0),
        (("report", "-r", run, "--pages", "none"), 0),
        (("report", "-r", run, "--terminal"), 0),
        (("status", "-r", run), 0),
        (("status", "-r", run, "--json"), 0),
        (("verify", "-r", run), 0),
    ]
    for command, code in commands:
        ran = cmnet(*command, "--share-safe")
        assert ran.exit_code == code, ran.output
        hidden = (*HEADER, *GIVEN, "99999.471", str(tmp_path), str(cohort.parent))
        assert [word for word in hidden if word in ran.output] == [], (command, ran.output)
    assert len(list(run.rglob("*_desc-infer.json"))) == 2
    # The run itself has what the manifest says, and nothing of the headers; --share-safe is for what leaves it.
    assert _found(run, HEADER) == []
    assert _found(run / "share-safe", (*GIVEN, str(tmp_path))) == []
    assert _found(run / "logs", ("990000", "20231105")) == []
