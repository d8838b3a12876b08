"""Messages to the user: results on standard output; progress, notes and errors on standard error."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import indent
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier, redact_ids
from cmnet_cli.time_left import TimeLeft
from cmnet_core.errors import CmnetError

# Control characters, with which escape sequences start, and characters that reverse the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Minimum time between two lines of a plain log, so that 100,000 subjects do not give 100,000 lines.
_LINE_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Messages:
    """Where a command prints, and how much.

    Attributes:
        quiet: Print errors only.
        verbose: Print a line per subject.
        deidentifier: Replaces ids in the text, if the text must be share-safe.
        results: Console of results, standard output.
        notes: Console of notes, progress and errors, standard error.
    """

    quiet: bool = False
    verbose: bool = False
    deidentifier: Deidentifier = field(default_factory=lambda: open_deidentifier(None, share_safe=False))
    results: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def note(self, text: str) -> None:
        """Print a remark, unless quiet."""
        if not self.quiet:
            self.notes.print(self._safe(text), markup=False)

    def detail(self, text: str) -> None:
        """Print a remark if verbose."""
        if self.verbose:
            self.note(text)

    def result(self, text: str) -> None:
        """Print a result."""
        if not self.quiet:
            self.results.print(self._safe(text), markup=False)

    def data(self, text: str) -> None:
        """Print text for scripts unchanged: Rich would need longer to lay out 100,000 rows than to compute them."""
        if not self.quiet:
            self.results.file.write(text + "\n")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table of numbers as a result; the first column is aligned left, all others right."""
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        if not self.quiet:
            self.results.print(table)

    def listing(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of text as a result: folded to the width of a terminal, elsewhere one line per row."""
        if self.results.is_terminal:
            table = Table(box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(escape(self._safe(cell)) for cell in row))
            if not self.quiet:
                self.results.print(table)
            return
        rows = [tuple(map(self._safe, row)) for row in rows]
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            self.result("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def error(self, error: CmnetError) -> None:
        """Print an error and what the user can do about it."""
        self.notes.print(f"[bold red]Error[/] [dim]({error.code})[/]", highlight=False)
        self.notes.print(self._safe(redact_ids(error.message)), markup=False)
        self.notes.print(self._safe(error.hint), markup=False)

    def failure(self, row: str, message: str, hint: str) -> None:
        """Print why a subject failed, by its row of the manifest, and what the user can do about it."""
        self.notes.print(f"[red]{row}[/]")
        for text in filter(None, (redact_ids(message), hint)):
            self.notes.print(indent(self._safe(text), "    "), markup=False)

    def _safe(self, text: str) -> str:
        """Return a text without the characters that cannot be printed, and without ids if required.

        Names of files can contain control characters, and damaged files halves of characters (surrogates).
        """
        return self.deidentifier.text(_CONTROLS.sub("?", text).encode("utf-8", "replace").decode())


class Ticker(Protocol):
    """The progress of a long job."""

    def begin(self) -> None:
        """Count one more item as begun; needed only where several are processed at the same time."""
        ...

    def tick(self, *, failed: bool, size: float = 0.0, seconds: float = 0.0) -> None:
        """Count one more item as done, of this size, which took some seconds."""
        ...

    def advance(self, fraction: float) -> None:
        """Show a fraction of the current item as done."""
        ...


def format_duration(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class _RemainingColumn(ProgressColumn):
    """The remaining time. Rich's own column takes all items for alike, and only those of the last half minute."""

    def render(self, task: Task) -> Text:
        left = task.fields["time_left"].seconds(task.completed % 1)
        known = left is not None and not task.finished
        return Text(f"{format_duration(left)} remaining" if known else "", style="progress.remaining")


class _ProgressBar:
    def __init__(self, progress: Progress, title: str, time_left: TimeLeft, total: int) -> None:
        self._progress = progress
        self._time_left = time_left
        self._task = progress.add_task(title, total=total, failed="", rate="", time_left=time_left)
        self._failed = 0

    def begin(self) -> None:
        self._time_left.begin()

    def advance(self, fraction: float) -> None:
        self._progress.update(self._task, completed=self._time_left.done + fraction)

    def tick(self, *, failed: bool, size: float = 0.0, seconds: float = 0.0) -> None:
        self._failed += failed
        self._time_left.tick(size, seconds)
        failed_text = f"[red]{self._failed} failed[/]" if self._failed else ""
        rate = f"{self._time_left.per_minute:.1f}/min"
        self._progress.update(self._task, completed=self._time_left.done, failed=failed_text, rate=rate)


class _PlainProgress:
    def __init__(self, messages: Messages, title: str, time_left: TimeLeft, total: int) -> None:
        self._messages, self._title, self._total = messages, title, total
        self._time_left = time_left
        self._failed = 0
        self._printed = time.monotonic()

    def begin(self) -> None:
        self._time_left.begin()

    def advance(self, fraction: float) -> None:
        pass

    def tick(self, *, failed: bool, size: float = 0.0, seconds: float = 0.0) -> None:
        self._failed += failed
        self._time_left.tick(size, seconds)
        done, now = self._time_left.done, time.monotonic()
        if now - self._printed < _LINE_INTERVAL_S and done < self._total:
            return
        self._printed = now
        self._messages.note(
            f"{self._title}: {done} of {self._total}, {self._failed} failed, {self._time_left.per_minute:.1f}/min, "
            f"{format_duration(self._time_left.seconds() or 0.0)} remaining"
        )


class _NoProgress:
    def begin(self) -> None:
        pass

    def advance(self, fraction: float) -> None:
        pass

    def tick(self, *, failed: bool, size: float = 0.0, seconds: float = 0.0) -> None:
        pass


@contextmanager
def progress(messages: Messages, title: str, *, total: int, sizes: Sequence[float] | None = None) -> Iterator[Ticker]:
    """Show the progress of a long job: a bar on a terminal, plain lines elsewhere, nothing if quiet.

    Args:
        messages: Where to print.
        title: Name of the job.
        total: Number of items.
        sizes: Sizes of the items in any unit, from which the remaining time is estimated; None if they are alike.
    """
    if messages.quiet:
        yield _NoProgress()
    elif not messages.notes.is_terminal:
        yield _PlainProgress(messages, title, TimeLeft(total, sizes), total)
    else:
        with Progress(*_COLUMNS, console=messages.notes) as bar:
            yield _ProgressBar(bar, title, TimeLeft(total, sizes), total)


class LiveTable(Protocol):
    """A table that grows while a long job runs, above the progress of the job."""

    def add(self, cells: Mapping[str, str], line: str) -> None:
        """Count one more item as done: add its cells to the table or, where there is none, print the line."""
        ...

    def advance(self, fraction: float) -> None:
        """Show a fraction of the current item as done."""
        ...


class _TerminalTable:
    def __init__(self, live: Live, bar: Progress, title: str, total: int) -> None:
        self._live, self._progress = live, bar
        self._bar = _ProgressBar(bar, title, TimeLeft(total), total)
        self._rows: list[Mapping[str, str]] = []

    def advance(self, fraction: float) -> None:
        self._bar.advance(fraction)

    def add(self, cells: Mapping[str, str], line: str) -> None:
        del line
        self._rows.append(cells)
        self._bar.tick(failed=False)
        # A table longer than the terminal could not be redrawn in place.
        shown = self._rows[-max(self._live.console.height - 6, 5) :]
        table = Table(box=box.SIMPLE_HEAD)
        for name in cells:
            table.add_column(name, justify="right")
        for row in shown:
            table.add_row(*(row.get(name, "") for name in cells))
        self._live.update(Group(table, self._progress), refresh=True)


class _PlainTable:
    def __init__(self, messages: Messages, title: str, total: int) -> None:
        self._messages = messages
        self._ticker = _PlainProgress(messages, title, TimeLeft(total), total)

    def advance(self, fraction: float) -> None:
        pass

    def add(self, cells: Mapping[str, str], line: str) -> None:
        del cells
        self._messages.note(line)
        self._ticker.tick(failed=False)


class _NoTable:
    def advance(self, fraction: float) -> None:
        pass

    def add(self, cells: Mapping[str, str], line: str) -> None:
        pass


@contextmanager
def live_table(messages: Messages, title: str, *, total: int) -> Iterator[LiveTable]:
    """Show the results of a long job as they come: a table on a terminal, plain lines elsewhere, nothing if quiet.

    Args:
        messages: Where to print.
        title: Name of the job.
        total: Number of rows.
    """
    if messages.quiet:
        yield _NoTable()
    elif not messages.notes.is_terminal:
        yield _PlainTable(messages, title, total)
    else:
        bar = Progress(*_COLUMNS, console=messages.notes)
        with Live(bar, console=messages.notes) as live:
            yield _TerminalTable(live, bar, title, total)


_COLUMNS = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[rate]}"),
    TimeElapsedColumn(),
    _RemainingColumn(),
    TextColumn("{task.fields[failed]}"),
)
