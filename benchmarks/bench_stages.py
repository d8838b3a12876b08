"""CPU seconds, wall seconds and peak memory of each stage for one synthetic heart of 50 frames.

Each stage runs as a command of its own, as a user would run it, so that start-up and imports are counted. Needs the
weights that come with cmnet, or ``--model FILE``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took."""

    stage: str
    cpu_s: float
    wall_s: float
    peak_mb: float


def measure(stage: str, arguments: Sequence[str], log: Path) -> Cost:
    """Run one command to its end.

    Args:
        stage: The name of the command.
        arguments: What follows it.
        log: Where its output goes.

    Raises:
        SystemExit: The command failed; its output is shown.
    """
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "cmnet_cli", stage, *arguments], stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cmnet {stage} ended with exit code {process.returncode}:\n{log.read_text()}")
    return Cost(stage, used.ru_utime + used.ru_stime, time.monotonic() - started, used.ru_maxrss / 1024)


def bench(folder: Path, *, subjects: int, frames: int, model: Sequence[str]) -> list[Cost]:
    """Run the whole main job on synthetic hearts.

    Args:
        folder: An empty folder to work in.
        subjects: How many hearts.
        frames: Of each.
        model: Options that name the weights, empty for the shipped ones.
    """
    run, hearts = str(folder / "run"), folder / "phantom"
    manifest = ("--manifest", str(hearts / "cohort.csv"))
    commands = (
        ("phantom", (str(hearts), "--subjects", str(subjects), "--frames", str(frames), "--seed", "1")),
        ("preprocess", (*manifest, "--out", run)),
        ("infer", (*manifest, "--out", run, *model)),
        ("indices", ("--run", run)),
        ("evaluate", ("--run", run)),
        ("report", ("--run", run)),
    )
    return [measure(stage, arguments, folder / f"{stage}.log") for stage, arguments in commands]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    given = parser.parse_args()
    model = ("--model", given.model) if given.model else ()
    with tempfile.TemporaryDirectory() as folder:
        costs = bench(Path(folder), subjects=given.subjects, frames=given.frames, model=model)
    print(f"{given.subjects} subject(s) of {given.frames} frames, {os.cpu_count()} cores")
    print(f"{'stage':<12}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}")
    for cost in costs:
        print(f"{cost.stage:<12}{cost.cpu_s:>9.1f}{cost.wall_s:>9.1f}{cost.peak_mb:>9.0f}")


if __name__ == "__main__":
    main()
