"""A run with every kind of file, on which tests try what damage does."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from cmnet_cli.commands.array_jobs import task
from cmnet_cli.engines.serial import SerialEngine
from tests.cli.commanding import cmnet
from tests.cli.slurm.fake_slurm import install_fake_slurm
from tests.phantoms import write_cohort, write_edited_mask


def write_whole_run(folder: Path, model: Path) -> Path:
    """Write a cohort of two subjects, of which one has no usable image, and a run of all commands on it.

    Args:
        folder: An empty folder; the manifest is ``cohort.csv`` in it.
        model: The weights.

    Returns:
        The run folder.
    """
    manifest, run = write_cohort(folder, 2, frames=2), folder / "run"
    write_edited_mask(folder)
    (folder / "9900002.nii.gz").write_bytes(b"no image")
    (folder / "fields.csv").write_text("eid,p24103_i2\n9900001,50\n")
    with pytest.MonkeyPatch.context() as patched:
        install_fake_slurm(folder / "slurm", patched)
        patched.setattr(task, "open_engine", lambda _: nullcontext(SerialEngine()))
        _run(0, "submit", "preprocess", "-m", manifest, "-o", run, "--chunk", 1)
        for shard, code in enumerate((0, 4)):
            _run(code, "task", "--run", run, "--submission", "00001", "--shard", shard)
    (run / "logs" / "slurm" / "00001_array_1000_0.log").write_text("written by SLURM\n")
    for command, code in commands_of(folder, run, model):
        _run(code, *command)
    return run


def commands_of(folder: Path, run: Path, model: Path) -> list[tuple[tuple[object, ...], int]]:
    """Return the commands of a run after its submission, with their exit codes."""
    return [
        (("infer", "-m", folder / "cohort.csv", "-o", run, "--model", model), 4),
        (("indices", "-r", run, "--samples", 2), 4),
        (("correct", "-r", run, "--masks", folder / "masks"), 0),
        (("evaluate", "-r", run), 4),
        (("compare", "-r", run, "--against", folder / "fields.csv", "--on", "eid"), 0),
        (("report", "-r", run, "--figures", "svg"), 0),
        (("report", "-r", run, "--share-safe"), 0),
    ]


def _run(code: int, *arguments: object) -> None:
    ran = cmnet(*arguments)
    assert ran.exit_code == code, ran.output
