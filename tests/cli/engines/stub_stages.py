"""Small stages, and cases that are only a number, for tests of the engines."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmnet_core.errors import ErrorCode, ImageError


@dataclass(frozen=True)
class Numbered:
    number: int

    @property
    def case_id(self) -> str:
        return f"sub-{9900000 + self.number}"


@dataclass(frozen=True)
class Doubling:
    """Doubles a number; 2 is bad input, 3 is a defect, 4 ends its process."""

    name: str = "doubling"

    def open(self) -> Callable[[Numbered], int]:
        return _double


def _double(case: Numbered) -> int:
    if case.number == 2:
        raise ImageError("Two is even.", hint="Give one.", code=ErrorCode.IMAGE_VALUES)
    if case.number == 3:
        raise ZeroDivisionError("three")
    if case.number == 4:
        os._exit(9)
    return 2 * case.number


@dataclass(frozen=True)
class Sleeping:
    """Creates a file that is named by its process id, and then sleeps."""

    folder: Path
    name: str = "sleeping"

    def open(self) -> Callable[[Numbered], None]:
        return self._sleep

    def _sleep(self, _: Numbered) -> None:
        (self.folder / str(os.getpid())).touch()
        time.sleep(60)
