"""A cohort through ``cmnet run`` that is killed twice and meets a full disk once, beside a run that nothing disturbed.

Each disturbance comes at a random moment, and the same command is started again. At the end all subjects must be in the
tables, none twice; ``cmnet verify`` must find no damage; and the rows of the first subjects must be those of an
undisturbed run on them. Needs root, which mounts a small disk for the run folder. The subjects are phantoms with few
frames and slices on a coarse grid, each with noise and brightness of its own.
"""

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch

from cmnet_cli.cohort.manifest import Case, write_manifest
from cmnet_cli.execution.attempt_log import read_attempts
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.io.nifti import write_image
from cmnet_core.phantom import draw_spec, make_phantom

FRAMES, SLICES, DISTINCT = 3, 3, 8
MB_A_SUBJECT = 1.0
TABLES = ("indices", "frames", "segments", "motion", "bullseye")
PROGRESS = re.compile(r"(\w+): (\d+) of (\d+), .* (?:(\d+) h )?(\d+) (s|min) remaining")


def write_subjects(folder: Path, subjects: int, seed: int) -> Path:
    """Write a cohort of small phantoms and return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    hearts = []
    for number in range(min(DISTINCT, subjects)):
        phantom = make_phantom(draw_spec(generator, frames=FRAMES, defect=number % 4 == 0), generator)
        step = max(1, phantom.cine.voxels.shape[1] // SLICES)
        voxels = torch.nn.functional.avg_pool2d(phantom.cine.voxels[:, ::step][:, :SLICES], 2)
        # The centre of a pooled voxel lies half a voxel further.
        grid = torch.diag(torch.tensor([2.0, 2.0, float(step), 1.0], dtype=torch.float64))
        grid[:2, 3] = 0.5
        hearts.append((voxels, phantom.cine.affine @ grid, phantom.cine.frame_ms))
    cases = []
    for number in range(subjects):
        voxels, affine, frame_ms = hearts[number % len(hearts)]
        subject = str(9900001 + number)
        noise = 0.01 * voxels.max() * torch.randn(voxels.shape, generator=generator)
        brightness = 0.7 + 0.6 * torch.rand(1, generator=generator)
        image = folder / f"{subject}.nii.gz"
        write_image(image, brightness * voxels + noise, affine=affine, frame_ms=frame_ms)
        cases.append(replace(Case(number + 2, subject, (image,)), frame_ms=frame_ms))
    write_manifest(folder / "cohort.csv", cases)
    return folder / "cohort.csv"


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a disk of its own, a file with an ext4 file system, as the place of the run folder."""
    image, place = folder / "disk.ext4", folder / "disk"
    if not place.is_mount():
        place.mkdir(exist_ok=True)
        with image.open("wb") as file:
            file.truncate(megabytes * 1_000_000)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A line of progress: the stage, how many subjects were done, the estimate of the remaining time, and when."""

    stage: str
    done: int
    total: int
    left_s: float
    at: float


class Started:
    """A command that runs in a process group of its own, and what it says about its progress."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.estimates: list[Estimate] = []
        self.killed_cpu_s = 0.0
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cmnet_cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._log.open("a") as log:
            for line in self.process.stdout:
                now = time.monotonic()
                log.write(f"{time.strftime('%H:%M:%S')} {line}")
                log.flush()
                if found := PROGRESS.match(line):
                    stage, done, total, hours, number, unit = found.groups()
                    left_s = 3600 * int(hours or 0) + int(number) * (60 if unit == "min" else 1)
                    self.estimates.append(Estimate(stage, int(done), int(total), left_s, now))

    def done(self, stage: str) -> int:
        """Return how many subjects the stage has finished since the start, as far as it has been printed."""
        return max((item.done for item in self.estimates if item.stage == stage), default=0)

    def kill(self) -> None:
        """Kill the command and its workers, which are its process group; nobody counts their CPU time afterwards."""
        command = psutil.Process(self.process.pid)
        for process in (command, *command.children(recursive=True)):
            used = process.cpu_times()
            self.killed_cpu_s += used.user + used.system
        os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Return the exit code, when the command and all that it printed have come to their end."""
        code = self.process.wait()
        self._reader.join(timeout=60)
        return code


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A kill or a full disk, when a stage has done a fraction of the subjects."""

    kind: str
    stage: str
    fraction: float


def draw_disturbances(moments: random.Random) -> list[Disturbance]:
    """Draw two kills and a full disk, in the order of the work."""
    drawn = [
        Disturbance(kind, moments.choice(("infer", "infer", "indices")), moments.uniform(0.05, 0.95))
        for kind in ("kill", "full disk", "kill")
    ]
    return sorted(drawn, key=lambda item: (item.stage != "infer", item.fraction))


def disturb(started: Started, planned: Disturbance, subjects: int, place: Path, moments: random.Random) -> None:
    """Wait for the moment of a disturbance, and let it happen."""
    before = subjects - next((item.total for item in started.estimates), subjects)
    while started.process.poll() is None:
        before = subjects - next((item.total for item in started.estimates), subjects)
        offset = before if planned.stage == "infer" else 0
        if started.done(planned.stage) + offset >= planned.fraction * subjects:
            break
        time.sleep(0.5)
    time.sleep(moments.uniform(0, 8))
    print(f"{planned.kind} in {planned.stage} after {planned.fraction:.0%} of the subjects", flush=True)
    if planned.kind == "kill":
        started.kill()
        return
    ballast = place / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        for size in (1_000_000, 1_000):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    code = started.wait()
    print(f"with a full disk: exit code {code}", flush=True)
    ballast.unlink(missing_ok=True)
    assert code == 130, "a full disk must end the command early"


def run_disturbed(arguments: Sequence[str], subjects: int, place: Path, log: Path, seed: int) -> tuple[Started, float]:
    """Run a command with disturbances until it ends by itself; return its last start and the killed ones' CPU time."""
    moments, killed_cpu_s = random.Random(seed), 0.0
    for planned in draw_disturbances(moments):
        started = Started(arguments, log)
        disturb(started, planned, subjects, place, moments)
        killed_cpu_s += started.killed_cpu_s
        print_estimates(started)
    last = Started(arguments, log)
    code = last.wait()
    assert code in (0, 4), f"the last start ended with exit code {code}: see {log}"
    return last, killed_cpu_s


def print_estimates(started: Started) -> None:
    """Print what each finished stage said after a tenth of its work, beside the time that it then took."""
    for end in (item for item in started.estimates if item.done == item.total):
        of_stage = (item for item in started.estimates if item.stage == end.stage)
        tenth = next(item for item in of_stage if 10 * item.done >= item.total)
        if true_s := end.at - tenth.at:
            print(
                f"{end.stage}: after {tenth.done} of {tenth.total}, {tenth.left_s:.0f} s remaining; "
                f"it took {true_s:.0f} s, {100 * (tenth.left_s / true_s - 1):+.0f} %",
                flush=True,
            )


def check(run: Path, undisturbed: Path, subjects: int) -> None:
    """Check that every subject is in the tables or has failed, and that the rows are those of an undisturbed run."""
    tables = RunFolder(run), RunFolder(undisturbed)
    ids = pq.read_table(tables[0].table("indices"))["case_id"].to_pylist()
    status = pq.read_table(tables[0].table("status")).to_pylist()
    failed = [row["error_code"] for row in status if row["state"] == "failed"]
    assert len(ids) == len(set(ids)), "a subject is there twice"
    assert len(status) == len(ids) + len(failed) == subjects, f"{len(ids)} rows, {len(failed)} failed of {subjects}"
    print(f"{len(ids)} subjects in the tables; {len(failed)} failed: {sorted(set(failed))}", flush=True)
    for name in TABLES:
        mine, other = (pq.read_table(folder.table(name)) for folder in tables)
        first = set(other["case_id"].to_pylist())
        rows = [row for row in mine.to_pylist() if row["case_id"] in first]
        assert repr(rows) == repr(other.to_pylist()), f"{name} differs from that of an undisturbed run"
        print(f"{name}: {mine.num_rows} rows, the {len(rows)} of the undisturbed subjects are the same", flush=True)
    subprocess.run([sys.executable, "-m", "cmnet_cli", "verify", "--run", run], check=True)


def main() -> None:
    """Make the cohort, run it disturbed and undisturbed, compare the two, and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--undisturbed", type=int, default=50, help="subjects of the undisturbed run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    given = parser.parse_args()
    started = time.monotonic()
    manifest = given.work / "cohort" / "cohort.csv"
    if not manifest.exists():
        write_subjects(manifest.parent, given.subjects, given.seed)
    print(f"{given.subjects} subjects written in {time.monotonic() - started:.0f} s", flush=True)
    command = ["run", "--manifest", str(manifest), "--workers", str(given.workers)]
    with disk(given.work, 200 + round(MB_A_SUBJECT * given.subjects)) as place:
        run, begun = place / "run", time.monotonic()
        arguments = [*command, "--out", str(run)]
        last, killed_cpu_s = run_disturbed(arguments, given.subjects, place, given.work / "log", given.seed)
        wall_h = (time.monotonic() - begun) / 3600
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print_estimates(last)
        undisturbed = given.work / "undisturbed"
        whole = Started(
            [*command, "--pilot", str(given.undisturbed), "--out", str(undisturbed)], given.work / "log-undisturbed"
        )
        assert whole.wait() in (0, 4)
        print_estimates(whole)
        check(run, undisturbed, given.subjects)
        worker_h = sum(attempt.seconds for attempt in read_attempts(RunFolder(run).all_outcomes)) / 3600
    cpu_h = (used.ru_utime + used.ru_stime + killed_cpu_s) / 3600
    print(f"wall {wall_h:.2f} h; CPU {cpu_h:.2f} h; hours of one worker {worker_h:.2f}")
    print(f"per 10,000 subjects: {1e4 * cpu_h / given.subjects:.1f} core-hours")


if __name__ == "__main__":
    main()
