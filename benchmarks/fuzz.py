"""Damaged files of every kind through the command line: each must end in a documented code, soon and in little memory.

    python benchmarks/fuzz.py --runs 3000

Files are made by code, then damaged at random from a seed that tells the whole file: ``--kind nifti --first 17
--runs 1`` makes the 18th NIfTI file again. A run fails where a traceback reaches the user, where it takes longer than
10 s or its process more than 2 GB, or where it ends without naming what is wrong.
"""

import argparse
import contextlib
import faulthandler
import gzip
import io
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, it finds what the tests make their files with

from benchmarks import fuzz_runs
from benchmarks.fuzz_damage import damage, damage_text
from cmnet_cli.app import app
from cmnet_core.errors import ErrorCode
from tests.dicoms import dicom_bytes, stack

LONGEST_S = 10.0
MOST_BYTES = 2 * 2**30
_CODES = frozenset(str(code) for code in ErrorCode) - {str(ErrorCode.DEFECT)}
_SHOWN = 20
# How a command says that it has left out something or has found something damaged.
_LISTED = r"left out|damaged|missing|not finished"


class HangError(BaseException):
    """A run that takes too long; nothing that catches errors catches it."""


@dataclass(frozen=True)
class Ran:
    """What became of one damaged file.

    Attributes:
        kind: What was damaged.
        seed: Which one of its kind.
        ended: A documented code, ``sound`` or, where it must not end so, what went wrong.
        seconds: How long it took.
        problem: Why it counts as a failure; empty where it does not.
    """

    kind: str
    seed: int
    ended: str
    seconds: float
    problem: str = ""


@cache
def _voxels() -> np.ndarray:
    chance = np.random.default_rng(1)
    return chance.integers(0, 900, (8, 6, 3, 5)).astype(np.int16)


@cache
def _nifti(kind: str, dtype: str, frames: int) -> bytes:
    """A sound NIfTI file."""
    make = nib.Nifti2Image if kind == "second" else nib.Nifti1Image
    voxels = _voxels()[..., :frames].astype(dtype) if frames > 1 else (_voxels()[..., 0] % 4).astype(dtype)
    image = make(voxels, np.diag([1.5, 1.5, 8.0, 1.0]))
    if kind == "big":
        image = nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 8.0, 1.0]), nib.Nifti1Header(endianness=">"))
    if kind == "scaled":
        image.header.set_slope_inter(0.5, 3.0)
    image.header.set_xyzt_units("mm", "sec")
    content: bytes = image.to_bytes()
    return content


@cache
def _dicoms() -> tuple[bytes, ...]:
    """A sound stack of DICOM files."""
    return tuple(dicom_bytes(image) for image in stack(slices=3, phases=4))


def _zip_of(files: tuple[bytes, ...], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for number, content in enumerate(files):
            archive.writestr(chance.choice(("", "../", "/", "a/b/", "..\\")) + f"{number}.dcm", content)
        archive.writestr("manifest.cvs", "patientid,instance number,filename\n9900001,1,0.dcm\n")
    return buffer.getvalue()


def _row(folder: Path, image: str, **cells: str) -> tuple[str, ...]:
    names, values = zip(*({"subject_id": "9900001", "image": image} | cells).items(), strict=True)
    manifest = folder / "cohort.csv"
    manifest.write_text(f"{','.join(names)}\n{','.join(values)}\n", encoding="utf-8")
    return ("validate", "--deep", "--manifest", str(manifest))


def make_nifti(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """A damaged cine, frame or mask; gzip around the damage, or damaged itself, or none."""
    kind, dtype = chance.choice(("first", "second", "big", "scaled")), chance.choice(("int16", "float32", "uint8"))
    image, mask = _nifti(kind, dtype, 5), _nifti("first", "uint8", 1)
    harmed = chance.choice(("image", "image", "image", "mask", "frame"))
    packed = chance.choice(("", ".gz", "damaged"))

    def harm(content: bytes) -> bytes:
        whole = gzip.compress(damage(content, chance), 1) if packed == ".gz" else content
        return damage(whole if packed == ".gz" else gzip.compress(content, 1), chance) if packed == "damaged" else whole

    def spoilt(content: bytes) -> bytes:
        return damage(content, chance) if not packed else harm(content)

    suffix = ".nii.gz" if packed else ".nii"
    if harmed == "frame":
        (folder / f"ed{suffix}").write_bytes(spoilt(mask))
        (folder / "es.nii").write_bytes(mask)
        return _row(folder, f"ed{suffix};es.nii")
    (folder / f"cine{suffix}").write_bytes(spoilt(image) if harmed == "image" else image)
    (folder / "mask.nii").write_bytes(damage(mask, chance) if harmed == "mask" else mask)
    return _row(folder, f"cine{suffix}", labels_ed="mask.nii", ed="0")


def make_dicom(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """A folder of DICOM files, some or all of them damaged."""
    (folder / "series").mkdir()
    share = chance.choice((0.1, 0.5, 1.0))
    for number, content in enumerate(_dicoms()):
        kept = damage(content, chance) if chance.random() < share else content
        (folder / "series" / f"{number}.dcm").write_bytes(kept)
    return _row(folder, "series")


def make_zip(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """A zip with damaged members, or itself damaged from its end, where its directory is."""
    if chance.random() < 0.4:
        content = _zip_of(tuple(damage(c, chance) if chance.random() < 0.3 else c for c in _dicoms()), chance)
    else:
        content = _zip_of(_dicoms(), chance)
        content = damage(content[::-1], chance)[::-1] if chance.random() < 0.7 else damage(content, chance)
    (folder / "9900001_20209_2_0.zip").write_bytes(content)
    return _row(folder, "9900001_20209_2_0.zip")


_MANIFEST = (
    "subject_id,session,image,labels_ed,label_scheme,ed,es,frame_ms,sex,age_years,height_cm,group,notes\n"
    "9900001,2,cine.nii,mask.nii,acdc,0,2,31.2,F,58,164,control,\n"
    "9900002,,cine.nii;cine.nii,,,,,,male,61,178,,=x\n"
    "9900003,,ed.nii;es.nii,,mnms,,,,,,,,two\n"
)


def make_manifest(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """A damaged manifest as CSV, TSV or Parquet, beside sound images."""
    (folder / "cine.nii").write_bytes(_nifti("first", "int16", 5))
    for name in ("mask", "ed", "es"):
        (folder / f"{name}.nii").write_bytes(_nifti("first", "uint8", 1))
    suffix = chance.choice((".csv", ".csv", ".tsv", ".parquet"))
    manifest = folder / f"cohort{suffix}"
    if suffix == ".parquet":
        table = pd.read_csv(io.StringIO(_MANIFEST), dtype=str)
        content = damage(table.to_parquet(index=False)[::-1], chance)[::-1]
    else:
        text = damage_text(_MANIFEST, chance).replace(",", "\t" if suffix == ".tsv" else ",")
        content = text.encode(chance.choice((*("utf-8",) * 8, "utf-16", "latin-1")), errors="replace")
        content = damage(content, chance) if chance.random() < 0.2 else content
    manifest.write_bytes(content)
    return ("validate", "--manifest", str(manifest), *chance.choice(((), ("--json",))))


def make_layout(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """A data set whose small tables are damaged, through the command manifest."""
    data = folder / "data"
    layout = chance.choice(("acdc", "mnms", "ukb", "ukbb_cardiac"))
    tables = _DATA_SETS[layout](data)
    harmed = chance.choice([*tables, folder / "demographics.csv"])
    tables |= {folder / "demographics.csv": "eid,31-0.0,p21003_i2,50-2.0,p21002_i2\n9900001,1,61,170,70\n"}
    for path, text in tables.items():
        content = damage_text(text, chance) if path == harmed else text
        path.write_bytes(content.encode("utf-8", errors="replace"))
    stated = ("--demographics", str(folder / "demographics.csv")) if harmed.parent == folder else ()
    return (
        "manifest",
        str(data),
        "--layout",
        chance.choice((layout, "auto")),
        "-o",
        str(folder / "out.csv"),
        *stated,
    )


def _acdc(data: Path) -> dict[Path, str]:
    patient = data / "training" / "patient001"
    patient.mkdir(parents=True)
    for name in ("frame01", "frame01_gt", "frame03", "frame03_gt"):
        (patient / f"patient001_{name}.nii").write_bytes(_nifti("first", "uint8", 1))
    return {patient / "Info.cfg": "ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"}


def _mnms(data: Path) -> dict[Path, str]:
    data.mkdir()
    (data / "A0S9V9_sa.nii").write_bytes(_nifti("first", "int16", 5))
    header = "External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"
    return {data / "information.csv": header + "A0S9V9,Siemens,A,1,1,3,28,NOR,F,171,70\n"}


def _ukb(data: Path) -> dict[Path, str]:
    data.mkdir()
    (data / "9900001_20209_2_0.zip").write_bytes(b"")
    return {data / "readme.txt": "field 20209\n"}


def _ukbb_cardiac(data: Path) -> dict[Path, str]:
    (data / "9900001").mkdir(parents=True)
    (data / "9900001" / "sa.nii.gz").write_bytes(gzip.compress(_nifti("first", "int16", 5)))
    (data / "9900001" / "sa_ED.nii.gz").write_bytes(gzip.compress(_nifti("first", "uint8", 1)))
    return {data / "9900001" / "seg_sa_ED.nii.gz": "no mask\n"}


_DATA_SETS: dict[str, Callable[[Path], dict[Path, str]]] = {
    "acdc": _acdc,
    "mnms": _mnms,
    "ukb": _ukb,
    "ukbb_cardiac": _ukbb_cardiac,
}

FILES: dict[str, Callable[[Path, random.Random], tuple[str, ...]]] = {
    "nifti": make_nifti,
    "dicom": make_dicom,
    "zip": make_zip,
    "manifest": make_manifest,
    "layout": make_layout,
}
"""Kinds of files that a user gives to cmnet."""

KINDS = FILES | fuzz_runs.KINDS
"""These, and the kinds of files of a run and the weights."""


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_one(kind: str, seed: int, *, longest_s: float = LONGEST_S) -> Ran:
    """Make a damaged file, run the command line on it in this process, and judge how that ended."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        arguments = KINDS[kind](folder, random.Random(f"{kind} {seed}"))
        started = time.monotonic()
        try:
            with _no_longer_than(longest_s), warnings.catch_warnings():
                warnings.simplefilter("error")
                result = CliRunner().invoke(app, list(arguments))
        except HangError:
            return Ran(kind, seed, "hang", longest_s, f"not done after {longest_s:g} s")
        ended, problem = _judged(result)
        return Ran(kind, seed, ended, time.monotonic() - started, problem)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judged(result: object) -> tuple[str, str]:
    """How a run ended, and why that counts as a failure."""
    error, output, code = result.exception, result.output, result.exit_code  # type: ignore[attr-defined]
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error)[-3:])
    if "Traceback" in output or re.search(rf"\b{ErrorCode.DEFECT}\b", output):
        return "traceback", output
    if code == 0:
        return "sound", ""
    if code == 4 and (found := re.search(_LISTED, output)):
        return found[0], ""
    stated = [word for word in re.findall(r"[a-z-]+", output) if word in _CODES]
    return (stated[0], "") if code in (3, 4) and stated else (f"exit code {code}", output[-500:])


def _prepare_worker() -> None:
    import cmnet_cli.commands.manifest
    import cmnet_cli.commands.validate

    del cmnet_cli  # loaded here, so that the first file does not pay for it
    # What a library allocates counts, what it merely maps does not.
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    faulthandler.enable()


def _try_some(kind: str, seeds: range, longest_s: float) -> tuple[list[Ran], float]:
    ran = []
    for seed in seeds:
        faulthandler.dump_traceback_later(6 * longest_s, exit=True)  # a hang that no signal ends
        ran.append(try_one(kind, seed, longest_s=longest_s))
    faulthandler.cancel_dump_traceback_later()
    return ran, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def fuzz(kinds: list[str], seeds: range, workers: int, longest_s: float) -> tuple[list[Ran], float]:
    """Run every seed of every kind; what became of each, and the largest memory of a process in GiB."""
    batches = [(kind, seeds[start : start + 50]) for start in range(0, len(seeds), 50) for kind in kinds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare_worker) as pool:
        found = list(pool.map(partial(_try_some, longest_s=longest_s), *zip(*batches, strict=True)))
    return [ran for some, _ in found for ran in some], max(peak for _, peak in found)


def main() -> int:
    """Fuzz, print what became of the files, and fail if one of them ended as none may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000, help="files in all, shared among the kinds")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind; may be repeated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=LONGEST_S, help="time limit of a file, for a busy machine")
    parser.add_argument("--out", type=Path, help="where every run goes as JSON")
    given = parser.parse_args()
    kinds = given.kind or list(KINDS)
    each = -(-given.runs // len(kinds))
    ran, peak = fuzz(kinds, range(given.first, given.first + each), given.workers, given.seconds)
    failed = [one for one in ran if one.problem]
    for (kind, ended), number in sorted(Counter((one.kind, one.ended) for one in ran).items()):
        print(f"{kind:<10} {ended:<22} {number:>6}")
    for one in failed[:_SHOWN]:
        print(f"\n{one.kind} {one.seed}: {one.ended}\n{one.problem}")
    longest = max(ran, key=lambda one: one.seconds)
    print(f"\n{len(ran)} files, {len(failed)} ended as none may; the longest took {longest.seconds:.1f} s", end="")
    print(f" ({longest.kind} {longest.seed}); the largest process had {peak:.2f} GiB")
    if given.out:
        given.out.write_text(json.dumps([asdict(one) for one in ran], indent=1))
    return 1 if failed or peak * 2**30 > MOST_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
