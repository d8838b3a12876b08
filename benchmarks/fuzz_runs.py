"""Runs of which one file is damaged, for :mod:`benchmarks.fuzz`: every kind of file that cmnet writes and reads again.

Half of the damaged records get a new seal, as if another version of cmnet had written them: their values are then read.
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz_damage import WORDS, damage, damage_text
from cmnet_cli.commands.array_jobs import task
from cmnet_cli.engines.serial import SerialEngine
from cmnet_cli.seals import sealed_line, write_sealed_json
from tests.cli.execution.whole_run import write_whole_run
from tests.tiny_model import write_tiny_model

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**63, 1e308, "", [], {}, [None], {"a": 1}, "\ud800", "nan", "x" * 5000, *WORDS),
)
_FILES = {
    "table": ("tables/*.parquet",),
    "sidecar": ("subjects/*/*/*_desc-*.json",),
    "ledger": ("logs/outcomes.jsonl", "logs/outcomes/*.jsonl", "slurm/*/events/*.jsonl"),
    "record": (
        *("run.json", "cohort.parquet", ".copies/*", "dataset_description.json", "tables/data_dictionary.json"),
        *("**/digests.json", ".share-key", ".locks/*", "tables/*.md", "tables/*.csv", "logs/*.txt", "logs/*.log"),
        *("slurm/*/*.json", "slurm/*/*.sh", "slurm/*/shards/*", ".copies/slurm/*/*"),
    ),
    "stored": ("subjects/*/*/*.nii.gz", "subjects/*/*/*.npz"),
}
_STATUS, _VERIFY, _MERGE = ("status", "--json"), ("verify",), ("merge",)
_REPORT, _SHARED = ("report", "--pages", "none"), ("report", "--share-safe")
_COMMANDS = {
    "table": (_STATUS, _VERIFY, _MERGE, _REPORT, _SHARED, ("compare", "--on", "eid", "--against")),
    "sidecar": (_STATUS, *[_VERIFY] * 3, *[("infer",)] * 4, ("report",), ("indices", "--samples", "0")),
    "ledger": (_STATUS, _STATUS, _VERIFY, _MERGE, _MERGE),
    "record": (_STATUS, _VERIFY, _MERGE, _SHARED, ("infer",), ("task", "--submission", "00001", "--shard", "0")),
    "stored": (*[_VERIFY] * 4, *[("report",)] * 2, ("indices", "--samples", "2"), ("evaluate",)),
}
"""Commands that read files of each kind; those that compute are rarer, as they take a second each."""


def _put_values(values: Any, chance: random.Random) -> Any:
    """Exchange, add or leave out single values of nested ones."""
    if isinstance(values, dict) and values:
        name = chance.choice(list(values))
        if chance.random() < 0.2:
            return {key: value for key, value in values.items() if key != name}
        if chance.random() < 0.1:
            return values | {chance.choice(WORDS): 1}
        return values | {name: _put_values(values[name], chance)}
    if isinstance(values, list) and values and chance.random() < 0.7:
        place = chance.randrange(len(values))
        return [*values[:place], _put_values(values[place], chance), *values[place + 1 :]]
    return chance.choice(_VALUES)


def _damage_file(path: Path, chance: random.Random) -> None:
    """Change a file at random; JSON gets a new seal in half of the cases."""
    content, changed_ns = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o600)
    _write_damaged(path, content, chance)
    # The time of a lock tells whether it is free.
    os.utime(path, ns=(changed_ns, changed_ns))


def _write_damaged(path: Path, content: bytes, chance: random.Random) -> None:
    if path.suffix in (".json", ".jsonl") and chance.random() < 0.5:
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        changed = []
        for line in lines:
            values = {name: value for name, value in json.loads(line).items() if name != "sha256"}
            for _ in range(chance.choice((1, 1, 2, 5))):
                values = _put_values(values, chance)
            changed.append(values if isinstance(values, dict) else {})
        try:
            if path.suffix == ".json":
                write_sealed_json(path, changed[0])
            else:
                path.write_text("".join(sealed_line(values) + "\n" for values in changed))
        except (ValueError, UnicodeEncodeError):
            path.write_bytes(damage(content, chance))
    elif path.suffix in (".json", ".jsonl", ".md", ".csv", ".sh", ".txt") and chance.random() < 0.4:
        path.write_bytes(damage_text(content.decode(), chance).encode("utf-8", errors="replace"))
    else:
        # The footer of a Parquet file, where its structure is, is at its end.
        turned = path.suffix == ".parquet" and chance.random() < 0.7
        path.write_bytes(damage(content[::-1], chance)[::-1] if turned else damage(content, chance))


@cache
def _whole_run() -> Path:
    """Make the run of which copies are damaged, once per process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-runs-"))
    write_tiny_model(folder / "tiny.safetensors")
    run = write_whole_run(folder, folder / "tiny.safetensors")
    # Workers of its own would take a task seconds to start.
    task.open_engine = lambda _: nullcontext(SerialEngine())  # type: ignore[assignment]
    # A SLURM that is not running would be waited for.
    os.environ["PATH"] = f"{folder / 'slurm'}{os.pathsep}{os.environ['PATH']}"
    return run


def damage_run(
    kind: str, whole: Path, folder: Path, chance: random.Random, *, commands: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """Copy a run with one file damaged, and return a command that reads the file.

    Args:
        kind: The kind of the file.
        whole: The undamaged run, with its manifest and weights beside it.
        folder: An empty folder.
        chance: Chooses the file, the damage and the command.
        commands: The commands to choose from.
    """
    run = Path(shutil.copytree(whole, folder / "run"))
    files = sorted({path for pattern in _FILES[kind] for path in run.glob(pattern) if path.is_file()})
    _damage_file(chance.choice(files), chance)
    command = chance.choice(commands)
    if command[0] == "compare":
        return (*command, str(whole.parent / "fields.csv"), "--run", str(run))
    if command[0] == "infer":
        cohort = ("--manifest", str(whole.parent / "cohort.csv"), "--out", str(run))
        return (*command, *cohort, "--model", str(whole.parent / "tiny.safetensors"), "--dry-run")
    return (*command, "--run", str(run))


def make_weights(folder: Path, chance: random.Random) -> tuple[str, ...]:
    """Damage a weights file, most of it in its header, and load it."""
    whole = _whole_run()
    content = (whole.parent / "tiny.safetensors").read_bytes()
    weights = folder / "tiny.safetensors"
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if chance.random() < 0.6:
        card = json.loads(header["__metadata__"]["cmnet"]) if "cmnet" in header["__metadata__"] else {}
        if card and chance.random() < 0.8:
            header["__metadata__"]["cmnet"] = json.dumps(_put_values(card, chance))
        else:
            header = _put_values(header, chance)
        text = json.dumps(header).encode("utf-8", errors="replace")
        content = len(text).to_bytes(8, "little") + text + content[8 + length :]
    else:
        content = damage(content, chance)
    weights.write_bytes(content)
    if chance.random() < 0.3:
        return ("models", "info", str(weights))
    cohort = ("--manifest", str(whole.parent / "cohort.csv"), "--out", str(folder / "run"))
    return ("infer", *cohort, "--model", str(weights), "--dry-run")


def _maker(kind: str) -> Callable[[Path, random.Random], tuple[str, ...]]:
    return lambda folder, chance: damage_run(kind, _whole_run(), folder, chance, commands=_COMMANDS[kind])


KINDS: dict[str, Callable[[Path, random.Random], tuple[str, ...]]] = {
    **{kind: _maker(kind) for kind in _FILES},
    "weights": make_weights,
}
