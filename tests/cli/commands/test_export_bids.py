"""A run is exported as BIDS derivatives, which the validator of BIDS accepts."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cmnet_cli.runs.paths import RunFolder
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a run of two subjects in ``run``, whose ids have characters that BIDS does not allow."""
    folder = tmp_path_factory.mktemp("bids")
    manifest = write_cohort(folder, 2, frames=3)
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("\n9900001,", "\n99-1,").replace("\n9900002,", "\n99_2,"), encoding="utf-8")
    for arguments in (("infer", "-m", manifest, "-o", folder / "run", "--model", tiny_model), ("indices",)):
        extra = ("-r", folder / "run", "--samples", 0) if arguments == ("indices",) else ()
        ran = cmnet(*arguments, *extra)
        assert ran.exit_code == 0, ran.output
    return folder


def test_results_are_copied_under_the_names_of_bids(folder: Path, tmp_path: Path) -> None:
    ran = cmnet("export-bids", "-r", folder / "run", "-o", tmp_path)
    assert ran.exit_code == 0, ran.output
    files = tmp_path / "sub-991" / "anat"
    stored = RunFolder(folder / "run").case("sub-99-1")
    for source, name in (
        (stored.segnet_labels, "sub-991_desc-segnet_dseg.nii.gz"),
        (stored.ed2es_motion, "sub-991_from-ED_to-ES_mode-image_xfm.nii.gz"),
    ):
        np.testing.assert_array_equal(nib.load(files / name).get_fdata(), nib.load(source).get_fdata())
    sidecar = json.loads((files / "sub-991_desc-propagated_dseg.json").read_text())
    assert sidecar["Manual"] is False

    table = (tmp_path / "phenotype" / "indices.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines(), delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-991", "sub-992"]
    assert 0 < float(rows[0]["lvef_pct"]) < 100
    described = json.loads((tmp_path / "phenotype" / "indices.json").read_text())
    assert described["lvef_pct"]["Units"] == "%"


def test_derivatives_are_accepted_by_the_validator(folder: Path, tmp_path: Path) -> None:
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    assert cmnet("export-bids", "-r", folder / "run", "-o", tmp_path).exit_code == 0
    program = [validator, "--format", "json", "--datasetTypes", "derivative", str(tmp_path)]
    issues = json.loads(subprocess.run(program, capture_output=True, text=True, check=False).stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert "NOT_INCLUDED" not in {issue["code"] for issue in issues}


def test_ids_with_the_same_letters_and_digits_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cohort.csv"
    image = folder / "9900001.nii.gz"
    manifest.write_text(f"subject_id,image\n99-1,{image}\n991,{image}\n", encoding="utf-8")
    run = tmp_path / "run"
    assert cmnet("preprocess", "-m", manifest, "-o", run).exit_code == 0
    ran = cmnet("export-bids", "-r", run, "-o", tmp_path / "out")
    assert ran.exit_code == 3
    assert "only letters and digits" in ran.output
    assert not (tmp_path / "out").exists()
