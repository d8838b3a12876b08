"""Jobs are sent once, wherever a submission is killed and however many submissions run at once.

The environment variable ``CMNET_FAULTS`` sets ten times the number of kills at calls to the file system.
"""

import os
import random
import signal
from pathlib import Path

import pytest

from cmnet_cli.execution.integrity import check_integrity
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.slurm.submission import read_jobs
from tests.cli.commanding import cmnet
from tests.cli.execution.faults import KILLED, run_with_fault
from tests.phantoms import write_cohort

KILLS = int(os.environ.get("CMNET_FAULTS", "20")) // 10
_SBATCH = """#!/bin/sh
case " $* " in *" --test-only "*) exit 0;; esac
for argument in "$@"; do case "$argument" in --job-name=*) name=${argument#--job-name=};; esac; done
cd "$FAKE_QUEUE"
case "$name" in *merge*) kind=merge;; *) kind=array;; esac
[ "$KILL" = "before-$kind" ] && kill -9 $PPID && exit 1
sleep "${DELAY:-0}"
id=$(( 100 + $(ls | wc -l) ))
echo "$name" > "$id"
[ "$KILL" = "after-$kind" ] && kill -9 $PPID && exit 1
echo "$id"
"""
_SQUEUE = """#!/bin/sh
cd "$FAKE_QUEUE"
for argument in "$@"; do case "$argument" in --name=*) name=${argument#--name=};; esac; done
for id in *; do
  [ -f "$id" ] || continue
  if [ -z "$name" ]; then echo "$id|0|PENDING"; elif [ "$(cat "$id")" = "$name" ]; then echo "$id"; fi
done
exit 0
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the jobs that a pretended SLURM has accepted: a file per job, with its name."""
    programs, jobs = tmp_path / "slurm", tmp_path / "queue"
    programs.mkdir()
    jobs.mkdir()
    for name, script in (("sbatch", _SBATCH), ("squeue", _SQUEUE), ("scontrol", "#!/bin/sh\n")):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FAKE_QUEUE", str(jobs))
    return jobs


def _submit_in_child(*arguments: object, **environment: str) -> int:
    """Run a submission in a child process, which may be killed; return its process id."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.environ.update(environment)
            code = cmnet("submit", "preprocess", *arguments).exit_code
        finally:
            os._exit(code)
    return child


def _arrays(queue: Path) -> int:
    return sum("merge" not in path.read_text() for path in queue.iterdir())


@pytest.mark.parametrize("moment", ["before-array", "after-array", "before-merge", "after-merge"])
def test_killed_submission_is_not_sent_twice(tmp_path: Path, queue: Path, moment: str) -> None:
    arguments = ("-m", write_cohort(tmp_path, 2, frames=2), "-o", tmp_path / "run")
    _, status = os.waitpid(_submit_in_child(*arguments, KILL=moment), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    again = cmnet("submit", "preprocess", *arguments)
    if moment == "before-array":
        assert again.exit_code == 0, again.output
    else:
        assert (again.exit_code, "still active" in again.output) == (3, True), again.output
    assert _arrays(queue) == 1
    folder = RunFolder(tmp_path / "run")
    [job] = [job for name in folder.submissions for job in read_jobs(folder.submission(name)) if job.kind == "array"]
    assert (queue / job.job_id).read_text().strip() == job.name


def test_submission_killed_at_any_call_is_sent_once(tmp_path: Path, queue: Path) -> None:
    submit = ("submit", "preprocess", "-m", write_cohort(tmp_path, 2, frames=2), "--chunk", 1, "-o")
    _, calls, _ = run_with_fault(None, 0, *submit, tmp_path / "whole")
    seed = int(os.environ.get("CMNET_SEED", "1"))
    print(f"seed {seed}, {calls} calls")
    moments, sent = random.Random(seed), []
    for number in range(KILLS):
        for job in queue.iterdir():
            job.unlink()
        run, at = tmp_path / f"run-{number}", moments.randrange(1, calls + 1)
        assert run_with_fault(None, at, *submit, run)[0] in (0, KILLED)
        sent.append(_arrays(queue))
        again = cmnet(*submit, run)
        assert (again.exit_code, "still active" in again.output) == ((3, True) if sent[-1] else (0, False)), at
        assert _arrays(queue) == 1, at
        assert check_integrity(RunFolder(run)).damage == (), at
        assert not list(run.rglob(".tmp-*")), at
        [job] = [
            job
            for name in RunFolder(run).submissions
            for job in read_jobs(RunFolder(run).submission(name))
            if job.kind == "array" and job.job_id
        ]
        assert (queue / job.job_id).read_text().strip() == job.name, at
    print(f"{KILLS} kills, {sum(sent)} after the array was sent")


def test_two_submissions_at_once_send_one_array(tmp_path: Path, queue: Path) -> None:
    arguments = ("-m", write_cohort(tmp_path, 2, frames=2), "-o", tmp_path / "run")
    children = [_submit_in_child(*arguments, DELAY="1") for _ in range(2)]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert (codes, _arrays(queue)) == ([0, 3], 1)


@pytest.mark.parametrize("value", ['a"b', "a\nrm -rf x"])
def test_option_that_would_end_its_line_is_refused(tmp_path: Path, queue: Path, value: str) -> None:
    manifest = write_cohort(tmp_path, 1, frames=2)
    refused = cmnet("submit", "preprocess", "-m", manifest, "-o", tmp_path / "run", f"--comment={value}")
    assert (refused.exit_code, "cannot contain" in refused.output) == (3, True), refused.output
    assert not list(queue.iterdir())
