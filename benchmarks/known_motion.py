"""Strain and twist at ES through a model, on cines whose motion is known: how much of it is found.

The wall is that of the known mask at ED, so that nothing but the motion differs. The share that is found is the slope
of found on known values over subjects: 100 % where all of it is found, 0 % where what is given has nothing to do with
the subject. The spread of the known values says how much there was to tell subjects apart by.

    python -m benchmarks.known_motion MANIFEST --run RUN [--model NAME|FILE]

The manifest is one that ``cmnet phantom`` wrote, synthetic or from real hearts. What is tracked in the run folder
already is not tracked again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from benchmarks.accuracy import cmnet, known_to_ed
from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.derivatives.tracking import open_tracking, read_field
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.mechanics.analysis import analyse_wall
from cmnet_core.types import LabelSequence, MotionField

NAMES = ("GCS, %", "GRS, %", "GLS-SAX, %", "twist, deg")


def at_es(at_ed: LabelSequence, to_ed: MotionField) -> list[float]:
    """Strain and twist at ES by one field that is fixed there and points into ED."""
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


def compare(case: Case, folder: CaseFolder) -> tuple[list[float], list[float]]:
    """Found and known values of one case."""
    labels = load_labels(case, load_cine(case))
    assert labels is not None, "a cine with known motion has masks"
    truth, stored = known_to_ed(case), open_tracking(folder)
    moved = read_field(folder, stored.facts, moving=truth.moving, fixed=truth.fixed)
    found = restore_motion(moved, stored.facts.window)
    return at_es(labels, found), at_es(labels, truth)


def table(found: Float64[Tensor, "n k"], known: Float64[Tensor, "n k"]) -> str:
    """Errors of each quantity, and the share of it that is found."""
    lines = [f"{'at ES':12}{'known':>16}{'error':>16}{'found':>9}{'r':>7}{'n':>5}"]
    for name, f, k in zip(NAMES, found.T, known.T, strict=True):
        seen = f.isfinite() & k.isfinite()
        f, k = f[seen], k[seen]
        slope = float(((k - k.mean()) * (f - f.mean())).sum() / (k - k.mean()).square().sum())
        r = float(torch.corrcoef(torch.stack([f, k]))[0, 1])
        error = f - k
        lines.append(
            f"{name:12}{k.mean():8.2f} ± {k.std():5.2f}{error.mean():8.2f} ± {error.std():5.2f}"
            f"{100.0 * slope:7.0f} %{r:7.2f}{len(k):5d}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Track what is not tracked, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="run folder of the manifest's cines")
    parser.add_argument("--model", default="default", help="a shipped model, or a .safetensors file")
    parser.add_argument("--participant-label", nargs="*", default=[], help="these subjects alone")
    given = parser.parse_args(arguments)
    chosen = [option for label in given.participant_label for option in ("--participant-label", label)]
    cmnet("infer", "--manifest", given.manifest, "--out", given.run, "--model", given.model, *chosen)
    run = RunFolder(given.run)
    cases = [case for case in read_manifest(given.manifest).cases if run.case(case.case_id).sidecar("infer").exists()]
    pairs = [compare(case, run.case(case.case_id)) for case in cases]
    found, known = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
    print(table(found, known))


if __name__ == "__main__":
    main()
