"""The exit codes of the command line."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. Code 1, a defect, and code 2, wrong usage, are Python's and Typer's own."""

    SUCCESS = 0
    BAD_INPUT = 3
    """The input, the settings or the run folder cannot be used; nothing was processed."""
    SOME_FAILED = 4
    """Some subjects failed or were left out; all others are finished."""
    INTERRUPTED = 130
    """The command ended early; the same command continues."""
