"""SLURM's commands: readable batch scripts for sbatch, and the states of jobs from squeue."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmnet_core.errors import EngineError, ErrorCode, ManifestError

STOCK_MAX_ARRAY_SIZE = 1001
"""SLURM's default of MaxArraySize; the largest index of an array is one less."""

SHARD = '"$SHARD"'
"""Placeholder for the number of the task's shard in the command of a script."""

_LONG_NAMES = {
    **{"-p": "--partition", "-t": "--time", "-A": "--account", "-q": "--qos", "-c": "--cpus-per-task"},
    **{"-G": "--gpus", "-J": "--job-name", "-N": "--nodes", "-n": "--ntasks", "-C": "--constraint"},
    **{"-w": "--nodelist", "-x": "--exclude", "-M": "--clusters", "-o": "--output", "-e": "--error"},
    **{"-a": "--array", "-d": "--dependency", "-L": "--licenses"},
}
_SET_BY_CMNET = ("--array", "--dependency", "--output", "--error", "--open-mode", "--parsable", "--test-only", "--wrap")
_NOT_FOR_MERGE = ("--gres", "--gpus", "--signal", "--job-name", "--ntasks", "--cpus-per-task")
_SHARD_LINES = (
    "# The first argument is the shard of task 0: a large cohort takes several arrays.",
    "SHARD=$(( $1 + SLURM_ARRAY_TASK_ID ))",
)
_ANSWER_TIMEOUT_S = 60.0


def read_sbatch_options(arguments: Sequence[str]) -> tuple[str, ...]:
    """Read arguments of the command line as sbatch options, each ``--name`` or ``--name=value``.

    Raises:
        ManifestError: An argument belongs to no option, or an option is one that cmnet sets itself.
    """
    options: list[str] = []
    for argument in arguments:
        if argument.startswith("-") and not re.fullmatch(r"-\d+", argument):
            name, equals, value = argument.partition("=")
            options.append(_LONG_NAMES.get(name, name) + equals + value)
        elif options and "=" not in options[-1]:
            options[-1] += f"={argument}"
        else:
            raise ManifestError(
                f"'{argument}' belongs to no option.",
                hint="Write sbatch options as --name value or --name=value.",
                code=ErrorCode.CONFIG,
            )
    for option in options:
        name = option.partition("=")[0]
        if name in _SET_BY_CMNET:
            raise ManifestError(f"cmnet sets {name} itself.", hint="Leave it out.", code=ErrorCode.CONFIG)
    return tuple(options)


@dataclass(frozen=True, slots=True)
class BatchScript:
    """A batch script.

    Attributes:
        title: A comment that states what the script does.
        options: sbatch options; a later one replaces an earlier one of the same name.
        command: The command to run; SHARD is the placeholder for the number of the task's shard.
    """

    title: str
    options: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def job_name(self) -> str:
        """The name of the job."""
        return [option for option in self.options if option.startswith("--job-name=")][-1].partition("=")[2]

    def text(self) -> str:
        """Return the script as sbatch reads it.

        Raises:
            ManifestError: An option has a character that would end its line or its quotation marks.
        """
        directives = {option.partition("=")[0]: option for option in self.options}
        command = [argument if argument == SHARD else shlex.quote(argument) for argument in self.command]
        lines = [
            "#!/bin/bash",
            f"# {self.title}",
            *(f"#SBATCH {_quote_value(option)}" for option in directives.values()),
            "set -euo pipefail",
            *(_SHARD_LINES if SHARD in self.command else ()),
            "# One thread per process: a task runs several processes instead.",
            "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1",
            "# exec: the signal before the time limit reaches cmnet itself.",
            f"exec {' '.join(command)}",
        ]
        return "\n".join(lines) + "\n"


def _quote_value(option: str) -> str:
    name, equals, value = option.partition("=")
    if re.search(r'["\x00-\x1f]', value):
        raise ManifestError(
            f"{name} has a quotation mark or a control character, which a batch script cannot contain: {value!r}.",
            hint="Use another value, or a run folder without such characters in its path.",
            code=ErrorCode.CONFIG,
        )
    return name + equals + (f'"{value}"' if re.search(r"\s", value) else value)


def merge_options(options: Iterable[str]) -> tuple[str, ...]:
    """Select the options of an array that its merge job needs too: it runs on one core without a GPU."""
    return tuple(option for option in options if not option.startswith(_NOT_FOR_MERGE))


def escape_log_path(path: Path) -> str:
    """Escape a path for --output, where a percent sign begins one of SLURM's placeholders."""
    return str(path).replace("%", "%%")


def require_slurm() -> None:
    """Make sure that jobs can be submitted from this machine.

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
    """Return the site's MaxArraySize; SLURM's default where it cannot be read."""
    config = _query(["scontrol", "show", "config"]) or ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, flags=re.MULTILINE)
    return int(found.group(1)) if found else STOCK_MAX_ARRAY_SIZE


def split_into_arrays(tasks: int, limit: int) -> list[tuple[int, int]]:
    """Split tasks into arrays of at most ``limit`` tasks; return offset and number of tasks of each.

    >>> split_into_arrays(2500, 1001)
    [(0, 1001), (1001, 1001), (2002, 498)]
    """
    return [(start, min(limit, tasks - start)) for start in range(0, tasks, limit)]


def array_options(tasks: int, max_parallel: int | None) -> list[str]:
    """Return the sbatch option that sets the number of tasks, and how many of them may run at once."""
    return [f"--array=0-{tasks - 1}" + (f"%{max_parallel}" if max_parallel else "")]


def check_script(script: str) -> None:
    """Ask SLURM whether it would accept a batch script.

    Raises:
        ManifestError: It would not; the message contains SLURM's own.
        EngineError: SLURM did not answer.
    """
    answer = _call(["sbatch", "--test-only"], script)
    if answer.returncode:
        raise ManifestError(
            f"SLURM does not accept these options: {_error_text(answer.stderr)}.",
            hint="Options that cmnet does not know are passed to sbatch: correct them. Nothing was submitted.",
            code=ErrorCode.ENGINE,
        )


def submit_script(path: Path, options: Sequence[str], arguments: Sequence[str]) -> str:
    """Submit a script.

    Returns:
        The id of the job.

    Raises:
        EngineError: SLURM did not accept it, or did not answer.
    """
    answer = _call(["sbatch", "--parsable", *options, str(path), *arguments])
    if answer.returncode:
        raise EngineError(
            f"SLURM did not accept the job: {_error_text(answer.stderr)}.",
            hint="Jobs that were submitted before continue; run the same command again for the rest.",
            code=ErrorCode.ENGINE,
        )
    return answer.stdout.strip().partition(";")[0]


def find_job(user: str, name: str) -> str | None:
    """Return the id of a user's queued job of a name, empty where there is none; None where SLURM does not answer."""
    answer = _query(["squeue", "--noheader", f"--user={user}", f"--name={name}", "--format=%F"])
    return None if answer is None else answer.strip().partition("\n")[0]


def queue(user: str) -> Mapping[tuple[str, int], str] | None:
    """Return the state of each of a user's queued tasks, by array and index; None where SLURM does not answer."""
    answer = _query(["squeue", "--noheader", "--array", f"--user={user}", "--format=%F|%K|%T"])
    if answer is None:
        return None
    states = {}
    for line in answer.splitlines():
        job, index, state = line.strip().split("|")
        states[job, int(index) if index.isdigit() else 0] = state
    return states


def seconds_left(job_id: str) -> float | None:
    """Return the seconds until the time limit of a job, or None where it has none or SLURM does not answer."""
    answer = (_query(["squeue", "--noheader", f"--jobs={job_id}", "--format=%L"]) or "").strip()
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", answer)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _call(command: Sequence[str], script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that changes something, whose answer has to be known."""
    try:
        return subprocess.run(
            command, input=script, capture_output=True, text=True, check=False, timeout=_ANSWER_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"SLURM did not answer within {_ANSWER_TIMEOUT_S:.0f} s.",
            hint="Check with squeue whether it accepted the job after all; if so, end it with scancel. Then try again.",
            code=ErrorCode.ENGINE,
        ) from error


def _query(command: Sequence[str]) -> str | None:
    """Return the output of a command, or None where it is missing, fails or does not answer."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout


def _error_text(stderr: str) -> str:
    lines = [line.removeprefix("sbatch: error: ").rstrip(".") for line in stderr.strip().splitlines()]
    return "; ".join(lines) or "no message"
