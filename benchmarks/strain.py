"""How well strain is measured where the motion is known exactly: random phantoms, through their true motion.

What is tested is everything behind the motion: coordinates of the wall, derivatives on slices 5 to 10 mm apart, means,
peaks. The truth is the closed form, integrated over the continuous wall; each phantom has one segment that moves less.

    python benchmarks/strain.py [--subjects 40] [--frames 10] [--seed 4] [--on-grid 12]
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import lv_coordinates
from cmnet_core.labels import Label
from cmnet_core.mechanics.lagrangian import MaterialMotion, follow_material
from cmnet_core.mechanics.rotation import rotation
from cmnet_core.mechanics.strain import SIGN, Direction, deform, lay_out_wall, regional_strain
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
    """One phantom, as measured and as it is.

    Attributes:
        found: Peaks of GCS, GRS and GLS-SAX in %, torsion at ES in deg/cm.
        true: The same from the closed form.
        defect: The segment that moves less.
        weakest: The segment whose peak circumferential strain is the smallest in size.
        weakest_true: The same of the closed form.
    """

    found: dict[str, float]
    true: dict[str, float]
    defect: int
    weakest: int
    weakest_true: int


def on_window(spec: PhantomSpec) -> PhantomSpec:
    """The same heart on the networks' grid, where stored motion lies."""
    return replace(spec, scan=replace(spec.scan, pixel_mm=PIXEL_MM, rows=SIZE, columns=SIZE))


def true_motion(truth: Truth) -> tuple[Tensor, MaterialMotion]:
    """Labels at ED, and the exact motion of their myocardium."""
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
    """Peaks of the three curves ``[3 t]`` in %."""
    return {name: _peak(curves[d], timing, SIGN[d]) for d, name in NAMES.items()}


def _peak(curve: Tensor, timing: Timing, sign: float) -> float:
    peak = summarise(curve, timing, sign=sign).peak
    return math.nan if peak is None else peak


def weakest_segment(ecc: Tensor, timing: Timing) -> int:
    """The AHA segment with the smallest peak of its circumferential strain ``[t 16]``."""
    return 1 + int(torch.tensor([abs(_peak(curve, timing, -1.0)) for curve in ecc.T]).nan_to_num(torch.inf).argmin())


def measure(spec: PhantomSpec) -> Measured:
    """Measure one phantom's whole cycle by the exact motion of every voxel of its wall."""
    truth = truth_of(on_window(spec))
    return _measure(truth, *true_motion(truth), es_of(truth))


def measure_on_grid(spec: PhantomSpec) -> Measured:
    """Measure one phantom at ES by a pull-back known at the voxels of the ES grid alone, as motion is stored."""
    truth = truth_of(on_window(spec))
    labels, exact = true_motion(truth)
    return _measure(truth, labels, follow_material([truth.to_ed(es_of(truth))], exact.mask), es_of(truth))


def es_of(truth: Truth) -> int:
    """The frame with the smallest LV."""
    return int(truth.volumes().lv_ml.argmin())


def _measure(truth: Truth, labels: Tensor, motion: MaterialMotion, es: int) -> Measured:
    scan, frames = truth.spec.scan, list(motion.frames)
    wall = lay_out_wall(lv_coordinates(labels, motion.spacing, affine_of(scan)), motion.mask, motion.spacing)
    strain = regional_strain(wall, deform(wall, motion))
    timing = Timing(frames.index(scan.ed), frames.index(es), frame_ms=None)
    torsion = float(rotation(wall, motion).torsion_deg_cm[timing.es])
    ecc, defect = 100.0 * truth.segment_strain().ecc[frames], truth.spec.beat.defect
    true = peaks_of(100.0 * truth.global_strain()[:, frames], timing)
    return Measured(
        found=peaks_of(strain.wall, timing) | {"torsion": torsion},
        true=true | {"torsion": true_torsion(truth, es)},
        defect=0 if defect is None else defect.segment,
        weakest=weakest_segment(strain.segments[Direction.CIRCUMFERENTIAL], timing),
        weakest_true=weakest_segment(ecc, timing),
    )


def true_torsion(truth: Truth, frame: int) -> float:
    """Of the closed form, in deg/cm: its rotation is linear along the axis."""
    now = truth.at(frame)
    return math.degrees(now.apical_turn - now.basal_turn) / (truth.spec.heart.length_mm / 10.0)


def draw(seed: int, subject: int, frames: int) -> PhantomSpec:
    """A random phantom with a defect."""
    return draw_spec(torch.Generator().manual_seed(100_003 * seed + subject), frames=frames, defect=True)


def table(measured: Sequence[Measured]) -> str:
    """The errors of every index, and how often the defect was found."""
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
    parser.add_argument("--on-grid", type=int, default=12, help="how many of them to measure on the grid, too")
    given = parser.parse_args(arguments)
    specs = [draw(given.seed, number, given.frames) for number in range(given.subjects)]
    print("exact motion of every voxel of the wall, peaks over the cycle")
    print(table([measure(spec) for spec in specs]))
    if given.on_grid:
        print("\npull-back on the grid of ES, values at ES")
        print(table([measure_on_grid(spec) for spec in specs[: given.on_grid]]))


if __name__ == "__main__":
    main()
