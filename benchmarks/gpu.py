"""Speed of the networks on a GPU: frames a second and memory, in float32 and in bfloat16, by number of frames at once.

One GPU is fed by several CPU workers, since reading, resampling and storing a subject run on CPUs; the quotient of the
measured CPU seconds a frame (``benchmarks/speed.py``) and of the GPU seconds a frame is the number of workers that
keep it busy.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from cmnet_core.inference.tracking import load_model
from cmnet_core.models.segnet import class_probabilities
from cmnet_core.models.shape_motion_net import ShapeMotionNet

SLICES = 10
WARM_UP = 3
REPEATS = 10
SUBJECTS = 100_000
FRAMES = 50


def seconds_per_call(run: Callable[[], object], device: torch.device) -> float:
    """Return the mean wall seconds of a call after a few calls that are not counted."""
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize(device)
    started = time.monotonic()
    for _ in range(REPEATS):
        run()
    torch.cuda.synchronize(device)
    return (time.monotonic() - started) / REPEATS


@torch.no_grad()
def measure(model_name: str, device: torch.device) -> list[dict[str, float | str]]:
    """Measure SegNet for several batch sizes, and the motion network for one frame at a time."""
    model = load_model(model_name, device)
    rows, columns = model.card.window
    found: list[dict[str, float | str]] = []
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            for frames in (1, 8, FRAMES):
                voxels = torch.rand(frames, SLICES, rows, columns, device=device)
                torch.cuda.reset_peak_memory_stats(device)
                seconds = seconds_per_call(
                    lambda frames=frames, voxels=voxels: class_probabilities(  # type: ignore[misc]
                        model.segnet, voxels, frames_at_once=frames
                    ),
                    device,
                )
                found.append(_row("SegNet", precision, frames, seconds / frames, device))
            if isinstance(model.motion, ShapeMotionNet):
                motion = model.motion
                shapes = torch.rand(2, 3, SLICES, 48, 48, device=device)
                seconds = seconds_per_call(lambda motion=motion, shapes=shapes: motion(shapes, 10.0), device)  # type: ignore[misc]
                found.append(_row("motion network", precision, 1, seconds, device))
    return found


def _row(
    network: str, precision: torch.dtype, frames: int, seconds: float, device: torch.device
) -> dict[str, float | str]:
    return {
        "network": network,
        "precision": str(precision).removeprefix("torch."),
        "frames_at_once": frames,
        "ms_a_frame": 1000.0 * seconds,
        "gpu_hours_for_100000_subjects": seconds * FRAMES * SUBJECTS / 3600.0,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 2**20,
    }


def main() -> None:
    """Measure and print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or file of the weights")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device is visible to PyTorch.")
    device = torch.device("cuda:0")
    print(torch.cuda.get_device_name(device))
    for row in measure(given.model, device):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
