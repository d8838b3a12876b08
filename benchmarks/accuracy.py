"""Accuracy of cmnet on subjects with reference masks and on cines of known motion.

Subjects with masks are the validation patients of ACDC, every 5th from the first, or those of ``--manifest``. Cines of
known motion are those of ``--simulated``. Long cycles are those of ``--long``, or two phantoms of 50 frames. The
commands infer, indices and evaluate are run, and every metric is printed as mean ± standard deviation over subjects
beside its minimum requirement (floor) and its goal.
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
class Target:
    """Floor and goal of a metric.

    Attributes:
        name: Name of the metric.
        unit: Unit of the metric.
        floor: Minimum requirement.
        goal: Goal.
        higher: Whether larger values are better.
    """

    name: str
    unit: str
    floor: float
    goal: float
    higher: bool


def _three(name: str, unit: str, floors: Sequence[float], goals: Sequence[float], *, higher: bool) -> list[Target]:
    return [Target(f"{name}, {s}", unit, a, b, higher) for s, a, b in zip(STRUCTURES, floors, goals, strict=True)]


TARGETS = (
    *_three("SegNet Dice, mean of ED and ES", "%", (94.8, 88.8, 92.0), (95.5, 91, 93), higher=True),
    *_three("ED to ES Dice", "%", (91.5, 86.5, 87.5), (95, 88, 92), higher=True),
    *_three("ES to ED Dice", "%", (92, 82, 86), (95, 88, 92), higher=True),
    Target("Dice, mean of both ways and all structures", "%", 89, 92, higher=True),
    Target("HD95, mean of both ways and all structures", "mm", 5, 3.5, higher=False),
    Target("folded voxels on the network's grid, largest", "", 0, 0, higher=False),
    Target("LVEF RMSE", "percentage points", 3, 2.5, higher=False),
    Target("RVEF RMSE", "percentage points", 7, 4, higher=False),
    Target("entropy, AUROC of background", "", 0.8, 0.95, higher=True),
    Target("subjects whose GCS at ES is positive", "", 0, 0, higher=False),
    Target("simulated cines, endpoint error in-plane", "mm", 0.8, 0.5, higher=False),
    Target("simulated cines, GCS error", "percentage points", 1, 0.5, higher=False),
    Target("long cine, cycle consistency, LV Dice", "%", 93, 97, higher=True),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured metric.

    Attributes:
        value: The mean, root mean square or maximum that is compared with floor and goal.
        sd: Standard deviation over subjects where the value is a mean; otherwise None.
        n: Number of subjects.
        failures: Number of subjects whose prediction was empty, which the mean does not include.
    """

    value: float
    sd: float | None
    n: int
    failures: int = 0


def over_subjects(values: Sequence[float | None], *, failures: int = 0) -> Measurement | None:
    """Return mean and standard deviation over the subjects that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return Measurement(fmean(known), stdev(known) if len(known) > 1 else None, len(known), failures) if known else None


def judge(target: Target, found: Measurement | None) -> str:
    """Return ``goal``, ``floor`` or ``below``; a metric with failed subjects is always ``below``."""
    if found is None:
        return "not measured"
    if found.failures:
        return "below"
    reaches = (lambda mark: found.value >= mark) if target.higher else (lambda mark: found.value <= mark)
    return "goal" if reaches(target.goal) else "floor" if reaches(target.floor) else "below"


# ── reference masks ─────────────────────────────────────────────────────────────────────────────────────────────────


def real_metrics(run: RunFolder) -> dict[str, Measurement | None]:
    """Return the metrics of an evaluated run by the names of their targets."""
    subjects = read_rows(run.table("evaluation_subjects"))
    agreement = {row["index"]: row for row in read_rows(run.table("agreement_summary")) if row["group"] == "all"}
    metrics: dict[str, Measurement | None] = {}
    for s in STRUCTURES:
        segmented = [_mean_of(row[f"segnet_at_ed_{s}_dsc_pct"], row[f"segnet_at_es_{s}_dsc_pct"]) for row in subjects]
        metrics[f"SegNet Dice, mean of ED and ES, {s}"] = over_subjects(segmented)
        metrics[f"ED to ES Dice, {s}"] = over_subjects([row[f"motion_ed_to_es_{s}_dsc_pct"] for row in subjects])
        metrics[f"ES to ED Dice, {s}"] = over_subjects([row[f"motion_es_to_ed_{s}_dsc_pct"] for row in subjects])
    for name, column in (("Dice", "dsc_pct"), ("HD95", "hd95_mm")):
        columns = [f"motion_{way}_{s}_{column}" for way in ("ed_to_es", "es_to_ed") for s in STRUCTURES]
        known = [[row[entry] for entry in columns if row[entry] is not None] for row in subjects]
        failures = sum(len(values) < len(columns) for values in known)
        means = [fmean(values) if values else None for values in known]
        metrics[f"{name}, mean of both ways and all structures"] = over_subjects(means, failures=failures)
    folds = [max(row["njd_field_ed_to_es"], row["njd_field_es_to_ed"]) for row in subjects]
    metrics["folded voxels on the network's grid, largest"] = Measurement(max(folds), None, len(folds))
    for name, index in (("LVEF RMSE", "lvef_pct"), ("RVEF RMSE", "rvef_pct")):
        row = agreement[index]
        metrics[name] = None if row["rmse"] is None else Measurement(row["rmse"], None, row["n"])
    metrics["entropy, AUROC of background"] = over_subjects([row["entropy_auroc"] for row in subjects])
    return metrics


@dataclass(frozen=True, slots=True)
class RealStrain:
    """Global circumferential strain of a subject at ES, in %, on the wall of its reference mask at ED.

    Attributes:
        found: Strain by the motion.
        circles: Strain by the reference masks alone; None where no slice has both phases.
    """

    found: float
    circles: float | None


def real_strain(case: Case, folder: CaseFolder) -> RealStrain:
    """Compute the strain of one subject by the motion and, independently of it, by the reference masks."""
    stored, labels = open_tracking(folder), _masks(case)
    ed, es = stored.facts.ed, stored.facts.es
    field = restore_motion(read_field(folder, stored.facts, moving=ed, fixed=es), stored.facts.window)
    return RealStrain(gcs_pct(field, labels), circles_gcs_pct(labels.at(ed), labels.at(es)))


def circles_gcs_pct(at_ed: Tensor, at_es: Tensor) -> float | None:
    """Compute the Green-Lagrange strain in % of the mid-wall circle, as if no tissue moved through-plane.

    The radii of endocardium and epicardium are those of circles of their areas. The mean is over slices with cavity and
    wall at both phases, weighted by the area of the wall at ED; None where there is no such slice.
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


def strain_metrics(strains: Sequence[RealStrain]) -> dict[str, Measurement | None]:
    """Return the metric of the subjects' strain by the name of its target."""
    stretching = sum(strain.found >= 0.0 for strain in strains)
    return {"subjects whose GCS at ES is positive": Measurement(stretching, None, len(strains)) if strains else None}


def strain_remarks(strains: Sequence[RealStrain]) -> list[str]:
    """Return notes on the subjects' strain, for which there is no target."""
    apart = over_subjects([strain.found - strain.circles for strain in strains if strain.circles is not None])
    listed = {
        "GCS at ES, %": over_subjects([strain.found for strain in strains]),
        "GCS at ES minus that of the masks' circles, percentage points": apart,
    }
    return [f"reference masks, {name}: {formatted(item)}" for name, item in listed.items() if item]


def _mean_of(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else (first + second) / 2


# ── known motion ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KnownMotionErrors:
    """Errors of one subject's motion from ED to ES.

    Attributes:
        in_plane_mm: Mean in-plane endpoint error in the myocardium at ES, in mm.
        through_plane_mm: Mean through-plane endpoint error in the myocardium at ES, in mm.
        no_motion_mm: Mean in-plane length of the known motion in the myocardium at ES, in mm: the error of no motion.
        gcs_error_pct: Absolute error of the global circumferential strain at ES, in percentage points.
        twist_recovered_pct: Recovered fraction of the known rotation of the slices against each other, in %.
    """

    in_plane_mm: float
    through_plane_mm: float
    no_motion_mm: float
    gcs_error_pct: float
    twist_recovered_pct: float | None


def known_motion_errors(case: Case, folder: CaseFolder) -> KnownMotionErrors:
    """Compare a subject's estimated motion with its known motion."""
    stored, labels, truth = open_tracking(folder), _masks(case), known_to_ed(case)
    ed, es = truth.moving, truth.fixed
    found = restore_motion(read_field(folder, stored.facts, moving=ed, fixed=es), stored.facts.window)
    wall, at_ed = labels.at(es) == Label.MYO, labels.at(ed)
    z, y, x = (found.displacement_mm - truth.displacement_mm)[:, wall]
    return KnownMotionErrors(
        in_plane_mm=float(torch.hypot(y, x).mean()),
        through_plane_mm=float(z.abs().mean()),
        no_motion_mm=float(truth.displacement_mm[1:, wall].norm(dim=0).mean()),
        gcs_error_pct=abs(gcs_pct(found, labels) - gcs_pct(truth, labels)),
        twist_recovered_pct=recovered_pct(
            *(slice_rotations_rad(field, at_ed, labels.at(es)) for field in (found, truth))
        ),
    )


def known_to_ed(case: Case) -> MotionField:
    """Read the known motion of ES into ED of a simulated cine or of a phantom."""
    stored = ground_truth_motion_path(case.image[0])
    if stored.exists():
        cine = load_cine(case)
        assert case.ed is not None, "the manifest of simulated cines has both phases"
        assert case.es is not None, "the manifest of simulated cines has both phases"
        to_ed = read_ground_truth_motion(stored, size=(int(cine.voxels.shape[2]), int(cine.voxels.shape[3])))
        return MotionField(to_ed[case.es], cine.spacing, fixed=case.es, moving=case.ed)
    return read_motion(case.image[0].parent / f"{case.case_id}_desc-ed2es_motion.nii.gz")


def _masks(case: Case) -> LabelSequence:
    labels = load_labels(case, load_cine(case))
    assert labels is not None, "the cases have masks"
    return labels


def gcs_pct(to_ed: MotionField, at_ed: LabelSequence) -> float:
    """Compute the global circumferential strain of the ED mask's wall in %, as in the tables."""
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


def slice_rotations_rad(to_ed: MotionField, at_ed: Tensor, at_es: Tensor) -> Tensor:
    """Compute the mean rotation of the wall from ED to ES about the cavity's centre, for each slice with both at ES."""
    before = positions_at_ed(to_ed, at_ed)
    turns = []
    for z, (wall, cavity) in enumerate(zip(at_es == Label.MYO, at_es == Label.LV, strict=True)):
        if bool(wall.any()) and bool(cavity.any()):
            now = positions_mm(to_ed)[1:, z] - positions_mm(to_ed)[1:, z, cavity].mean(1)[:, None, None]
            turned = torch.atan2(*now[:, wall]) - torch.atan2(*before[:, z][:, wall])
            turns.append(torch.atan2(turned.sin().mean(), turned.cos().mean()))
    return torch.stack(turns)


def positions_mm(field: MotionField) -> Tensor:
    """Return the position (z, y, x) of every voxel in mm."""
    axes = [torch.arange(n) * mm for n, mm in zip(field.displacement_mm.shape[1:], field.spacing.zyx, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def positions_at_ed(to_ed: MotionField, at_ed: Tensor) -> Tensor:
    """Return the position (y, x) of every voxel at ED, in mm from the cavity's centre of the nearest slice."""
    z, *in_plane = positions_mm(to_ed) + to_ed.displacement_mm
    cavity = at_ed == Label.LV
    slices = cavity.flatten(1).any(1).nonzero()[:, 0]
    centres = torch.stack([positions_mm(to_ed)[1:, number, cavity[number]].mean(1) for number in slices], dim=1)
    nearest = (z / to_ed.spacing.z).round().long().clamp(int(slices[0]), int(slices[-1])) - int(slices[0])
    return torch.stack(in_plane) - centres[:, nearest.clamp_max(len(slices) - 1)]


def recovered_pct(found: Tensor, true: Tensor) -> float | None:
    """Return the slope in % of estimated on true rotations relative to their mean over slices; None without twist."""
    found, true = found - found.mean(), true - true.mean()
    power = float((true**2).sum())
    return 100.0 * float((found * true).sum()) / power if power > 1e-6 else None


def round_trip_dice_pct(case: Case, folder: CaseFolder) -> float | None:
    """Compute the LV Dice of the reference ED mask with itself after propagation by the motion of ED into itself."""
    stored, labels = open_tracking(folder), _masks(case)
    ed = stored.facts.ed
    round_trip = read_field(folder, stored.facts, moving=ed, fixed=ed)
    return dice_pct(propagate_labels(labels.at(ed), round_trip, stored.facts.window), labels.at(ed), Label.LV)


def simulated_metrics(errors: Sequence[KnownMotionErrors]) -> dict[str, Measurement | None]:
    """Return the metrics of cines of known motion by the names of their targets."""
    return {
        "simulated cines, endpoint error in-plane": over_subjects([error.in_plane_mm for error in errors]),
        "simulated cines, GCS error": over_subjects([error.gcs_error_pct for error in errors]),
    }


def simulated_remarks(errors: Sequence[KnownMotionErrors]) -> list[str]:
    """Return notes on the cines of known motion, for which there is no target."""
    listed = {
        "simulated cines, endpoint error through-plane, mm": [error.through_plane_mm for error in errors],
        "simulated cines, in-plane error of no motion, mm": [error.no_motion_mm for error in errors],
        "simulated cines, twist recovered, %": [error.twist_recovered_pct for error in errors],
    }
    found = {name: over_subjects(values) for name, values in listed.items()}
    return [f"{name}: {formatted(item)}" for name, item in found.items() if item]


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cmnet(*arguments: object) -> None:
    """Run a command of cmnet; with exit code 4 some subjects failed, which the metrics show.

    Raises:
        SystemExit: The command failed.
    """
    # The commands print to standard error; standard output has the table only.
    ran = subprocess.run([sys.executable, "-m", "cmnet_cli", *map(str, arguments)], check=False, stdout=2)
    if ran.returncode not in (0, 4):
        raise SystemExit(f"cmnet {arguments[0]} ended with exit code {ran.returncode}")


def validation_split(acdc: Path, folder: Path) -> Path:
    """Write a manifest of every 5th patient of ACDC, from the first."""
    all_patients, chosen = folder / "acdc.csv", folder / "validation.csv"
    cmnet("manifest", acdc, "--layout", "acdc", "--out", all_patients)
    with all_patients.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["subject_id"])[::VALIDATION_EVERY]
    with chosen.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return chosen


def infer(manifest: Path, run: Path, given: argparse.Namespace) -> RunFolder:
    """Track a cohort in a run folder."""
    model = ("--model", given.model) if given.model else ()
    cmnet("infer", "--manifest", manifest, "--out", run, "--workers", given.workers, *model)
    return RunFolder(run)


def measure(given: argparse.Namespace, work: Path) -> tuple[dict[str, Measurement | None], list[str]]:
    """Return all metrics, and notes on those without a target."""
    real = given.manifest or validation_split(given.data / "acdc", work)
    run = infer(real, work / "real", given)
    for command in ("indices", "evaluate"):
        cmnet(command, "--run", run.root)
    metrics, notes = real_metrics(run), list[str]()
    evaluated = {row["case_id"] for row in read_rows(run.table("evaluation_subjects"))}
    notes += [f"{case.case_id} failed and is not included" for case in _cases(real) if case.case_id not in evaluated]
    strains = [real_strain(case, run.case(case.case_id)) for case in _cases(real) if case.case_id in evaluated]
    metrics |= strain_metrics(strains)
    notes += strain_remarks(strains)
    if given.simulated:
        simulated = infer(given.simulated, work / "simulated", given)
        errors = [
            known_motion_errors(case, simulated.case(case.case_id))
            for case in _tracked(given.simulated, simulated, notes)
        ]
        metrics |= simulated_metrics(errors)
        notes += simulated_remarks(errors)
    metrics["long cine, cycle consistency, LV Dice"] = _round_trips(given, work, notes)
    return metrics, notes


def _cases(manifest: Path) -> tuple[Case, ...]:
    return read_manifest(manifest).cases


def _tracked(manifest: Path, run: RunFolder, notes: list[str]) -> list[Case]:
    """Return the cases that infer has finished, and add a note on each of the others."""
    done = [case for case in _cases(manifest) if run.case(case.case_id).sidecar("infer").exists()]
    notes += [f"{case.case_id} failed and is not included" for case in _cases(manifest) if case not in done]
    return done


def _round_trips(given: argparse.Namespace, work: Path, notes: list[str]) -> Measurement | None:
    """Measure the round trip on cines as long as those of a population study."""
    manifest = given.long
    if manifest is None:
        manifest = work / "hearts" / "cohort.csv"
        cmnet("phantom", manifest.parent, "--subjects", 2, "--frames", LONG_FRAMES, "--seed", 7)
    run = infer(manifest, work / "long", given)
    cases = _tracked(manifest, run, notes)
    return over_subjects([round_trip_dice_pct(case, run.case(case.case_id)) for case in cases])


def formatted(found: Measurement | None) -> str:
    """Format a measurement for the table."""
    if found is None:
        return "-"
    sd = "" if found.sd is None else f" ± {found.sd:.2f}"
    failures = f", {found.failures} failed" if found.failures else ""
    return f"{found.value:.2f}{sd} (n = {found.n}{failures})"


def table(metrics: dict[str, Measurement | None]) -> str:
    """Format the table of all targets."""
    head = f"{'metric':<48}{'measured':>28}{'floor':>8}{'goal':>8}  "
    lines = [head, "-" * len(head)]
    for target in TARGETS:
        found = metrics.get(target.name)
        name = f"{target.name}{f', {target.unit}' if target.unit else ''}"
        lines.append(f"{name:<48}{formatted(found):>28}{target.floor:>8g}{target.goal:>8g}  {judge(target, found)}")
    return "\n".join(lines)


def markdown(metrics: dict[str, Measurement | None], notes: Sequence[str]) -> str:
    """Format the table and the notes as Markdown."""
    lines = ["| metric | measured | floor | goal | reached |", "|---|---:|---:|---:|---|"]
    for target in TARGETS:
        found = metrics.get(target.name)
        name = f"{target.name}{f', {target.unit}' if target.unit else ''}"
        lines.append(f"| {name} | {formatted(found)} | {target.floor:g} | {target.goal:g} | {judge(target, found)} |")
    return "\n".join([*lines, "", *(f"* {line}" for line in notes)])


def as_json(metrics: dict[str, Measurement | None]) -> str:
    """Format the table as JSON."""
    notes: dict[str, Any] = {}
    for target in TARGETS:
        found = metrics.get(target.name)
        notes[target.name] = {
            **asdict(target),
            "measured": asdict(found) if found else None,
            "reached": judge(target, found),
        }
    return json.dumps(notes, indent=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table; the exit code does not depend on the results."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument(
        "--manifest", type=Path, help="manifest of subjects with masks; default: validation patients of ACDC"
    )
    parser.add_argument("--simulated", type=Path, help="manifest of simulated cines or phantoms")
    parser.add_argument("--long", type=Path, help=f"manifest of long cines; default: {LONG_FRAMES}-frame phantoms")
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder in which the runs are kept and continued")
    parser.add_argument("--json", type=Path, help="also write the metrics to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, for docs/validation.md")
    given = parser.parse_args(arguments)
    if not given.manifest and not (given.data / "acdc").is_dir():
        raise SystemExit(f"ACDC is missing in {given.data}; give --data FOLDER or --manifest FILE")
    with tempfile.TemporaryDirectory() as folder:
        work = given.out or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        metrics, notes = measure(given, work)
    print(markdown(metrics, notes) if given.markdown else "\n".join([table(metrics), *notes]))
    if given.json:
        given.json.write_text(as_json(metrics) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
