"""The commands that look at a run and change nothing: status and verify."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.commands.opening import open_run
from cmnet_cli.ledger import read_attempts, status_rows
from cmnet_cli.screen import Screen
from cmnet_cli.sidecar import State, damaged_outputs, read_sidecar
from cmnet_cli.stages import infer, preprocess
from cmnet_cli.tables import to_json

_SHOWN = 20


def show_status(run: Path, screen: Screen, *, as_json: bool) -> None:
    """Print who is done, failed or pending.

    Raises:
        ManifestError: There is no such run.
    """
    opened = open_run(run)
    judged = {
        case.case_id: (State.DONE, "")
        if opened.folder.case(case.case_id).sidecar(infer.NAME).exists()
        else (State.PENDING, "infer has not finished")
        for case in opened.cases
    }
    rows = status_rows(opened.cases, read_attempts(opened.folder.all_outcomes), judged)
    if as_json:
        screen.result(to_json(rows))
        return
    counts = Counter(row["state"] for row in rows)
    screen.result(", ".join(f"{counts[state]} {state}" for state in State if counts[state]))
    failed = [row for row in rows if row["state"] == State.FAILED]
    for row in failed[:_SHOWN]:
        screen.result(f"{row['case_id']} ({row['stage']}, {row['error_code']}): {row['message']} {row['hint']}")


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found when every checksum of a run was computed again.

    Attributes:
        checked: Sidecars whose outputs were looked at.
        damaged: Output files that are damaged or gone, with their stage.
    """

    checked: int
    damaged: tuple[str, ...]


def verify_run(run: Path, screen: Screen) -> Verification:
    """Compute every checksum of a run again and print what is damaged or gone.

    Raises:
        ManifestError: There is no such run.
    """
    opened = open_run(run)
    checked, damaged = 0, []
    for case in opened.cases:
        folder = opened.folder.case(case.case_id)
        for stage in (preprocess.NAME, infer.NAME):
            sidecar = read_sidecar(folder.sidecar(stage))
            if sidecar is not None:
                checked += 1
                damaged += [str(folder.folder / name) for name in damaged_outputs(folder.sidecar(stage), sidecar)]
    for path in damaged:
        screen.result(f"damaged or gone: {path}")
    screen.result(f"{checked} sidecars checked, {len(damaged)} files damaged or gone")
    return Verification(checked, tuple(damaged))
