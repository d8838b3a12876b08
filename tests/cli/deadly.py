"""A stage that ends its process on the second subject, as a crash in foreign code would."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cases import Case
from cmnet_cli.config import InferConfig
from cmnet_cli.sidecar import Expected


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
