"""Cost of every stage of one subject: CPU and wall seconds, peak memory, operations, and fraction of the peak.

The commands run as a user would run them, with start-up. The parts of tracking are measured in one process, with one
thread, beside SimpleITK's fast symmetric forces demons on the ED and ES images of the same subject in the same region,
and beside a large matrix product, whose speed is the peak of the machine at this moment. Ratios within one run are
comparable between machines and between loads; seconds are not.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import SimpleITK as sitk  # noqa: N813 - its own documentation imports it so
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_stages import Cost, bench
from cmnet_core.imaging import preprocess
from cmnet_core.inference.segmentation import find_window, segment
from cmnet_core.inference.shape_motion import estimate_posteriors
from cmnet_core.inference.tracking import Model, load_model, track
from cmnet_core.io.cine import read_cine
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.phantom.draw import draw_spec
from cmnet_core.phantom.generate import make_phantom
from cmnet_core.types import CineSequence

PEAK_SIZE = 1536
"""Rows and columns of the matrices whose product measures the peak."""

DEMONS_ITERATIONS = 100
"""Number of iterations of demons."""

DEMONS_SMOOTHING = 1.5
"""Standard deviation of the smoothing of the field by demons, in voxels."""

REGION_MM = 96.0
"""Distance from the heart's centre to the border of the region that demons registers, in mm: that of the window."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PartCost:
    """Cost of one part of tracking.

    Attributes:
        part: Name of the part.
        cpu_s: CPU seconds a frame.
        wall_s: Wall seconds a frame.
        gflop: Operations of the networks a frame, in 10⁹.
        peak_pct: Speed in % of the peak that was measured in the same run.
    """

    part: str
    cpu_s: float
    wall_s: float
    gflop: float
    peak_pct: float


@dataclass(frozen=True, slots=True)
class SubjectCost:
    """Cost of tracking one subject.

    Attributes:
        subject: Name of the subject.
        shape: Frames, slices, rows and columns.
        parts: Cost of each part, the whole last.
        demons_s: CPU seconds of demons for the pair of ED and ES.
        demons_ratio: CPU seconds a frame of tracking as a fraction of those of demons.
        peak_mb: Largest memory of the process so far, in MB.
    """

    subject: str
    shape: tuple[int, ...]
    parts: list[PartCost]
    demons_s: float
    demons_ratio: float
    peak_mb: float


def peak_gflops() -> float:
    """Measure the speed of a large matrix product by one thread, in GFLOP per CPU second."""
    matrix = torch.rand(PEAK_SIZE, PEAK_SIZE)
    started = time.process_time()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * PEAK_SIZE**3 / 1e9 / (time.process_time() - started)


def measure_part(part: str, frames: int, peak: float, run: Callable[[], Result]) -> tuple[PartCost, Result]:
    """Run a function twice: for its time, and for the operations that it counts."""
    cpu, wall = time.process_time(), time.monotonic()
    result = run()
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    with FlopCounterMode(display=False) as counter:
        run()
    gflop = counter.get_total_flops() / 1e9
    return PartCost(part, cpu / frames, wall / frames, gflop / frames, 100.0 * gflop / cpu / peak), result


@torch.no_grad()
def track_costs(subject: str, cine: CineSequence, model: Model) -> SubjectCost:
    """Measure the parts of tracking and, beside them, demons."""
    peak, frames = peak_gflops(), cine.frames
    track(model, replace(cine, voxels=cine.voxels[:2], ed=0, es=1))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    normalising, normalised = measure_part(
        "normalise", frames, peak, lambda: replace(cine, voxels=preprocess.normalise(cine.voxels))
    )
    finding, window = measure_part(
        "find heart",
        frames,
        peak,
        lambda: find_window(model.segnet, normalised, spacing_mm=model.card.spacing_mm, size=model.card.window),
    )
    voxels = preprocess.extract(normalised.voxels, window)
    segmenting, probabilities = measure_part("SegNet", frames, peak, lambda: segment(model.segnet, voxels))
    parts = [normalising, finding, segmenting]
    if isinstance(model.motion, ShapeMotionNet):
        motion = model.motion
        parts.append(
            measure_part(
                "motion network",
                frames,
                peak,
                lambda: estimate_posteriors(motion, list(voxels), list(probabilities), window.spacing),
            )[0]
        )
    whole, tracking = measure_part("whole", frames, peak, lambda: track(model, cine))
    peak_mb = max(peak_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    centre_mm = tuple(start + REGION_MM for start in window.origin_mm)
    demons_s = demons_seconds(cine, tracking.ed, tracking.es, (centre_mm[0], centre_mm[1]))
    ratio = whole.cpu_s / demons_s
    return SubjectCost(subject, tuple(cine.voxels.shape), [*parts, whole], demons_s, ratio, peak_mb)


def demons_seconds(cine: CineSequence, ed: int, es: int, centre_mm: tuple[float, float]) -> float:
    """Return the CPU seconds of fast symmetric forces demons from ED to ES on the subject's own grid."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    spans = [
        slice(max(0, round((mm - REGION_MM) / step)), round((mm + REGION_MM) / step))
        for mm, step in zip(centre_mm, (cine.spacing.y, cine.spacing.x), strict=True)
    ]
    images = []
    for frame in (es, ed):
        image = sitk.GetImageFromArray(cine.voxels[frame][:, spans[0], spans[1]].numpy())
        image.SetSpacing((cine.spacing.x, cine.spacing.y, cine.spacing.z))
        images.append(sitk.RescaleIntensity(image))
    fixed, moving = images
    moving = sitk.HistogramMatching(moving, fixed)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(DEMONS_ITERATIONS)
    demons.SetStandardDeviations(DEMONS_SMOOTHING)
    started = time.process_time()
    demons.Execute(fixed, moving)
    return time.process_time() - started


def phantom_cine(frames: int, seed: int) -> CineSequence:
    """Simulate the cine of a phantom."""
    generator = torch.Generator().manual_seed(seed)
    return make_phantom(draw_spec(generator, frames=frames, defect=False), generator).cine


def write_table(commands: Sequence[Cost], subjects: Sequence[SubjectCost]) -> str:
    """Return the costs as text."""
    lines = [f"{'command':<16}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}"] if commands else []
    lines += [f"{cost.stage:<16}{cost.cpu_s:>9.1f}{cost.wall_s:>9.1f}{cost.peak_mb:>9.0f}" for cost in commands]
    for subject in subjects:
        lines += ["", f"{subject.subject}: {' x '.join(map(str, subject.shape))}, peak {subject.peak_mb:.0f} MB"]
        lines.append(f"{'a frame':<16}{'CPU s':>9}{'wall s':>9}{'GFLOP':>9}{'% peak':>9}")
        lines += [
            f"{part.part:<16}{part.cpu_s:>9.3f}{part.wall_s:>9.3f}{part.gflop:>9.2f}{part.peak_pct:>9.0f}"
            for part in subject.parts
        ]
        lines.append(f"demons for ED and ES: {subject.demons_s:.2f} CPU s; ratio {subject.demons_ratio:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table and write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or file of the weights")
    parser.add_argument("--frames", type=int, default=20, help="frames of the phantom")
    parser.add_argument("--cine", type=Path, help="the cine of a real subject, as 4-D NIfTI or DICOM")
    parser.add_argument("--no-commands", action="store_true", help="measure the parts of tracking only")
    parser.add_argument("--json", type=Path, help="file for the results as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(given.model, torch.device("cpu"))
    cines = {"phantom": phantom_cine(given.frames, seed=1)}
    if given.cine:
        cines[given.cine.name] = read_cine(given.cine)
    subjects = [track_costs(name, cine, model) for name, cine in cines.items()]
    commands: list[Cost] = []
    if not given.no_commands:
        with tempfile.TemporaryDirectory() as folder:
            commands = bench(Path(folder), subjects=1, frames=given.frames, model=("--model", given.model))
    print(f"{os.cpu_count()} cores, one thread, matrix product {peak_gflops():.0f} GFLOP/s")
    print(write_table(commands, subjects))
    if given.json:
        content = {"commands": [asdict(cost) for cost in commands], "subjects": [asdict(cost) for cost in subjects]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
