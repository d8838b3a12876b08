"""Every changed bit of a run is found by verify, and repaired by the smallest step.

The environment variable ``CMNET_FLIPS`` sets the number of changed bits.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.fuzz_runs import damage_run
from cmnet_cli.commands.verify import verify_run
from cmnet_cli.console import Messages
from cmnet_cli.execution.integrity import check_integrity
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.seals import append_line, differing_files, recording, sealed_line, write_sealed_json
from cmnet_cli.slurm.submission import read_jobs
from tests.cli.commanding import cmnet, column, finals, rows
from tests.cli.execution.whole_run import commands_of, write_whole_run
from tests.tables import RESULTS, require_equal_tables

FLIPS = int(os.environ.get("CMNET_FLIPS", "80"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run with every kind of file; tests only read it."""
    return write_whole_run(tmp_path_factory.mktemp("integrity"), tiny_model)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def _files(run: Path) -> list[Path]:
    return [path for path in finals(run) if ".locks" not in path.parts]


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(mode)


def _lists_others(path: Path) -> bool:
    """Whether damage to a file hides that of others, whose digests it has."""
    return path.name in ("digests.json", "cohort.parquet", ".share-key", "submission.json") or "_desc-" in path.stem


def test_every_changed_bit_is_found(run: Path) -> None:
    folder = RunFolder(run)
    assert check_integrity(folder).damage == ()
    seed = int(os.environ.get("CMNET_SEED", "1"))
    print(f"seed {seed}")
    chosen, missed = random.Random(seed), []
    files = [path for path in _files(run) if path.stat().st_size]
    # Every file gets its turn, so that the large ones do not take all of the flips.
    turns = [files[number % len(files)] for number in range(FLIPS)]
    alone = [[path] for path in turns if _lists_others(path)]
    others = [path for path in turns if not _lists_others(path)]
    for together in (*alone, *(others[start : start + 8] for start in range(0, len(others), 8))):
        flips = [(path, chosen.randrange(8 * path.stat().st_size)) for path in together]
        for path, bit in flips:
            _flip(path, bit)
        found = {damage.path for damage in check_integrity(folder).damage}
        missed += [(str(path.relative_to(run)), bit) for path, bit in flips if path not in found]
        for path, bit in flips:
            _flip(path, bit)
    print(f"{FLIPS} flips in {len(files)} files, {len(missed)} missed")
    assert not missed
    assert check_integrity(folder).damage == ()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_end_of_log(run: Path) -> None:
    """Change the end of the last line of a log to which the repair appends."""
    log = run / "logs/infer.log"
    _flip(log, 8 * (log.stat().st_size - 1))
    _cut(next(run.rglob("*_desc-infer.json")))


def _damage_seal(path: Path) -> None:
    """Make a digit of the last line's seal a character that no digest contains."""
    content = path.read_bytes()
    place = content.rindex(b'"sha256": "') + len(b'"sha256": "')
    path.write_bytes(content[:place] + b"x" + content[place + 1 :])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "sidecar": lambda run: _cut(next(run.rglob("*_desc-infer.json"))),
    "sidecar-gone": lambda run: next(run.rglob("*_desc-infer.json")).unlink(),
    "labels": lambda run: _flip(next(run.rglob("*segnet_dseg.nii.gz")), 900),
    "window": lambda run: _flip(next(run.rglob("*preproc_cine.nii.gz")), 900),
    "edited-mask": lambda run: _flip(next(run.rglob("*desc-edited_frame-000_dseg.nii.gz")), 900),
    "table": lambda run: _cut(run / "tables/frames.parquet"),
    "table-gone": lambda run: (run / "tables/indices.parquet").unlink(),
    "status": lambda run: _flip(run / "tables/status.parquet", 800),
    "evaluation": lambda run: _flip(run / "tables/evaluation_subjects.csv", 80),
    "ledger": lambda run: _cut(run / "logs/outcomes.jsonl"),
    "ledger-encoding": lambda run: _flip(run / "logs/outcomes.jsonl", 87),
    "seal-of-event": lambda run: _damage_seal(next(run.glob("slurm/*/events/*.jsonl"))),
    "record": lambda run: (run / "run.json").write_text('{"commands": []}'),
    "cohort": lambda run: _cut(run / "cohort.parquet"),
    "key": lambda run: (run / ".share-key").write_bytes(b""),
    "copy": lambda run: _cut(run / ".copies/run.json"),
    "page": lambda run: _cut(next((run / "report").glob("sub-*.html"))),
    "shared-page": lambda run: _cut(run / "share-safe/index.html"),
    "digests": lambda run: _cut(run / "report/digests.json"),
    "log": lambda run: _flip(run / "logs/infer.log", 3),
    "end-of-log": _flip_end_of_log,
    "traceback": lambda run: _flip(next(run.glob("logs/*.txt")), 3),
    "slurm-log": lambda run: _flip(next(run.glob("logs/slurm/*.log")), 3),
    "figure": lambda run: _cut(next(run.glob("report/figures/*.svg"))),
    "task-ledger": lambda run: _cut(next(run.glob("logs/outcomes/*-00000.jsonl"))),
    "events": lambda run: _flip(next(run.glob("slurm/*/events/*.jsonl")), 87),
    "script": lambda run: _flip(next(run.glob("slurm/*/array.sh")), 87),
    "submission": lambda run: _cut(next(run.glob("slurm/*/submission.json"))),
    "jobs": lambda run: _cut(next(run.glob("slurm/*/jobs.json"))),
    "copy-of-jobs": lambda run: _cut(next(run.glob(".copies/slurm/*/jobs.json"))),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported_and_repaired(finished: Path, run: Path, kind: str) -> None:
    DAMAGE[kind](run)
    assert cmnet("verify", "-r", run).exit_code == 4
    repaired = cmnet("verify", "-r", run, "--repair")
    assert repaired.exit_code == 0, repaired.output
    require_equal_tables(run, finished, names=RESULTS)
    assert column(run, "status", "state") == column(finished, "status", "state")
    # A correction that is applied again removes the figures that were exported from the page, as it did at first.
    removed = {path.name for path in (finished / "report" / "figures").iterdir()} if kind == "edited-mask" else set()
    assert {path.name for path in _files(run)} - removed == {path.name for path in _files(finished)} - removed


def test_any_damage_is_mended_by_repair_and_the_same_commands(finished: Path, run: Path, tiny_model: Path) -> None:
    seed = int(os.environ.get("CMNET_SEED", "1"))
    chosen = random.Random(f"repair {seed}")
    for number in range(max(1, FLIPS // 100)):
        again = Path(shutil.copytree(finished, run.with_name(f"run-{number}")))
        files = chosen.sample([path for path in _files(again) if path.stat().st_size], 5)
        for path in files:
            _flip(path, chosen.randrange(8 * path.stat().st_size))
        damaged = [str(path.relative_to(again)) for path in files]
        assert cmnet("verify", "-r", again).exit_code == 4, damaged
        assert cmnet("verify", "-r", again, "--repair").exit_code in (0, 4), damaged
        for command, _ in commands_of(finished.parent, again, tiny_model):
            assert cmnet(*command).exit_code in (0, 4), (damaged, command)
        assert check_integrity(RunFolder(again)).damage == (), damaged
        require_equal_tables(again, finished, names=RESULTS)
        assert column(again, "status", "state") == column(finished, "status", "state"), damaged
        shutil.rmtree(again)


@pytest.mark.parametrize("kind", ["table", "sidecar", "ledger", "record"])
def test_damaged_run_leaves_no_traceback(finished: Path, tmp_path: Path, kind: str) -> None:
    # benchmarks/fuzz.py tries thousands, also with commands that take longer.
    for seed in range(6):
        chance = random.Random(f"{kind} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        arguments = damage_run(kind, finished, folder, chance, commands=(("status",), ("verify",), ("merge",)))
        ran = cmnet(*arguments)
        assert ran.exit_code in (0, 3, 4), (seed, arguments, ran.output)


def test_status_names_a_damaged_list_of_a_task(run: Path) -> None:
    # The task has not finished, so that its list is read.
    for path in run.glob("slurm/*/events/*.jsonl"):
        path.unlink()
    _cut(next(run.glob("slurm/*/shards/*.parquet")))
    ran = cmnet("status", "-r", run)
    assert (ran.exit_code, "verify --repair" in ran.output) == (3, True), ran.output


@pytest.mark.parametrize("files", [["slurm/00001/shards/00000.parquet"], ["submission.json", "jobs.json"]])
def test_submission_that_cannot_be_repaired_is_given_up(run: Path, files: list[str]) -> None:
    for path in [path for name in files for path in run.rglob(name)]:
        _flip(path, 900)
    repaired = cmnet("verify", "-r", run, "--repair")
    assert (repaired.exit_code, RunFolder(run).submissions) == (0, ()), repaired.output


@pytest.mark.parametrize("table", ["evaluation", "agreement"])
def test_report_refuses_a_damaged_table(run: Path, table: str) -> None:
    _flip(run / f"tables/{table}.parquet", 8000)
    assert cmnet("report", "-r", run, "--pages", "none").exit_code == 3


def test_table_is_missing_also_after_an_interrupted_repair(run: Path) -> None:
    (run / "tables/frames.parquet").unlink()
    record_command(RunFolder(run), "indices", settings={"samples": 2})
    assert cmnet("verify", "-r", run).exit_code == 4


def _reseal(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    del values["sha256"]
    write_sealed_json(path, values | changes)


def test_records_of_another_version_leave_no_traceback(run: Path) -> None:
    submitted = RunFolder(run).submission("00001")
    before = {path: path.read_bytes() for path in (submitted.record, submitted.jobs)}
    for path, changes in (
        (submitted.record, {"on_stale": {}, "new": 1}),
        (submitted.record, {"on_stale": 0}),
        (submitted.record, {"shards": [{"number": "0", "cases": 1, "sha256": ""}]}),
        (submitted.jobs, {"jobs": [{"job_id": 7}]}),
        (submitted.jobs, {"jobs": [json.loads(before[submitted.jobs])["jobs"][0] | {"tasks": "2"}]}),
    ):
        _reseal(path, **changes)
        ran = cmnet("status", "-r", run)
        assert (ran.exit_code, "another version" in ran.output) == (3, True), ran.output
        path.write_bytes(before[path])
    for files in ([], {"index.html": 1}, {"index.html": {"size": "1", "sha256": ""}}):
        _reseal(run / "report" / "digests.json", files=files)
        assert cmnet("verify", "-r", run).exit_code == 4
    line = json.loads(RunFolder(run).outcomes.read_text().splitlines()[0])
    del line["sha256"]
    for name in line:
        append_line(RunFolder(run).outcomes, sealed_line(line | {name: [1]}))
    assert cmnet("status", "-r", run).exit_code == 0
    assert cmnet("merge", "-r", run).exit_code == 4
    # The one that counts, since the masks of this subject were corrected.
    sidecar = next(run.rglob("*_desc-correct.json"))
    facts = json.loads(sidecar.read_text())["facts"]
    _reseal(sidecar, facts=facts | {"window": facts["window"] | {"source_shape": [1]}})
    ran = cmnet("indices", "-r", run, "--samples", 0)
    assert (ran.exit_code, "(file-damaged)" in ran.output, "(defect)" in ran.output) == (4, True, False), ran.output


def test_copy_of_the_jobs_keeps_them_from_being_sent_twice(run: Path) -> None:
    folder = RunFolder(run)
    before = read_jobs(folder.submission("00001"))
    _cut(folder.submission("00001").jobs)
    assert read_jobs(folder.submission("00001")) == before


def test_damage_never_stops_a_command_for_good(finished: Path, run: Path, tiny_model: Path) -> None:
    ledger = run / "logs" / "outcomes.jsonl"
    whole = json.loads(ledger.read_text().splitlines()[0])
    del whole["sha256"]
    odd = [{**whole, "at": 5}, {**whole, "seconds": "abc"}, {**whole, "state": "unknown"}, [1], None]
    with ledger.open("ab") as file:
        file.write(b"".join(json.dumps(line).encode() + b"\n" for line in odd) + b"\xff\xfe")
    part = run / "tables" / "_parts" / "00009" / "local-00000.indices.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1")
    _cut(run / "tables" / "segments.parquet")
    sidecar = next(run.rglob("*_desc-infer.json"))
    values = json.loads(sidecar.read_text())
    values["outputs"][0]["path"] = None
    sidecar.write_text(json.dumps(values))
    assert cmnet("status", "-r", run).exit_code == 0
    assert cmnet("report", "-r", run).exit_code == 3, "the table segments is damaged"
    infer = ("infer", "-m", finished.parent / "cohort.csv", "-o", run, "--model", tiny_model)
    assert cmnet(*infer).exit_code == 4
    assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 4
    assert cmnet("report", "-r", run).exit_code == 0
    require_equal_tables(run, finished, names=RESULTS)
    # The lines that the test has added have no seal.
    assert verify_run(run, Messages(quiet=True), repair=True).damaged == ()
    assert len(rows(run, "status")) == 2


def test_page_that_is_missing_is_reported_after_another_command(finished: Path, run: Path) -> None:
    (run / "tables" / "evaluation.md").unlink()
    compare = ("compare", "-r", run, "--against", finished.parent / "fields.csv", "--on", "eid")
    assert cmnet(*compare).exit_code == 0
    ran = cmnet("verify", "-r", run)
    assert (ran.exit_code, "evaluation.md" in ran.output) == (4, True)


def test_what_an_interrupted_command_has_written_is_not_taken_for_damage(tmp_path: Path) -> None:
    with recording(tmp_path):
        for name in ("first.html", "second.html"):
            (tmp_path / name).write_text("before")
    with suppress(KeyboardInterrupt), recording(tmp_path):
        (tmp_path / "first.html").write_text("after")
        raise KeyboardInterrupt
    assert differing_files(tmp_path) == []
    with recording(tmp_path):
        (tmp_path / "second.html").write_text("after")
    assert differing_files(tmp_path) == []
    (tmp_path / "first.html").write_text("damaged")
    assert differing_files(tmp_path) == ["first.html"]


def test_altered_facts_are_not_taken_for_results(finished: Path, run: Path) -> None:
    sidecar = next(run.rglob("*_desc-infer.json"))
    sidecar.write_text(sidecar.read_text().replace('"es": ', '"es": 1'))
    assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 4
    require_equal_tables(run, finished, names=RESULTS)
