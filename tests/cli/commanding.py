"""Running cmnet as a user would, within the test's own process."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import Result
from typer.testing import CliRunner

from cmnet_cli.app import app
from cmnet_cli.cohort.case import Problem
from cmnet_cli.commands.validate import check_cohort
from cmnet_cli.console import Messages

ROOT = Path(__file__).parents[2]
_AN_ID = re.compile(r"(?<![0-9A-Za-z])99\d{5}(?![0-9A-Za-z])")


def command(*arguments: object) -> list[str]:
    """The words that run a command in a process of its own, in ``ROOT``."""
    return [sys.executable, "-m", "cmnet_cli", *(str(argument) for argument in arguments)]


def cmnet(*arguments: object) -> Result:
    """Run a command; its exit code and all that it printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    # A defect must show its traceback in the test's report, not hide behind exit code 1.
    if result.exit_code == 1 and result.exception is not None:
        raise result.exception
    return result


def rows(run: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a table of a run."""
    return list(pq.read_table(run / "tables" / f"{table}.parquet").to_pylist())


def column(run: Path, table: str, name: str) -> list[Any]:
    """One column of a table of a run."""
    return [row[name] for row in rows(run, table)]


def traceback_of(run: Path, subject: str) -> str:
    """What the logs hold of a subject that failed."""
    [row] = [row for row in rows(run, "status") if row["subject_id"] == subject]
    return (run / "logs" / row["log"]).read_text()


def named_in_logs(run: Path) -> list[str]:
    """Every log that names a subject of the tests, by its own name or in its text."""
    texts = {str(path.relative_to(run)): path.read_text() for path in finals(run / "logs")}
    return [name for name, text in texts.items() if _AN_ID.search(name + text)]


def finals(folder: Path) -> Sequence[Path]:
    """Every file of a folder, by whatever name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def errors_of(manifest: Path, *, deep: bool) -> list[Problem]:
    """What validate finds that keeps a row from being used."""
    return [problem for problem in check_cohort(manifest, Messages(quiet=True), deep=deep)[0] if not problem.warning]
