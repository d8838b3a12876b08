"""The command verify: it checks the digest of every file of a run and changes nothing."""

from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import CohortStage
from cmnet_cli.runs.provenance import damaged_outputs, read_sidecar
from cmnet_cli.runs.run_folder import open_run


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of all digests of a run found.

    Attributes:
        checked: Number of sidecars whose outputs were checked.
        damaged: Paths of the output files that are damaged or missing.
    """

    checked: int
    damaged: tuple[str, ...]


def verify_run(run: Path, messages: Messages) -> Verification:
    """Compute every digest of a run again, and list the files that are damaged or missing.

    Raises:
        ManifestError: There is no such run.
    """
    opened = open_run(run)
    checked, damaged = 0, []
    for case in opened.cases:
        folder = opened.folder.case(case.case_id)
        for stage in (CohortStage.PREPROCESS, CohortStage.INFER):
            sidecar = read_sidecar(folder.sidecar(stage))
            if sidecar is not None:
                checked += 1
                damaged += [str(folder.folder / name) for name in damaged_outputs(folder.sidecar(stage), sidecar)]
    for path in damaged:
        messages.result(f"damaged or missing: {path}")
    messages.result(f"{checked} sidecars checked, {len(damaged)} files damaged or missing")
    return Verification(checked, tuple(damaged))
