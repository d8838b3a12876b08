"""Accuracy of motion, strain and twist at ES on cines of known motion.

The wall is that of the reference mask at ED, so that the results differ by the motion only. The recovered fraction is
the slope of the regression of the estimated on the known values over subjects: it is 100 % for a perfect estimate and
0 % for one that is independent of the subject. The standard deviation of the known values is the variation between the
subjects.

    python -m benchmarks.known_motion MANIFEST --run RUN [--model NAME|FILE]

The manifest is one that ``cmnet phantom`` wrote, of phantoms or of simulated cines. Subjects that have been tracked in
the run folder are not tracked again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from benchmarks.accuracy import cmnet, known_to_ed
from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.derivatives.tracking import open_tracking, read_field
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import analyse_wall
from cmnet_core.types import LabelSequence, MotionField

NAMES = ("GCS, %", "GRS, %", "GLS-SAX, %", "twist, deg")
DIRECTIONS = ("in-plane", "through-plane")


def at_es(at_ed: LabelSequence, to_ed: MotionField) -> list[float]:
    """Compute strain and twist at ES from the field that is fixed at ES and points into ED."""
    wall = analyse_wall(
        at_ed.at(to_ed.moving),
        [to_ed],
        spacing=at_ed.spacing,
        affine=at_ed.affine,
        ed=to_ed.moving,
        es=to_ed.fixed,
        frame_ms=None,
    )
    curves = (wall.gcs_pct, wall.grs_pct, wall.gls_sax_pct, wall.rotation.twist_deg)
    return [float(curve[wall.timing.es]) for curve in curves]


def lengths_mm(displacement_mm: Float[Tensor, "3 n"]) -> list[float]:
    """Return the mean length of displacements in-plane and through-plane."""
    z, y, x = displacement_mm
    return [float(torch.hypot(y, x).mean()), float(z.abs().mean())]


@dataclass(frozen=True, slots=True)
class Compared:
    """Estimated and known values of one case at ES.

    Attributes:
        found: Estimated strain and twist.
        known: True strain and twist.
        error_mm: Mean endpoint error in the wall, in-plane and through-plane.
        moved_mm: Mean true displacement of the wall, in-plane and through-plane.
    """

    found: list[float]
    known: list[float]
    error_mm: list[float]
    moved_mm: list[float]


def compare(case: Case, folder: CaseFolder) -> Compared:
    """Compare the estimated motion of one case with the known one."""
    labels = load_labels(case, load_cine(case))
    assert labels is not None, "a cine with known motion has masks"
    truth, stored = known_to_ed(case), open_tracking(folder)
    field = read_field(folder, stored.facts, moving=truth.moving, fixed=truth.fixed)
    found = restore_motion(field, stored.facts.window)
    wall = labels.at(truth.fixed) == Label.MYO
    error, moved = (found.displacement_mm - truth.displacement_mm)[:, wall], truth.displacement_mm[:, wall]
    return Compared(at_es(labels, found), at_es(labels, truth), lengths_mm(error), lengths_mm(moved))


def table(found: Float64[Tensor, "n k"], known: Float64[Tensor, "n k"]) -> str:
    """Format the error and the recovered fraction of each quantity."""
    lines = [f"{'at ES':12}{'known':>16}{'error':>16}{'recovered':>11}{'r':>7}{'n':>5}"]
    for name, f, k in zip(NAMES, found.T, known.T, strict=True):
        valid = f.isfinite() & k.isfinite()
        f, k = f[valid], k[valid]
        slope = float(((k - k.mean()) * (f - f.mean())).sum() / (k - k.mean()).square().sum())
        r = float(torch.corrcoef(torch.stack([f, k]))[0, 1])
        error = f - k
        lines.append(
            f"{name:12}{k.mean():8.2f} ± {k.std():5.2f}{error.mean():8.2f} ± {error.std():5.2f}"
            f"{100.0 * slope:9.0f} %{r:7.2f}{len(k):5d}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Track the missing cases, compare all cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="run folder of the manifest's cines")
    parser.add_argument("--model", default="default", help="a shipped model, or a .safetensors file")
    parser.add_argument("--participant-label", nargs="*", default=[], help="only these subjects")
    given = parser.parse_args(arguments)
    chosen = [option for label in given.participant_label for option in ("--participant-label", label)]
    cmnet("infer", "--manifest", given.manifest, "--out", given.run, "--model", given.model, *chosen)
    run = RunFolder(given.run)
    cases = [case for case in read_manifest(given.manifest).cases if run.case(case.case_id).sidecar("infer").exists()]
    compared = [compare(case, run.case(case.case_id)) for case in cases]
    found, known, error, moved = (
        torch.tensor([getattr(one, name) for one in compared], dtype=torch.float64)
        for name in ("found", "known", "error_mm", "moved_mm")
    )
    print(table(found, known))
    for direction, e, m in zip(DIRECTIONS, error.T, moved.T, strict=True):
        of = f"{m.mean():.2f} ± {m.std():.2f} mm"
        print(f"endpoint error in the wall, {direction}: {e.mean():.2f} ± {e.std():.2f} mm of {of}")


if __name__ == "__main__":
    main()
