"""How accurate cmnet is: on real hearts with reference masks, and on cines whose motion is known.

Real hearts: the validation split of ACDC, every fifth patient from the first, or the manifest given. Known motion: the
cines of ``--made``. Long cycles: those of ``--long``, or two synthetic hearts of 50 frames. Runs infer, indices and
evaluate as a user would and prints every figure, as mean ± standard deviation over subjects, beside a floor that is
expected and a goal that is aimed for.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import mul
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.derivatives.ground_truth_motion import read_ground_truth_motion
from cmnet_cli.derivatives.tracking import open_tracking, read_field
from cmnet_cli.runs.paths import CaseFolder, RunFolder, ground_truth_motion_path
from cmnet_cli.stages.evaluate import propagate_labels
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_cli.tables.schema import read_rows
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.io.nifti import read_motion
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import analyse_wall
from cmnet_core.stats.metrics import dice_pct
from cmnet_core.types import LabelSequence, MotionField

STRUCTURES = ("lv", "myo", "rv")
LONG_FRAMES = 50
VALIDATION_EVERY = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """What is expected of a figure, and what is aimed for.

    Attributes:
        name: The figure.
        unit: Its unit.
        floor: Expected.
        goal: Aimed for.
        higher: Whether more is better.
    """

    name: str
    unit: str
    floor: float
    goal: float
    higher: bool


def _three(name: str, unit: str, floors: Sequence[float], goals: Sequence[float], *, higher: bool) -> list[Bar]:
    return [Bar(f"{name}, {s}", unit, a, b, higher) for s, a, b in zip(STRUCTURES, floors, goals, strict=True)]


BARS = (
    *_three("SegNet Dice, mean of ED and ES", "%", (94, 88, 90), (95.5, 91, 93), higher=True),
    *_three("ED to ES Dice", "%", (90, 83, 83), (95, 88, 92), higher=True),
    *_three("ED to ES HD95", "mm", (6, 5, 9), (3, 3, 5), higher=False),
    Bar("folded voxels on the network's grid, largest", "", 0, 0, higher=False),
    Bar("LVEF RMSE", "percentage points", 5, 3, higher=False),
    Bar("RVEF RMSE", "percentage points", 8, 4, higher=False),
    Bar("entropy, AUROC of background", "", 0.8, 0.95, higher=True),
    Bar("subjects whose GCS at ES is positive", "", 0, 0, higher=False),
    Bar("simulated cines, endpoint error in-plane", "mm", 1.2, 0.6, higher=False),
    Bar("simulated cines, GCS error", "percentage points", 2, 1, higher=False),
    Bar("long cine, cycle consistency, LV Dice", "%", 93, 97, higher=True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A measured figure.

    Attributes:
        value: What is compared with the bar: a mean, a root mean square or a largest value.
        spread: Standard deviation over subjects, where it is a mean.
        n: Subjects.
        failures: Subjects whose prediction was empty; no mean counts them.
    """

    value: float
    spread: float | None
    n: int
    failures: int = 0


def over_subjects(values: Sequence[float | None], *, failures: int = 0) -> Found | None:
    """Mean and standard deviation over the subjects that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return Found(fmean(known), stdev(known) if len(known) > 1 else None, len(known), failures) if known else None


def judge(bar: Bar, found: Found | None) -> str:
    """``goal``, ``floor`` or ``below``; a figure with failed subjects is below whatever the others reach."""
    if found is None:
        return "not measured"
    if found.failures:
        return "below"
    reaches = (lambda mark: found.value >= mark) if bar.higher else (lambda mark: found.value <= mark)
    return "goal" if reaches(bar.goal) else "floor" if reaches(bar.floor) else "below"


# ── real hearts ──────────────────────────────────────────────────────────────────────────────────────────────────


def real_figures(run: RunFolder) -> dict[str, Found | None]:
    """The figures of an evaluated run, by the names of their bars."""
    subjects = read_rows(run.table("evaluation_subjects"))
    agreement = {row["index"]: row for row in read_rows(run.table("agreement_summary")) if row["group"] == "all"}
    figures: dict[str, Found | None] = {}
    for s in STRUCTURES:
        segmented = [_mean_of(row[f"segnet_at_ed_{s}_dsc_pct"], row[f"segnet_at_es_{s}_dsc_pct"]) for row in subjects]
        distances = [row[f"motion_ed_to_es_{s}_hd95_mm"] for row in subjects]
        figures[f"SegNet Dice, mean of ED and ES, {s}"] = over_subjects(segmented)
        figures[f"ED to ES Dice, {s}"] = over_subjects([row[f"motion_ed_to_es_{s}_dsc_pct"] for row in subjects])
        figures[f"ED to ES HD95, {s}"] = over_subjects(distances, failures=distances.count(None))
    folds = [max(row["njd_field_ed_to_es"], row["njd_field_es_to_ed"]) for row in subjects]
    figures["folded voxels on the network's grid, largest"] = Found(max(folds), None, len(folds))
    for name, index in (("LVEF RMSE", "lvef_pct"), ("RVEF RMSE", "rvef_pct")):
        row = agreement[index]
        figures[name] = None if row["rmse"] is None else Found(row["rmse"], None, row["n"])
    figures["entropy, AUROC of background"] = over_subjects([row["entropy_auroc"] for row in subjects])
    return figures


@dataclass(frozen=True, slots=True)
class RealStrain:
    """Global circumferential strain of a real heart at ES, in %, on the wall of its reference mask at ED.

    Attributes:
        found: By the motion.
        circles: By the masks alone.
    """

    found: float
    circles: float | None


def real_strain(case: Case, folder: CaseFolder) -> RealStrain:
    """Strain of one evaluated heart; that of its masks is no truth, but knows nothing of the motion."""
    stored, labels = open_tracking(folder), _masks(case)
    ed, es = stored.facts.ed, stored.facts.es
    field = restore_motion(read_field(folder, stored.facts, moving=ed, fixed=es), stored.facts.window)
    return RealStrain(gcs_pct(field, labels), circles_gcs_pct(labels.at(ed), labels.at(es)))


def circles_gcs_pct(at_ed: Tensor, at_es: Tensor) -> float | None:
    """Green-Lagrange strain of the circle halfway between the walls' faces, in %, as if slices held the same tissue.

    The radius of each face is that of the circle with its area; the mean over slices that show cavity and wall at both
    phases, weighted by the wall at ED. None where no slice does.
    """
    strains, weights = [], []
    for before, after in zip(at_ed, at_es, strict=True):
        (cavity, wall), (cavity_es, wall_es) = (
            (float((mask == Label.LV).sum()), float((mask == Label.MYO).sum())) for mask in (before, after)
        )
        if min(cavity, wall, cavity_es, wall_es) > 0.0:
            ratio = (cavity_es**0.5 + (cavity_es + wall_es) ** 0.5) / (cavity**0.5 + (cavity + wall) ** 0.5)
            strains.append(50.0 * (ratio**2 - 1.0))
            weights.append(wall)
    return sum(map(mul, strains, weights)) / sum(weights) if strains else None


def strain_figures(strains: Sequence[RealStrain]) -> dict[str, Found | None]:
    """The figure of real strain, by the name of its bar."""
    stretching = sum(strain.found >= 0.0 for strain in strains)
    return {"subjects whose GCS at ES is positive": Found(stretching, None, len(strains)) if strains else None}


def strain_remarks(strains: Sequence[RealStrain]) -> list[str]:
    """What real strain has to tell beside."""
    apart = over_subjects([strain.found - strain.circles for strain in strains if strain.circles is not None])
    listed = {
        "GCS at ES, %": over_subjects([strain.found for strain in strains]),
        "GCS at ES minus that of the masks' circles, percentage points": apart,
    }
    return [f"ACDC, {name}: {shown(item)}" for name, item in listed.items() if item]


def _mean_of(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else (first + second) / 2


# ── known motion ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KnownMotionErrors:
    """How far one subject's motion is from the known one, between ED and ES.

    Attributes:
        plane_mm: Mean endpoint error in the plane, in the myocardium at ES.
        through_mm: Mean endpoint error through the plane.
        still_mm: Mean length of the known motion there: the error of no motion.
        gcs_points: Absolute error of the global circumferential strain at ES, in percentage points.
        twist_recovered_pct: Share of the known rotation of the slices against each other that was found.
    """

    plane_mm: float
    through_mm: float
    still_mm: float
    gcs_points: float
    twist_recovered_pct: float | None


def known_motion_errors(case: Case, folder: CaseFolder) -> KnownMotionErrors:
    """Compare a subject's motion with the one that made its cine."""
    stored, labels, truth = open_tracking(folder), _masks(case), known_to_ed(case)
    ed, es = truth.moving, truth.fixed
    found = restore_motion(read_field(folder, stored.facts, moving=ed, fixed=es), stored.facts.window)
    wall, at_ed = labels.at(es) == Label.MYO, labels.at(ed)
    z, y, x = (found.displacement_mm - truth.displacement_mm)[:, wall]
    return KnownMotionErrors(
        plane_mm=float(torch.hypot(y, x).mean()),
        through_mm=float(z.abs().mean()),
        still_mm=float(truth.displacement_mm[1:, wall].norm(dim=0).mean()),
        gcs_points=abs(gcs_pct(found, labels) - gcs_pct(truth, labels)),
        twist_recovered_pct=_share_recovered(*(turns_rad(field, at_ed, labels.at(es)) for field in (found, truth))),
    )


def known_to_ed(case: Case) -> MotionField:
    """The known motion of ES into ED, which lies beside the image of a made cine or of a phantom."""
    made = ground_truth_motion_path(case.image[0])
    if made.exists():
        cine = load_cine(case)
        assert case.ed is not None, "the manifest of simulated cines names both phases"
        assert case.es is not None, "the manifest of simulated cines names both phases"
        to_ed = read_ground_truth_motion(made, size=(int(cine.voxels.shape[2]), int(cine.voxels.shape[3])))
        return MotionField(to_ed[case.es], cine.spacing, fixed=case.es, moving=case.ed)
    return read_motion(case.image[0].parent / f"{case.case_id}_desc-ed2es_motion.nii.gz")


def _masks(case: Case) -> LabelSequence:
    labels = load_labels(case, load_cine(case))
    assert labels is not None, "a cine with known motion has masks"
    return labels


def gcs_pct(to_ed: MotionField, at_ed: LabelSequence) -> float:
    """Global circumferential strain of the ED mask's wall, in %, as the tables have it."""
    wall = analyse_wall(
        at_ed.at(to_ed.moving),
        [to_ed],
        spacing=at_ed.spacing,
        affine=at_ed.affine,
        ed=to_ed.moving,
        es=to_ed.fixed,
        frame_ms=None,
    )
    return float(wall.gcs_pct[wall.timing.es])


def turns_rad(to_ed: MotionField, at_ed: Tensor, at_es: Tensor) -> Tensor:
    """Mean rotation of the wall from ED to ES about the cavity's centre, of each slice that has both at ES."""
    before = places_at_ed(to_ed, at_ed)
    turns = []
    for z, (wall, cavity) in enumerate(zip(at_es == Label.MYO, at_es == Label.LV, strict=True)):
        if bool(wall.any()) and bool(cavity.any()):
            now = places_mm(to_ed)[1:, z] - places_mm(to_ed)[1:, z, cavity].mean(1)[:, None, None]
            turned = torch.atan2(*now[:, wall]) - torch.atan2(*before[:, z][:, wall])
            turns.append(torch.atan2(turned.sin().mean(), turned.cos().mean()))
    return torch.stack(turns)


def places_mm(field: MotionField) -> Tensor:
    """Every voxel's place (z, y, x) in mm."""
    axes = [torch.arange(n) * mm for n, mm in zip(field.displacement_mm.shape[1:], field.spacing.zyx, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def places_at_ed(to_ed: MotionField, at_ed: Tensor) -> Tensor:
    """Where (y, x) every voxel was at ED, in mm from the cavity's centre of the slice that it was in or near."""
    z, *in_plane = places_mm(to_ed) + to_ed.displacement_mm
    cavity = at_ed == Label.LV
    slices = cavity.flatten(1).any(1).nonzero()[:, 0]
    centres = torch.stack([places_mm(to_ed)[1:, number, cavity[number]].mean(1) for number in slices], dim=1)
    nearest = (z / to_ed.spacing.z).round().long().clamp(int(slices[0]), int(slices[-1])) - int(slices[0])
    return torch.stack(in_plane) - centres[:, nearest.clamp_max(len(slices) - 1)]


def _share_recovered(found: Tensor, true: Tensor) -> float | None:
    """Slope of found on true rotations, both against their mean over slices; None where the truth does not twist."""
    found, true = found - found.mean(), true - true.mean()
    power = float((true**2).sum())
    return 100.0 * float((found * true).sum()) / power if power > 1e-6 else None


def round_trip_dice_pct(case: Case, folder: CaseFolder) -> float | None:
    """Dice of the LV of the reference ED mask, carried once round the cycle, against itself."""
    stored, labels = open_tracking(folder), _masks(case)
    ed = stored.facts.ed
    round_trip = read_field(folder, stored.facts, moving=ed, fixed=ed)
    return dice_pct(propagate_labels(labels.at(ed), round_trip, stored.facts.window), labels.at(ed), Label.LV)


def made_figures(errors: Sequence[KnownMotionErrors]) -> dict[str, Found | None]:
    """The figures of cines with known motion, by the names of their bars."""
    return {
        "simulated cines, endpoint error in-plane": over_subjects([error.plane_mm for error in errors]),
        "simulated cines, GCS error": over_subjects([error.gcs_points for error in errors]),
    }


def remarks(errors: Sequence[KnownMotionErrors]) -> list[str]:
    """What has no bar, but should be known."""
    listed = {
        "simulated cines, endpoint error through-plane, mm": [error.through_mm for error in errors],
        "simulated cines, in-plane error of no motion, mm": [error.still_mm for error in errors],
        "simulated cines, twist recovered, %": [error.twist_recovered_pct for error in errors],
    }
    found = {name: over_subjects(values) for name, values in listed.items()}
    return [f"{name}: {shown(item)}" for name, item in found.items() if item]


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cmnet(*arguments: object) -> None:
    """Run a command of cmnet; 4 says that some subjects failed, and the figures will show it.

    Raises:
        SystemExit: It ended otherwise.
    """
    # What the commands say goes to standard error: standard output is for the table.
    ran = subprocess.run([sys.executable, "-m", "cmnet_cli", *map(str, arguments)], check=False, stdout=2)
    if ran.returncode not in (0, 4):
        raise SystemExit(f"cmnet {arguments[0]} ended with exit code {ran.returncode}")


def validation_split(acdc: Path, folder: Path) -> Path:
    """Write a manifest of every fifth patient of ACDC, from the first."""
    everyone, chosen = folder / "acdc.csv", folder / "validation.csv"
    cmnet("manifest", acdc, "--layout", "acdc", "--out", everyone)
    with everyone.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["subject_id"])[::VALIDATION_EVERY]
    with chosen.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return chosen


def infer(manifest: Path, run: Path, given: argparse.Namespace) -> RunFolder:
    """Track a cohort into a run folder of its own."""
    model = ("--model", given.model) if given.model else ()
    refined = () if given.refine is None else ("--refine", given.refine)
    cmnet("infer", "--manifest", manifest, "--out", run, "--workers", given.workers, *model, *refined)
    return RunFolder(run)


def measure(given: argparse.Namespace, work: Path) -> tuple[dict[str, Found | None], list[str]]:
    """All figures, and remarks on those without a bar."""
    real = given.manifest or validation_split(given.data / "acdc", work)
    run = infer(real, work / "real", given)
    for command in ("indices", "evaluate"):
        cmnet(command, "--run", run.root)
    figures, told = real_figures(run), list[str]()
    evaluated = {row["case_id"] for row in read_rows(run.table("evaluation_subjects"))}
    told += [f"{case.case_id} failed and is not included" for case in _cases(real) if case.case_id not in evaluated]
    strains = [real_strain(case, run.case(case.case_id)) for case in _cases(real) if case.case_id in evaluated]
    figures |= strain_figures(strains)
    told += strain_remarks(strains)
    if given.made:
        made = infer(given.made, work / "made", given)
        errors = [known_motion_errors(case, made.case(case.case_id)) for case in _tracked(given.made, made, told)]
        figures |= made_figures(errors)
        told += remarks(errors)
    figures["long cine, cycle consistency, LV Dice"] = _round_trips(given, work, told)
    return figures, told


def _cases(manifest: Path) -> tuple[Case, ...]:
    return read_manifest(manifest).cases


def _tracked(manifest: Path, run: RunFolder, told: list[str]) -> list[Case]:
    """The cases that infer has done; the others are told of."""
    done = [case for case in _cases(manifest) if run.case(case.case_id).sidecar("infer").exists()]
    told += [f"{case.case_id} failed and is not included" for case in _cases(manifest) if case not in done]
    return done


def _round_trips(given: argparse.Namespace, work: Path, told: list[str]) -> Found | None:
    """Of cines as long as those of a population study."""
    manifest = given.long
    if manifest is None:
        manifest = work / "hearts" / "cohort.csv"
        cmnet("phantom", manifest.parent, "--subjects", 2, "--frames", LONG_FRAMES, "--seed", 7)
    run = infer(manifest, work / "long", given)
    cases = _tracked(manifest, run, told)
    return over_subjects([round_trip_dice_pct(case, run.case(case.case_id)) for case in cases])


def shown(found: Found | None) -> str:
    """As in the table."""
    if found is None:
        return "-"
    spread = "" if found.spread is None else f" ± {found.spread:.2f}"
    failures = f", {found.failures} failed" if found.failures else ""
    return f"{found.value:.2f}{spread} (n = {found.n}{failures})"


def table(figures: dict[str, Found | None]) -> str:
    """Every bar in a line."""
    head = f"{'metric':<42}{'measured':>28}{'floor':>8}{'goal':>8}  "
    lines = [head, "-" * len(head)]
    for bar in BARS:
        found = figures.get(bar.name)
        name = f"{bar.name}{f', {bar.unit}' if bar.unit else ''}"
        lines.append(f"{name:<42}{shown(found):>28}{bar.floor:>8g}{bar.goal:>8g}  {judge(bar, found)}")
    return "\n".join(lines)


def markdown(figures: dict[str, Found | None], told: Sequence[str]) -> str:
    """The same for a page, remarks below it."""
    lines = ["| metric | measured | floor | goal | reached |", "|---|---:|---:|---:|---|"]
    for bar in BARS:
        found = figures.get(bar.name)
        name = f"{bar.name}{f', {bar.unit}' if bar.unit else ''}"
        lines.append(f"| {name} | {shown(found)} | {bar.floor:g} | {bar.goal:g} | {judge(bar, found)} |")
    return "\n".join([*lines, "", *(f"* {line}" for line in told)])


def as_json(figures: dict[str, Found | None]) -> str:
    """The same for scripts."""
    told: dict[str, Any] = {}
    for bar in BARS:
        found = figures.get(bar.name)
        told[bar.name] = {**asdict(bar), "measured": asdict(found) if found else None, "reached": judge(bar, found)}
    return json.dumps(told, indent=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table; the exit code does not depend on what it says."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--manifest", type=Path, help="subjects with reference masks; default: ACDC's validation split")
    parser.add_argument("--made", type=Path, help="manifest of cines with known motion beside their images")
    parser.add_argument("--long", type=Path, help=f"manifest of long cines; default: {LONG_FRAMES}-frame phantoms")
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    parser.add_argument("--refine", type=int, help="as for cmnet infer, whose default it takes")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the run folders here; what is done there is not done again")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/validation.md")
    given = parser.parse_args(arguments)
    if not given.manifest and not (given.data / "acdc").is_dir():
        raise SystemExit(f"no reference data: expected acdc in {given.data}; give --data FOLDER or --manifest FILE")
    with tempfile.TemporaryDirectory() as folder:
        work = given.out or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        figures, told = measure(given, work)
    print(markdown(figures, told) if given.markdown else "\n".join([table(figures), *told]))
    if given.json:
        given.json.write_text(as_json(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
