"""Stages that do to their process what damaged images do to decoders: end it, fill its memory, never return."""

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
class DeadlyStage:
    """Stands in for the stage of infer."""

    root: Path
    config: InferConfig
    device: str
    model_digest: str
    name: str = "infer"

    def open(self) -> Callable[[Case], str]:
        return _die_on_the_second

    def expected(self, case: Case) -> Expected:
        return Expected(case.image, "", "")


def _die_on_the_second(case: Case) -> str:
    if case.subject_id.endswith("2"):
        os._exit(9)
    return case.case_id


@dataclass(frozen=True)
class TreacherousStage:
    """Infer as it is, but for some subjects whose decoding goes wrong in ways that no exception tells of."""

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
    def model_digest(self) -> str:
        return self.inner.model_digest

    def expected(self, case: Case) -> Expected:
        return self.inner.expected(case)

    def _decode(self, subject: str) -> None:
        if subject == self.crash:
            os._exit(11)
        while subject == self.hang:
            time.sleep(60)
        taken = []
        while subject == self.hog:
            taken.append(b"x" * 10_000_000)
