"""What a person sees: progress, results and errors. Results go to standard output, all else to standard error."""

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
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier, redact_ids
from cmnet_core.errors import CmnetError

# Escape sequences begin with one of the first; the last turn the direction of writing round.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# A plain log gets a line at most this often, so that 100,000 subjects do not make 100,000 lines.
_LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Messages:
    """Where a command prints and how much.

    Attributes:
        quiet: Errors only.
        verbose: A line a subject.
        deidentifier: What may be told of whom.
        results: Standard output.
        notes: Standard error.
    """

    quiet: bool = False
    verbose: bool = False
    deidentifier: Deidentifier = field(default_factory=lambda: open_deidentifier(None, share_safe=False))
    results: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def note(self, text: str) -> None:
        """Say something in passing."""
        if not self.quiet:
            self.notes.print(self._fit(text), markup=False)

    def detail(self, text: str) -> None:
        """Say something that only some want to know."""
        if self.verbose:
            self.note(text)

    def result(self, text: str) -> None:
        """Print what the command was run for."""
        if not self.quiet:
            self.results.print(self._fit(text), markup=False)

    def data(self, text: str) -> None:
        """Print what a script reads, as it is: to lay out 100,000 rows takes longer than to find them."""
        if not self.quiet:
            self.results.file.write(text + "\n")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table as a result; the first column is left, all others right."""
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        if not self.quiet:
            self.results.print(table)

    def listing(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table of texts as a result: folded into a terminal's width, one line a row elsewhere."""
        if self.results.is_terminal:
            table = Table(box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(escape(self._fit(cell)) for cell in row))
            if not self.quiet:
                self.results.print(table)
            return
        rows = [tuple(map(self._fit, row)) for row in rows]
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            self.result("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def error(self, error: CmnetError) -> None:
        """Print an error and what to do about it."""
        self.notes.print(f"[bold red]Error[/] [dim]({error.code})[/]", highlight=False)
        self.notes.print(self._fit(redact_ids(error.message)), markup=False)
        self.notes.print(self._fit(error.hint), markup=False)

    def failure(self, who: str, message: str, hint: str) -> None:
        """Name a subject that failed, and what to do about it."""
        self.notes.print(f"[red]{who}[/]")
        for text in filter(None, (redact_ids(message), hint)):
            self.notes.print(indent(self._fit(text), "    "), markup=False)

    def _fit(self, text: str) -> str:
        """A text fit for whoever looks: names from files can hold codes that move a terminal's cursor."""
        return self.deidentifier.text(_CONTROLS.sub("?", text))


class Ticker(Protocol):
    """Counts what is done."""

    def tick(self, *, failed: bool) -> None:
        """One more is done."""
        ...

    def part(self, share: float) -> None:
        """A share of the next one is done."""
        ...


class _Bar:
    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, failed="", rate="")
        self._failed = 0
        self._done = 0
        self._started = time.monotonic()

    def part(self, share: float) -> None:
        self._progress.update(self._task, completed=self._done + share)

    def tick(self, *, failed: bool) -> None:
        self._failed += failed
        self._done += 1
        told = f"[red]{self._failed} failed[/]" if self._failed else ""
        rate = f"{60 * self._done / (time.monotonic() - self._started):.1f}/min"
        self._progress.update(self._task, completed=self._done, failed=told, rate=rate)


class _Lines:
    def __init__(self, messages: Messages, title: str, total: int) -> None:
        self._screen, self._title, self._total = messages, title, total
        self._failed = 0
        self._done = 0
        self._started = self._said = time.monotonic()

    def part(self, share: float) -> None:
        pass

    def tick(self, *, failed: bool) -> None:
        self._failed += failed
        self._done += 1
        now = time.monotonic()
        if now - self._said < _LINE_EVERY_S and self._done < self._total:
            return
        self._said = now
        spent = now - self._started
        left = spent / self._done * (self._total - self._done)
        self._screen.note(
            f"{self._title}: {self._done} of {self._total}, {self._failed} failed, "
            f"{60 * self._done / max(spent, 1e-9):.1f}/min, {left:.0f} s left"
        )


class _Silence:
    def part(self, share: float) -> None:
        pass

    def tick(self, *, failed: bool) -> None:
        del failed


@contextmanager
def progress(messages: Messages, title: str, *, total: int) -> Iterator[Ticker]:
    """Show how far a long job is: a bar on a terminal, plain lines elsewhere, nothing when quiet."""
    if messages.quiet:
        yield _Silence()
    elif not messages.notes.is_terminal:
        yield _Lines(messages, title, total)
    else:
        with Progress(*_COLUMNS, console=messages.notes) as bar:
            yield _Bar(bar, title, total)


class LiveTable(Protocol):
    """A table that grows while a long job runs, with the job's progress below it."""

    def row(self, cells: Mapping[str, str], line: str) -> None:
        """One more is done: its cells by column where a table is drawn, else the line."""
        ...

    def part(self, share: float) -> None:
        """A share of the next one is done."""
        ...


class _LiveBoard:
    def __init__(self, live: Live, bar: Progress, title: str, total: int) -> None:
        self._live, self._progress = live, bar
        self._bar = _Bar(bar, title, total)
        self._rows: list[Mapping[str, str]] = []

    def part(self, share: float) -> None:
        self._bar.part(share)

    def row(self, cells: Mapping[str, str], line: str) -> None:
        del line
        self._rows.append(cells)
        self._bar.tick(failed=False)
        # A table longer than the terminal could not be redrawn in place.
        shown = self._rows[-max(self._live.console.height - 6, 5) :]
        table = Table(box=box.SIMPLE_HEAD)
        for name in cells:
            table.add_column(name, justify="right")
        for known in shown:
            table.add_row(*(known.get(name, "") for name in cells))
        self._live.update(Group(table, self._progress), refresh=True)


class _LineBoard:
    def __init__(self, messages: Messages, title: str, total: int) -> None:
        self._screen = messages
        self._ticker = _Lines(messages, title, total)

    def part(self, share: float) -> None:
        pass

    def row(self, cells: Mapping[str, str], line: str) -> None:
        del cells
        self._screen.note(line)
        self._ticker.tick(failed=False)


class _SilentBoard:
    def part(self, share: float) -> None:
        pass

    def row(self, cells: Mapping[str, str], line: str) -> None:
        pass


@contextmanager
def live_table(messages: Messages, title: str, *, total: int) -> Iterator[LiveTable]:
    """Show what a long job finds: a live table on a terminal, plain lines elsewhere, nothing when quiet."""
    if messages.quiet:
        yield _SilentBoard()
    elif not messages.notes.is_terminal:
        yield _LineBoard(messages, title, total)
    else:
        bar = Progress(*_COLUMNS, console=messages.notes)
        with Live(bar, console=messages.notes) as live:
            yield _LiveBoard(live, bar, title, total)


_COLUMNS = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[rate]}"),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
    TextColumn("{task.fields[failed]}"),
)
