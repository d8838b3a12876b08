"""Accuracy of strain where the motion is known exactly: random phantoms, analysed through their true motion.

The test covers everything after the motion: coordinates of the wall, derivatives on slices 5 to 10 mm apart, means and
peaks. The ground truth is the closed form, integrated over the continuous wall; each phantom has one hypokinetic
segment.

    python benchmarks/strain.py [--subjects 40] [--frames 10] [--seed 4] [--on-grid 12]
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import analyse_wall
from cmnet_core.mechanics.lagrangian import MaterialMotion, follow_material
from cmnet_core.mechanics.strain import SIGN, Direction
from cmnet_core.mechanics.strain_curves import Timing, summarise
from cmnet_core.phantom import PhantomSpec, Truth, draw_spec, truth_of
from cmnet_core.phantom.kinematics import push_forward
from cmnet_core.phantom.scan_grid import affine_of, grid_points, slice_depths, spacing_of, to_image
from cmnet_core.phantom.shape import Points, labels_at

NAMES = {Direction.CIRCUMFERENTIAL: "GCS", Direction.RADIAL: "GRS", Direction.LONGITUDINAL: "GLS-SAX"}
BARS = {"GCS": 1.0, "GRS": 2.5, "GLS-SAX": 1.5}
PIXEL_MM, SIZE = 1.5, 128


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured and true values of one phantom.

    Attributes:
        found: Peaks of GCS, GRS and GLS-SAX in %, torsion at ES in deg/cm.
        true: The same values in closed form.
        defect: Number of the hypokinetic segment.
        weakest: Number of the segment whose peak circumferential strain has the smallest size.
        weakest_true: The same in closed form.
    """

    found: dict[str, float]
    true: dict[str, float]
    defect: int
    weakest: int
    weakest_true: int


def on_window(spec: PhantomSpec) -> PhantomSpec:
    """Return the same phantom on the grid of the network's window, on which motion is stored."""
    return replace(spec, scan=replace(spec.scan, pixel_mm=PIXEL_MM, rows=SIZE, columns=SIZE))


def true_motion(truth: Truth) -> tuple[Tensor, MaterialMotion]:
    """Return the label map at ED and the exact motion of its myocardium."""
    scan = truth.spec.scan
    points = Points(*torch.broadcast_tensors(*grid_points(scan, slice_depths(scan))))
    labels = labels_at(truth.spec.heart, points)
    mask = labels == Label.MYO
    start = Points(*(p[mask] for p in points))
    before = torch.stack(to_image(scan, start), dim=1)
    moved = [
        torch.stack(to_image(scan, push_forward(truth.beat, truth.at(t), start)), dim=1) for t in range(scan.frames)
    ]
    displacement = torch.stack(moved) - before
    return labels, MaterialMotion(displacement, tuple(range(scan.frames)), mask, spacing_of(scan), scan.ed)


def peaks_of(curves: Tensor, timing: Timing) -> dict[str, float]:
    """Return the peaks of the three curves ``[3 t]`` in %."""
    return {name: _peak(curves[d], timing, SIGN[d]) for d, name in NAMES.items()}


def _peak(curve: Tensor, timing: Timing, sign: float) -> float:
    peak = summarise(curve, timing, sign=sign).peak
    return math.nan if peak is None else peak


def weakest_segment(ecc: Tensor, timing: Timing) -> int:
    """Return the AHA segment whose circumferential strain ``[t 16]`` has the smallest peak."""
    return 1 + int(torch.tensor([abs(_peak(curve, timing, -1.0)) for curve in ecc.T]).nan_to_num(torch.inf).argmin())


def measure(spec: PhantomSpec) -> Measured:
    """Measure the whole cycle of one phantom by the exact motion of every voxel of its wall."""
    truth = truth_of(on_window(spec))
    return _measure(truth, *true_motion(truth), es_of(truth))


def measure_on_grid(spec: PhantomSpec) -> Measured:
    """Measure one phantom at ES by a displacement field on the ES grid, the form in which motion is stored."""
    truth = truth_of(on_window(spec))
    labels, exact = true_motion(truth)
    return _measure(truth, labels, follow_material([truth.to_ed(es_of(truth))], exact.mask), es_of(truth))


def es_of(truth: Truth) -> int:
    """Return the frame with the smallest LV volume."""
    return int(truth.volumes().lv_ml.argmin())


def _measure(truth: Truth, labels: Tensor, motion: MaterialMotion, es: int) -> Measured:
    scan, frames = truth.spec.scan, list(motion.frames)
    wall = analyse_wall(
        labels, motion, spacing=motion.spacing, affine=affine_of(scan), ed=scan.ed, es=es, frame_ms=None
    )
    true_ecc = 100.0 * truth.segment_strain().ecc[frames]
    true = peaks_of(100.0 * truth.global_strain()[:, frames], wall.timing)
    defect = truth.spec.beat.defect
    return Measured(
        found=peaks_of(wall.strain.whole, wall.timing)
        | {"torsion": float(wall.rotation.torsion_deg_cm[wall.timing.es])},
        true=true | {"torsion": true_torsion(truth, es)},
        defect=0 if defect is None else defect.segment,
        weakest=weakest_segment(wall.strain.segments[Direction.CIRCUMFERENTIAL], wall.timing),
        weakest_true=weakest_segment(true_ecc, wall.timing),
    )


def true_torsion(truth: Truth, frame: int) -> float:
    """Return the torsion in closed form in deg/cm; the rotation is linear along the axis."""
    now = truth.at(frame)
    return math.degrees(now.apical_rotation - now.basal_rotation) / (truth.spec.heart.length_mm / 10.0)


def draw(seed: int, subject: int, frames: int) -> PhantomSpec:
    """Draw a random phantom with a hypokinetic segment."""
    return draw_spec(torch.Generator().manual_seed(100_003 * seed + subject), frames=frames, defect=True)


def table(measured: Sequence[Measured]) -> str:
    """Format the errors of every index, and how often the hypokinetic segment was found."""
    lines = [f"{'':10}{'true, mean':>12}{'error, mean':>13}{'SD':>7}{'largest':>9}{'bar':>6}{'within':>9}"]
    for name in measured[0].found:
        true = torch.tensor([one.true[name] for one in measured])
        error = torch.tensor([one.found[name] for one in measured]) - true
        bar = BARS.get(name)
        within = "" if bar is None else f"{int((error.abs() <= bar).sum())}/{len(error)}"
        lines.append(
            f"{name:10}{true.mean():12.2f}{error.mean():13.2f}{error.std():7.2f}{error.abs().max():9.2f}"
            f"{'' if bar is None else bar:>6}{within:>9}"
        )
    found = sum(one.weakest == one.defect for one in measured)
    known = sum(one.weakest_true == one.defect for one in measured)
    lines.append(f"defect is the segment with the weakest Ecc: {found}/{len(measured)} (closed form {known})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--on-grid", type=int, default=12, help="number of phantoms to measure on the grid, too")
    given = parser.parse_args(arguments)
    specs = [draw(given.seed, number, given.frames) for number in range(given.subjects)]
    print("exact motion of every voxel of the wall, peaks over the cycle")
    print(table([measure(spec) for spec in specs]))
    if given.on_grid:
        print("\npull-back on the grid of ES, values at ES")
        print(table([measure_on_grid(spec) for spec in specs[: given.on_grid]]))


if __name__ == "__main__":
    main()
