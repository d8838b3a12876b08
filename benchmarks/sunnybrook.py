"""SegNet on the Sunnybrook cines, against the endocardium that experts drew at ED and ES.

Runs ``cmnet infer`` on the zips as they are and prints, for each subject and phase, the Dice overlap of the LV's cavity
over all contoured slices: ``python benchmarks/sunnybrook.py``. The contours are placed in the frames and slices of our
volume by the headers of the DICOM files that they were drawn on; that these are the right ones is a test.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from PIL import Image, ImageDraw

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import write_manifest
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.read_images import load_cine
from cmnet_core.io.nifti import read_label_cine
from cmnet_core.labels import Label, LabelScheme
from cmnet_core.stats.metrics import dice_pct
from cmnet_core.types import CineSequence, LabelSequence

_NAME = re.compile(r".*IM-0001-(\d{4})-([io])contour-manual\.txt")


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed line, with what it was drawn on.

    Attributes:
        kind: ``i`` for the endocardium, ``o`` for the epicardium.
        instance: Number of the DICOM file.
        frame: Frame of the cine, from 0.
        slice: Slice of the cine, from 0.
        points: (n, 2) pixel coordinates, x first.
    """

    kind: str
    instance: int
    frame: int
    slice: int
    points: np.ndarray

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Pixels inside the line or on it, as (y, x)."""
        image = Image.new("1", (shape[1], shape[0]))
        ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in self.points], fill=1)
        return np.asarray(image)


def read_contours(folder: Path, subject: str, cine: CineSequence) -> list[Contour]:
    """Read the contours of a subject; each is placed by the position and share of the cycle of its DICOM file."""
    contours = []
    with (
        zipfile.ZipFile(folder / f"{subject}.zip") as images,
        zipfile.ZipFile(folder / f"{subject}_contours.zip") as lines,
    ):
        for name in sorted(lines.namelist()):
            if match := _NAME.fullmatch(name):
                header = _header(images, int(match[1]))
                frame, position = _place(header, cine)
                points = np.loadtxt(io.BytesIO(lines.read(name)), ndmin=2)
                contours.append(Contour(match[2], int(match[1]), frame, position, points))
    return contours


def _header(images: zipfile.ZipFile, instance: int) -> pydicom.Dataset:
    tags = ["ImagePositionPatient", "TriggerTime", "NominalInterval"]
    return pydicom.dcmread(io.BytesIO(images.read(f"{instance}.dcm")), stop_before_pixels=True, specific_tags=tags)


def _place(header: pydicom.Dataset, cine: CineSequence) -> tuple[int, int]:
    lps = torch.tensor([float(v) for v in header.ImagePositionPatient], dtype=torch.float64)
    ras = torch.cat([lps * torch.tensor([-1.0, -1.0, 1.0]), torch.ones(1)])
    z, y, x = (torch.linalg.inv(cine.affine) @ ras)[:3].tolist()
    assert abs(z - round(z)) < 0.05
    assert max(abs(y), abs(x)) < 0.05
    share_of_cycle = float(header.TriggerTime) / float(header.NominalInterval)
    return int(share_of_cycle * cine.frames), round(z)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How SegNet agrees with the contours of one subject at one phase.

    Attributes:
        subject: Name of the zip.
        phase: ``ED`` or ``ES``, as the experts chose it.
        frame: Of the cine, from 0.
        slices: How many were contoured.
        dice_pct: Of the LV's cavity over these slices.
        contoured_ml: Volume of the cavity in these slices by the contours.
        segnet_ml: By SegNet.
    """

    subject: str
    phase: str
    frame: int
    slices: int
    dice_pct: float | None
    contoured_ml: float
    segnet_ml: float


def agreement(
    subject: str, cine: CineSequence, found: LabelSequence, contours: Sequence[Contour]
) -> Iterator[Agreement]:
    """Compare label maps with the endocardial contours, at each of the two contoured phases."""
    inner = [contour for contour in contours if contour.kind == "i"]
    ed = next(contour.frame for contour in contours if contour.kind == "o")  # the epicardium is drawn at ED alone
    for phase, frame in (("ED", ed), ("ES", next(c.frame for c in inner if c.frame != ed))):
        drawn = {contour.slice: contour for contour in inner if contour.frame == frame}
        shape = (int(cine.voxels.shape[2]), int(cine.voxels.shape[3]))
        reference = torch.from_numpy(np.stack([contour.mask(shape) for contour in drawn.values()])).to(torch.uint8)
        mine = (found.at(frame)[list(drawn)] == Label.LV).to(torch.uint8)
        volumes = [float(mask.sum()) * cine.spacing.voxel_ml for mask in (reference, mine)]
        yield Agreement(subject, phase, frame, len(drawn), dice_pct(mine, reference, Label.LV), *volumes)


def measure(folder: Path, work: Path, *, model: str | None) -> list[Agreement]:
    """Infer all subjects of a folder and compare each with its contours.

    Raises:
        SystemExit: A subject failed.
    """
    subjects = sorted(path.name.removesuffix("_contours.zip") for path in folder.glob("*_contours.zip"))
    cases = [Case(n + 2, subject, (folder / f"{subject}.zip",)) for n, subject in enumerate(subjects)]
    write_manifest(work / "sunnybrook.csv", cases)
    command = ["infer", "--manifest", str(work / "sunnybrook.csv"), "--out", str(work / "run"), "--workers", "0"]
    named = ["--model", model] if model else []
    if subprocess.run([sys.executable, "-m", "cmnet_cli", *command, *named], check=False, stdout=2).returncode:
        raise SystemExit("cmnet infer failed")
    figures = []
    for case in cases:
        cine = load_cine(case)
        labels = RunFolder(work / "run").case(case.case_id).segnet_labels
        found = read_label_cine(labels, scheme=LabelScheme.CMNET, cine=cine)
        figures += agreement(case.subject_id, cine, found, read_contours(folder, case.subject_id, cine))
    return figures


def table(figures: Sequence[Agreement]) -> str:
    """A line for each subject and phase, and their mean."""
    lines = [
        f"{'subject':<12} {'phase':<6} {'frame':>5} {'slices':>7} {'Dice %':>7} {'contours mL':>12} {'SegNet mL':>10}"
    ]
    for f in figures:
        dice = "-" if f.dice_pct is None else f"{f.dice_pct:.1f}"
        volumes = f"{f.contoured_ml:>12.1f} {f.segnet_ml:>10.1f}"
        lines.append(f"{f.subject:<12} {f.phase:<6} {f.frame:>5} {f.slices:>7} {dice:>7} {volumes}")
    for phase in ("ED", "ES"):
        known = [f.dice_pct for f in figures if f.phase == phase and f.dice_pct is not None]
        lines.append(f"mean at {phase}: {np.mean(known):.1f} % (n = {len(known)})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    given = parser.parse_args(arguments)
    if not (given.data / "sunnybrook").is_dir():
        raise SystemExit(f"no real hearts: expected sunnybrook in {given.data}; give --data FOLDER")
    with tempfile.TemporaryDirectory() as work:
        print(table(measure(given.data / "sunnybrook", Path(work), model=given.model)))


if __name__ == "__main__":
    main()
