"""What a correction changed: label maps of every frame and every measured index, automatic and corrected."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.correction import current_results, read_correction
from cmnet_cli.derivatives.tracking import advise_repair, open_tracking
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.evaluate import NAME
from cmnet_cli.stages.indices import identity_columns, indices_case
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.function.volumes import volumes_ml
from cmnet_core.labels import Label
from cmnet_core.stats.metrics import dice_pct

Row = dict[str, Any]

_STRUCTURES = (Label.LV, Label.MYO, Label.RV)
_MEASURED = tuple(column.name for column in DECLARED["indices"] if column.interval)


@dataclass(frozen=True, slots=True)
class CorrectionChanges:
    """The rows that one corrected case adds to the tables about corrections."""

    overlaps: tuple[Row, ...]
    indices: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class CorrectionChangesStage:
    """Compare the automatic and the corrected results of every corrected case."""

    root: Path
    name: str = NAME

    def open(self) -> Callable[[Case], CorrectionChanges]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)

        def changes_of(case: Case) -> CorrectionChanges:
            with advise_repair(run):
                return correction_changes(case, run)

        return changes_of


def correction_changes(case: Case, run: RunFolder) -> CorrectionChanges:
    """Compare the automatic and the corrected results of one case.

    Args:
        case: The case, which has a correction.
        run: The run folder.

    Raises:
        CaseError: Stored results are damaged, or the correction was made from other automatic results.
    """
    folder = run.case(case.case_id)
    corrected_folder, correction = current_results(folder), read_correction(folder)
    edited = correction.frames if correction else ()
    automatic, corrected = open_tracking(folder), open_tracking(corrected_folder)
    identity = identity_columns(case)
    overlaps = []
    for frame in range(automatic.facts.frames):
        before, after = automatic.segmented[frame], corrected.segmented[frame]
        volumes = [volumes_ml(maps[None], automatic.spacing) for maps in (before, after)]
        for label in _STRUCTURES:
            name = label.name.lower()
            old, new = (float(getattr(of_maps, f"{name}_ml")[0]) for of_maps in volumes)
            row = {"frame": frame, "edited": int(frame in edited), "structure": name}
            row |= {"dsc_pct": dice_pct(before, after, label), "automatic_ml": old, "corrected_ml": new}
            overlaps.append(identity | row)
    no_draws = SamplingSettings(0, 0)
    old_row, new_row = (
        indices_case(case, item, reference=(), draws=no_draws).indices for item in (folder, corrected_folder)
    )
    indices = [
        identity | {"index": name, "automatic": old_row.get(name), "corrected": new_row.get(name)}
        for name in _MEASURED
        if old_row.get(name) is not None or new_row.get(name) is not None
    ]
    return CorrectionChanges(tuple(overlaps), tuple(indices))
