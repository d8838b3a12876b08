"""Stages that end their process, exhaust its memory or never return, as a decoder may do on a damaged image."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import InferConfig
from cmnet_cli.runs.provenance import Expected
from cmnet_cli.stages.infer import InferStage


@dataclass(frozen=True)
class CrashingStage:
    """Replaces the stage infer: it ends its process on subjects whose id ends in 2."""

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    name: str = "infer"

    def open(self) -> Callable[[Case], str]:
        return _crash_on_the_second

    def expected(self, case: Case) -> Expected:
        return Expected(case.image, "", "")


def _crash_on_the_second(case: Case) -> str:
    if case.subject_id.endswith("2"):
        os._exit(9)
    return case.case_id


@dataclass(frozen=True)
class ProcessEndingStage:
    """The stage infer, but three subjects crash, exhaust memory or never return, which raises no exception."""

    inner: InferStage
    crash: str
    hog: str
    hang: str
    name: str = "infer"

    def open(self) -> Callable[[Case], str]:
        run = self.inner.open()

        def decode_and_run(case: Case) -> str:
            self._decode(case.subject_id)
            return run(case)

        return decode_and_run

    @property
    def root(self) -> Path:
        return self.inner.root

    @property
    def config(self) -> InferConfig:
        return self.inner.config

    @property
    def model_digest(self) -> str:
        return self.inner.model_digest

    def expected(self, case: Case) -> Expected:
        return self.inner.expected(case)

    def _decode(self, subject: str) -> None:
        if subject == self.crash:
            os._exit(11)
        while subject == self.hang:
            time.sleep(60)
        allocated = []
        while subject == self.hog:
            allocated.append(b"x" * 10_000_000)
