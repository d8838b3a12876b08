"""A kill or an error at any call to the file system loses nothing: the same command ends with a whole run.

The environment variable ``CMNET_FAULTS`` sets the number of faults. Without it, only commands without networks are
tried.
"""

import errno
import os
import random
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from cmnet_cli.commands.array_jobs import task
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.execution.integrity import check_integrity
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import read_record
from cmnet_cli.tables.schema import DECLARED
from tests.cli.commanding import cmnet, column, finals
from tests.cli.execution.faults import KILLED, run_with_fault
from tests.cli.slurm.fake_slurm import install_fake_slurm
from tests.phantoms import write_cohort, write_edited_mask
from tests.tables import require_equal_tables

FAULTS = int(os.environ.get("CMNET_FAULTS", "0"))
# Six kills of ten faults.
_KINDS = (None, errno.EIO, None, errno.ENOSPC, None, errno.ESTALE, None, errno.EFBIG, None, None)
_ALWAYS = {"preprocess": 6, "verify-preprocess": 4}
"""Faults of the commands that are tried without ``CMNET_FAULTS``."""
_FRACTIONS = {
    **{"preprocess": 0.15, "verify-preprocess": 0.15, "infer": 0.1, "indices": 0.1, "evaluate": 0.1},
    **{"report": 0.05, "share-safe": 0.05, "verify": 0.1, "merge": 0.1, "correct": 0.06, "undo": 0.04},
}
"""Fractions of the commands in the faults of ``CMNET_FAULTS``."""

_STEPS_BEFORE = {
    "verify-preprocess": ("preprocess",),
    "indices": ("infer",),
    "merge": ("infer",),
    "evaluate": ("infer", "indices"),
    "report": ("infer", "indices"),
    "share-safe": ("infer", "indices"),
    "correct": ("infer", "indices", "report"),
    "undo": ("infer", "indices", "report", "correct"),
    "verify": ("infer", "indices", "evaluate", "report", "share-safe"),
}
"""The commands that make the run on which a command is tried."""


class Runs:
    """Runs as they are before each command, which are made when they are needed.

    Args:
        folder: An empty folder.
        tiny_model: The weights.
    """

    def __init__(self, folder: Path, tiny_model: Path) -> None:
        self._folder = folder
        self._manifest = write_cohort(folder, 2, frames=2)
        self._masks = write_edited_mask(folder)
        self._model = tiny_model
        self._made: dict[str, Path] = {}

    def arguments(self, command: str, run: Path) -> tuple[object, ...]:
        """Return the words of a command on a run."""
        return {
            "preprocess": ("preprocess", "-m", self._manifest, "-o", run),
            "infer": ("infer", "-m", self._manifest, "-o", run, "--model", self._model),
            "indices": ("indices", "-r", run, "--samples", 2),
            "evaluate": ("evaluate", "-r", run),
            "report": ("report", "-r", run),
            "share-safe": ("report", "-r", run, "--share-safe"),
            "merge": ("merge", "-r", run),
            "correct": ("correct", "-r", run, "--masks", self._masks),
            "undo": ("correct", "-r", run, "--undo", "9900001"),
        }.get(command, ("verify", "-r", run, "--repair"))

    def before(self, command: str) -> Path:
        """Return the run that a command is tried on; for preprocess and infer there is none yet."""
        if command not in self._made:
            self._made[command] = self._folder / f"before-{command}"
            self._make(command, self._made[command])
        return self._made[command]

    def _make(self, command: str, run: Path) -> None:
        for step in _STEPS_BEFORE.get(command, ()):
            assert cmnet(*self.arguments(step, run)).exit_code == 0
        if command == "merge":
            self._run_tasks(run)
        if command == "verify-preprocess":
            _cut(next(run.rglob("*preproc_cine.nii.gz")), run / "cohort.parquet", run / "logs/outcomes.jsonl")
        if command == "verify":
            _cut(next(run.rglob("*motion.npz")), run / "tables/frames.parquet", run / "tables/evaluation.parquet")
            _cut(next((run / "report").glob("sub-*.html")), run / "share-safe/index.html", run / "logs/infer.log")
            _cut(run / ".share-key", run / "run.json", run / "tables/status.parquet", run / "report/digests.json")

    def _run_tasks(self, run: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            install_fake_slurm(self._folder / "slurm", patched)
            patched.setattr(task, "open_engine", lambda _: nullcontext(SerialEngine()))
            options = ("-m", self._manifest, "-o", run, "--samples", 2, "--chunk", 1)
            assert cmnet("submit", "indices", *options).exit_code == 0
            for shard in range(2):
                name = RunFolder(run).submissions[-1]
                assert cmnet("task", "--run", run, "--submission", name, "--shard", shard).exit_code == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("interruptions"), tiny_model)


def _cut(*files: Path) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to)) if run.exists() else to


def _damaged(run: Path) -> set[Path]:
    """Return the files that are damaged, by their paths in the run; a missing one is made by the same command."""
    if not (run / ".copies" / "cohort.parquet").exists():
        return set()
    damage = check_integrity(RunFolder(run)).damage
    return {item.path.relative_to(run) for item in damage if item.problem.startswith("damaged")}


def _names(run: Path) -> set[Path]:
    return {path.relative_to(run) for path in finals(run) if ".locks" not in path.parts}


def _proofs(run: Path, command: str) -> dict[str, int]:
    """Return when the sidecars were written that prove a command to be finished for a subject."""
    stage = {"preprocess": "preprocess", "correct": "correct"}.get(command, "infer")
    return {path.name: path.stat().st_mtime_ns for path in run.rglob(f"*_desc-{stage}.json")}


@pytest.mark.parametrize("command", _FRACTIONS)
def test_faults_at_calls_to_the_file_system_lose_nothing(runs: Runs, tmp_path: Path, command: str) -> None:
    faults = round(FAULTS * _FRACTIONS[command]) or _ALWAYS.get(command, 0)
    if not faults:
        pytest.skip("takes seconds per fault; CMNET_FAULTS sets their number")
    before = runs.before(command)
    whole = _copy(before, tmp_path / "whole")
    code, calls, output = run_with_fault(None, 0, *runs.arguments(command, whole))
    assert code == 0, output
    seed = int(os.environ.get("CMNET_SEED", "1"))
    print(f"seed {seed}, {calls} calls")
    chosen, found = random.Random(f"{command} {seed}"), []
    for number in range(faults):
        run, kind, at = tmp_path / f"run-{number}", _KINDS[number % len(_KINDS)], chosen.randrange(1, calls + 1)
        found += [f"{kind} at {at}: {item}" for item in _try(runs, command, kind, at, _copy(before, run), whole)]
        shutil.rmtree(run, ignore_errors=True)
    print(f"{command}: {faults} faults, {len(found)} wrong", *found, sep="\n")
    assert not found


def test_repair_shows_finished_subjects_as_done_whose_log_is_lost(runs: Runs, tmp_path: Path) -> None:
    run = _copy(runs.before("verify-preprocess"), tmp_path / "run")
    assert cmnet("verify", "-r", run, "--repair").exit_code == 0
    assert column(run, "status", "state") == ["done", "done"]


def _finish(runs: Runs, command: str, run: Path) -> None:
    """Run what a user is advised to run after a command was interrupted, apart from the same command."""
    if command.startswith("verify"):
        # A subject that failed during the repair is reported as failed, and done by the command that made the run.
        for step in _STEPS_BEFORE[command]:
            assert cmnet(*runs.arguments(step, run)).exit_code == 0
    if command in ("report", "share-safe", "correct", "undo"):
        # Reports may run at the same time, so that the files of one that was killed are removed when they are old.
        for leftover in run.rglob(".tmp-*"):
            os.utime(leftover, (0, 0))
        assert cmnet("verify", "-r", run, "--repair").exit_code == 0


def _try(runs: Runs, command: str, kind: int | None, at: int, run: Path, whole: Path) -> list[str]:
    """Run a command with a fault and run it again; return what is wrong afterwards."""
    arguments, wrong = runs.arguments(command, run), []
    key, damaged = run / ".share-key", _damaged(run)
    code, _, output = run_with_fault(kind, at, *arguments)
    # Not 1, which would be a traceback.
    if code not in ({0, KILLED} if kind is None else {0, 3, 4, 130}) or "Traceback" in output:
        wrong.append(f"exit code {code}: {output}")
    # A kill within a write cuts the last line of a log, which the next command removes.
    cut = set() if kind else {Path("logs/outcomes.jsonl")}
    wrong += [f"{path} is damaged" for path in _damaged(run) - damaged - cut]
    proofs, secret = _proofs(run, command), key.read_bytes() if key.exists() else None
    again = cmnet(*arguments)
    if again.exit_code != 0:
        return [*wrong, f"again: exit code {again.exit_code}: {again.output}"]
    _finish(runs, command, run)
    wrong += [str(item) for item in check_integrity(RunFolder(run)).damage]
    if not command.startswith("verify") and not proofs.items() <= _proofs(run, command).items():
        wrong.append("a finished subject was repeated")
    if not command.startswith("verify") and secret not in (None, key.read_bytes()):
        wrong.append("another key")
    if read_record(RunFolder(run))["commands"].keys() != read_record(RunFolder(whole))["commands"].keys():
        wrong.append("commands that are not recorded")
    wrong += [f"{name} is there or is missing" for name in _names(run) ^ _names(whole)]
    try:
        require_equal_tables(
            run, whole, names=tuple(name for name in DECLARED if RunFolder(whole).table(name).exists())
        )
    except AssertionError as error:
        wrong.append(str(error))
    return wrong
