"""The command verify: it looks at every file of a run and changes nothing."""

from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import CohortStage
from cmnet_cli.runs.provenance import damaged_outputs, read_sidecar
from cmnet_cli.runs.run_folder import open_run


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found when every checksum of a run was computed again.

    Attributes:
        checked: Sidecars whose outputs were looked at.
        damaged: Output files that are damaged or gone, with their stage.
    """

    checked: int
    damaged: tuple[str, ...]


def verify_run(run: Path, messages: Messages) -> Verification:
    """Compute every checksum of a run again and print what is damaged or gone.

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
        messages.result(f"damaged or gone: {path}")
    messages.result(f"{checked} sidecars checked, {len(damaged)} files damaged or gone")
    return Verification(checked, tuple(damaged))
