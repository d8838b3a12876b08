"""SLURM as cmnet uses it: readable batch scripts, sbatch to send them, squeue as a hint of how they fare."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmnet_core.errors import EngineError, ErrorCode, ManifestError

STOCK_MAX_ARRAY_SIZE = 1001
"""SLURM's own default: the largest index of an array is one less."""

_SHORT = {"-p": "--partition", "-t": "--time", "-A": "--account", "-q": "--qos", "-c": "--cpus-per-task"}
_SHORT |= {"-G": "--gpus", "-J": "--job-name", "-N": "--nodes", "-n": "--ntasks", "-C": "--constraint"}
_SHORT |= {"-w": "--nodelist", "-x": "--exclude", "-M": "--clusters", "-o": "--output", "-e": "--error"}
_SHORT |= {"-a": "--array", "-d": "--dependency", "-L": "--licenses"}
_OURS = ("--array", "--dependency", "--output", "--error", "--open-mode", "--parsable", "--test-only", "--wrap")
_NOT_FOR_MERGE = ("--gres", "--gpus", "--signal", "--job-name", "--ntasks", "--cpus-per-task")
_ANSWER_S = 60.0


def read_sbatch_options(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line as sbatch options, each ``--name`` or ``--name=value``.

    Raises:
        ManifestError: A word belongs to no option, or an option is one that cmnet sets itself.
    """
    options: list[str] = []
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d+", word):
            name, equals, value = word.partition("=")
            options.append(_SHORT.get(name, name) + equals + value)
        elif options and "=" not in options[-1]:
            options[-1] += f"={word}"
        else:
            raise _refused(f"'{word}' belongs to no option.", "Write sbatch options as --name value or --name=value.")
    for option in options:
        if option.partition("=")[0] in _OURS:
            raise _refused(f"cmnet sets {option.partition('=')[0]} itself.", "Leave it out.")
    return tuple(options)


def _refused(message: str, hint: str) -> ManifestError:
    return ManifestError(message, hint=hint, code=ErrorCode.CONFIG)


SHARD = '"$SHARD"'
_FIND_SHARD = (
    "# The first argument is the shard of task 0: a long cohort takes several arrays.",
    "SHARD=$(( $1 + SLURM_ARRAY_TASK_ID ))",
)


@dataclass(frozen=True, slots=True)
class Script:
    """A batch script.

    Attributes:
        title: What it does, for its first lines.
        options: sbatch options; a later one goes before an earlier one of the same name.
        command: The words to run; SHARD stands for the number of the task's shard.
    """

    title: str
    options: tuple[str, ...]
    command: tuple[str, ...]

    def text(self) -> str:
        """The script as sbatch takes it."""
        directives = {option.partition("=")[0]: option for option in self.options}
        words = [word if word == SHARD else shlex.quote(word) for word in self.command]
        lines = [
            "#!/bin/bash",
            f"# {self.title}",
            *(f"#SBATCH {_quoted(option)}" for option in directives.values()),
            "set -euo pipefail",
            *(_FIND_SHARD if SHARD in self.command else ()),
            "# One thread a process: a task has as many processes as it has work for.",
            "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
            "# exec: the signal before the time limit reaches cmnet itself.",
            f"exec {' '.join(words)}",
        ]
        return "\n".join(lines) + "\n"


def _quoted(option: str) -> str:
    name, equals, value = option.partition("=")
    return name + equals + (f'"{value}"' if re.search(r"\s", value) else value)


def for_merge(options: Iterable[str]) -> tuple[str, ...]:
    """The options of an array that its merge needs too: it takes one core and no GPU."""
    return tuple(option for option in options if not option.startswith(_NOT_FOR_MERGE))


def in_log_name(path: Path) -> str:
    """A path for --output, in which a percent sign begins a placeholder of SLURM."""
    return str(path).replace("%", "%%")


def require_slurm() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        ManifestError: There is no SLURM on this machine.
    """
    if shutil.which("sbatch") is None:
        raise ManifestError(
            "There is no SLURM on this machine: the command sbatch was not found.",
            hint="Log in to a machine that submits jobs, or run cmnet infer with --workers.",
            code=ErrorCode.ENGINE,
        )


def max_array_size() -> int:
    """The site's limit of an array's index plus one; the stock limit where SLURM does not tell."""
    told = _run(["scontrol", "show", "config"]) or ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", told, flags=re.MULTILINE)
    return int(found.group(1)) if found else STOCK_MAX_ARRAY_SIZE


def arrays(tasks: int, limit: int) -> list[tuple[int, int]]:
    """Offset and number of tasks of each array that some tasks take.

    >>> arrays(2500, 1001)
    [(0, 1001), (1001, 1001), (2002, 498)]
    """
    return [(start, min(limit, tasks - start)) for start in range(0, tasks, limit)]


def array_options(tasks: int, max_parallel: int | None) -> list[str]:
    """What tells sbatch how many tasks there are."""
    return [f"--array=0-{tasks - 1}" + (f"%{max_parallel}" if max_parallel else "")]


def check(script: str) -> None:
    """Ask SLURM whether it would take a batch script.

    Raises:
        ManifestError: It would not; SLURM's own words are in the message.
        EngineError: SLURM did not answer.
    """
    asked = _ask(["sbatch", "--test-only"], script)
    if asked.returncode:
        raise ManifestError(
            f"SLURM does not take these options: {_words(asked.stderr)}.",
            hint="Options that cmnet does not know are handed to sbatch: correct them. Nothing was submitted.",
            code=ErrorCode.ENGINE,
        )


def send(path: Path, options: Sequence[str], arguments: Sequence[str]) -> str:
    """Submit a script.

    Returns:
        The job's id.

    Raises:
        EngineError: SLURM did not take it, or did not answer.
    """
    sent = _ask(["sbatch", "--parsable", *options, str(path), *arguments])
    if sent.returncode:
        raise EngineError(
            f"SLURM did not take the job: {_words(sent.stderr)}.",
            hint="What was submitted before goes on; run the same command again for the rest.",
            code=ErrorCode.ENGINE,
        )
    return sent.stdout.strip().partition(";")[0]


def _ask(command: Sequence[str], script: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"SLURM did not answer within {_ANSWER_S:.0f} s.",
            hint="Look with squeue whether it took the job after all; if so, end it with scancel. Then try again.",
            code=ErrorCode.ENGINE,
        ) from error


def _words(told: str) -> str:
    return (
        "; ".join(line.removeprefix("sbatch: error: ").rstrip(".") for line in told.strip().splitlines()) or "no word"
    )


def queue(user: str) -> Mapping[tuple[str, int], str] | None:
    """State of each of a user's tasks in the queue, by array and index; None where SLURM does not answer."""
    told = _run(["squeue", "--noheader", "--array", f"--user={user}", "--format=%F|%K|%T"])
    if told is None:
        return None
    states = {}
    for line in told.splitlines():
        job, index, state = line.strip().split("|")
        states[job, int(index) if index.isdigit() else 0] = state
    return states


def seconds_left(job_id: str) -> float | None:
    """Until the time limit of a job, or None where it has none or nobody knows."""
    told = (_run(["squeue", "--noheader", f"--jobs={job_id}", "--format=%L"]) or "").strip()
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", told)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _run(command: Sequence[str]) -> str | None:
    """What a command prints, or None where it is missing, fails or does not answer."""
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if asked.returncode else asked.stdout
